"""trading.platform.unit: what is stale, and which actions follow."""

from __future__ import annotations

import datetime
import os
from types import SimpleNamespace

import pytest

RUNNING = {
    "Id": "redis-server.service",
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Type": "notify",
    "UnitFileState": "enabled",
    "NeedDaemonReload": "no",
    "FragmentPath": "",
    "DropInPaths": "",
    "CanReload": "yes",
    "InvocationID": "f00d",
    "ExecMainStartTimestamp": "Fri 2026-11-20 23:58:21.500000 UTC",
    "InactiveExitTimestamp": "Fri 2026-11-20 23:58:20.000000 UTC",
    "ActiveEnterTimestamp": "Fri 2026-11-20 23:58:23.000000 UTC",
}
STARTED = 1795219101_500000_000
ASKED = {
    "name": ["redis-server"],
    "units": None,
    "state": "started",
    "enabled": True,
    "masked": None,
    "restarted_by": [],
    "reloaded_by": [],
    "timeout": 5,
}


@pytest.fixture
def converger(unit, tmp_path, monkeypatch):
    """A converger over a fake systemd; `.calls` are the systemctl calls that change something."""
    monkeypatch.setattr(unit, "RECORDS", str(tmp_path / "records"))
    monkeypatch.setattr(unit, "UNIT_DIRECTORIES", ())  # this machine's own units are not the test's
    monkeypatch.setattr(unit.time, "sleep", lambda _: None)

    def make(shown=RUNNING, check_mode=False, **asked):
        made = unit.Converger(SimpleNamespace(params={**ASKED, **asked}, check_mode=check_mode))
        made.calls = []
        made.shown = dict(shown)

        def systemctl(*arguments):
            if arguments[0] == "show":
                return "\n".join(f"{key}={value}" for key, value in made.shown.items()) + "\n"
            made.calls.append(" ".join(arguments))
            if arguments[0] in ("start", "restart"):
                made.shown.update(ActiveState="active", InvocationID="beef")
            return ""

        made.systemctl = systemctl
        return made

    return make


def started_before(path, shown):
    """Properties of a unit that started a second before the path last changed."""
    return started_at(os.lstat(path).st_ctime_ns - 10**9, shown)


def started_after(path, shown):
    return started_at(os.lstat(path).st_ctime_ns + 10**9, shown)


def started_at(nanoseconds, shown):
    moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC)
    return {**shown, "ExecMainStartTimestamp": moment.strftime("%a %Y-%m-%d %H:%M:%S.%f UTC")}


def replace(path, text):
    """New content by rename, as Ansible writes files: another inode even within one tick of the clock."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_nanoseconds_of_a_timestamp_keeps_microseconds(unit):
    assert unit.nanoseconds("Fri 2026-11-20 23:58:21.500000 UTC") == STARTED


@pytest.mark.parametrize("never", ["", "n/a", "0"])
def test_nanoseconds_of_no_timestamp_is_zero(unit, never):
    assert unit.nanoseconds(never) == 0


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("redis", "redis.service"),
        ("postgresql@15-main", "postgresql@15-main.service"),
        ("trading-platform.target", "trading-platform.target"),
        ("backup.timer", "backup.timer"),
        ("org.example.thing", "org.example.thing.service"),
        ("timer", "timer.service"),
    ],
)
def test_full_name_when_suffix_lacks(unit, given, full):
    assert unit.full_name(given) == full


def test_start_of_a_unit_without_main_process_is_when_it_left_inactive(unit):
    timer = {**RUNNING, "ExecMainStartTimestamp": ""}
    assert unit.unit_from("x.timer", timer).started_at == STARTED - 1_500_000_000


def test_live_properties_are_not_unread_files(unit):
    shown = {**RUNNING, "DropInPaths": "/etc/systemd/system.control/x.d/50.conf /etc/systemd/system/x.d/a.conf"}
    assert unit.unit_from("x.service", shown).files == ["/etc/systemd/system/x.d/a.conf"]


def test_running_unit_with_read_files_is_left_alone(converger, tmp_path):
    config = tmp_path / "redis.conf"
    config.write_text("port 6379")
    made = converger(started_after(config, RUNNING), restarted_by=[str(config)])
    result = made.converge()
    assert (result["changed"], result["stale"], made.calls) == (False, False, [])


def test_file_changed_after_the_start_restarts(converger, tmp_path):
    config = tmp_path / "redis.conf"
    config.write_text("port 6379")
    made = converger(started_before(config, RUNNING), restarted_by=[str(config)])
    result = made.converge()
    assert result["units"]["redis-server.service"]["stale_because"] == [str(config)]
    assert made.calls == ["restart redis-server.service"]


def test_old_modification_time_does_not_hide_a_new_file(converger, tmp_path):
    config = tmp_path / "unpacked.conf"
    config.write_text("x")
    os.utime(config, (1_000_000_000, 1_000_000_000))
    made = converger(started_before(config, RUNNING), restarted_by=[str(config)])
    assert made.converge()["stale"]


def test_future_modification_time_does_not_restart_for_ever(converger, tmp_path):
    config = tmp_path / "unpacked.conf"
    config.write_text("x")
    os.utime(config, (4_000_000_000, 4_000_000_000))
    made = converger(started_after(config, RUNNING), restarted_by=[str(config)])
    assert not made.converge()["changed"]


def test_changed_target_of_a_link_restarts(converger, tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    shown = started_after(link, RUNNING)
    target.write_text("x")
    shown = started_before(target, shown)
    assert converger(shown, restarted_by=[str(link)]).converge()["stale"]


def test_content_behind_a_link_to_a_directory_does_not_count(unit, tmp_path):
    release = tmp_path / "release"
    release.mkdir()
    link = tmp_path / "current"
    link.symlink_to(release)
    before = unit.stamp(str(link))
    (release / "cache").write_text("x")
    assert unit.stamp(str(link)) == before


def test_file_below_a_directory_counts(unit, tmp_path):
    (tmp_path / "conf.d" / "deep").mkdir(parents=True)
    before = unit.stamp(str(tmp_path / "conf.d"))
    (tmp_path / "conf.d" / "deep" / "a.conf").write_text("x")
    assert unit.stamp(str(tmp_path / "conf.d")).identity != before.identity


def test_absent_path_is_no_reason(converger, tmp_path):
    assert not converger(RUNNING, restarted_by=[str(tmp_path / "none")]).converge()["changed"]


def test_second_run_after_a_restart_changes_nothing_even_if_the_clock_was_set_back(converger, tmp_path):
    config = tmp_path / "redis.conf"
    config.write_text("x")
    first = converger(started_before(config, RUNNING), restarted_by=[str(config)])
    first.converge()
    # The fake systemd keeps the old start time, as a clock that was set back would show it.
    second = converger(first.shown, restarted_by=[str(config)])
    assert not second.converge()["changed"]


def test_change_is_seen_although_the_clock_was_set_back(converger, tmp_path):
    config = tmp_path / "redis.conf"
    config.write_text("x")
    shown = started_after(config, RUNNING)
    converger(shown, restarted_by=[str(config)]).converge()
    replace(config, "y")  # still "before" the start by the clock
    assert converger(shown, restarted_by=[str(config)]).converge()["stale"]


def test_record_of_an_earlier_start_is_not_believed(converger, tmp_path):
    config = tmp_path / "redis.conf"
    config.write_text("x")
    converger(started_after(config, RUNNING), restarted_by=[str(config)]).converge()
    replace(config, "y")
    restarted_elsewhere = {**started_after(config, RUNNING), "InvocationID": "cafe"}
    assert not converger(restarted_elsewhere, restarted_by=[str(config)]).converge()["changed"]


def test_removed_dropin_restarts(converger, tmp_path):
    dropin = tmp_path / "limits.conf"
    dropin.write_text("[Service]")
    shown = {**started_after(dropin, RUNNING), "DropInPaths": str(dropin)}
    converger(shown).converge()
    dropin.unlink()
    made = converger({**shown, "DropInPaths": ""})
    made.converge()
    assert made.calls == ["restart redis-server.service"]


def test_reload_once_for_one_change(converger, tmp_path):
    config = tmp_path / "pgbouncer.ini"
    config.write_text("x")
    shown = started_before(config, RUNNING)
    first = converger(shown, reloaded_by=[str(config)])
    first.converge()
    second = converger(shown, reloaded_by=[str(config)])
    assert (first.calls, second.converge()["changed"]) == (["reload redis-server.service"], False)


def test_unit_that_cannot_reload_is_restarted(converger, tmp_path):
    config = tmp_path / "a.ini"
    config.write_text("x")
    made = converger({**started_before(config, RUNNING), "CanReload": "no"}, reloaded_by=[str(config)])
    made.converge()
    assert made.calls == ["restart redis-server.service"]


def test_restart_makes_the_reload_unnecessary(converger, tmp_path):
    config = tmp_path / "a.ini"
    config.write_text("x")
    made = converger(started_before(config, RUNNING), reloaded_by=[str(config)], restarted_by=[str(config)])
    made.converge()
    assert made.calls == ["restart redis-server.service"]


def test_each_unit_of_a_list_has_its_own_wishes_and_the_tasks(unit):
    entries = [
        {"name": "a", "state": "started", "enabled": True, "masked": None, "restarted_by": ["/a"], "reloaded_by": []},
        {"name": "b.timer", "state": "stopped", "enabled": None, "masked": None, "restarted_by": [], "reloaded_by": []},
    ]
    first, second = unit.wishes({**ASKED, "name": None, "units": entries, "restarted_by": ["/common"]})
    assert (first.name, first.restarted_by, first.enabled) == ("a.service", ("/common", "/a"), True)
    assert (second.name, second.state, second.restarted_by) == ("b.timer", "stopped", ("/common",))


def test_unit_named_twice_is_refused(unit):
    with pytest.raises(unit.UnitError, match=r"twice: redis\.service"):
        unit.wishes({**ASKED, "name": ["redis", "redis.service"]})


def test_stopped_unit_is_enabled_and_started(converger):
    made = converger({**RUNNING, "ActiveState": "inactive", "UnitFileState": "disabled", "InvocationID": ""})
    result = made.converge()
    assert made.calls == ["enable redis-server.service", "start redis-server.service"]
    assert result["changed"]
    assert not result["active"]


def test_failed_unit_is_reset_before_it_is_started(converger):
    made = converger({**RUNNING, "ActiveState": "failed"})
    made.converge()
    assert made.calls == ["reset-failed redis-server.service", "start redis-server.service"]


def test_stop_disable_and_mask(converger):
    made = converger(state="stopped", enabled=False, masked=True)
    made.converge()
    assert made.calls == ["stop redis-server.service", "disable redis-server.service", "mask redis-server.service"]


def test_static_unit_is_as_enabled_as_it_can_be(converger):
    assert not converger({**RUNNING, "UnitFileState": "static"}).converge()["changed"]


def test_inspection_changes_nothing_and_tells(converger, tmp_path):
    config = tmp_path / "mongod.conf"
    config.write_text("x")
    made = converger(started_before(config, RUNNING), state="inspected", restarted_by=[str(config)])
    result = made.converge()
    assert (result["changed"], result["stale"], result["active"], made.calls) == (False, True, True, [])
    assert not (tmp_path / "records").exists()


def test_check_mode_on_a_virgin_host_tells_what_it_would_do(converger):
    made = converger({"Id": "x", "LoadState": "not-found", "ActiveState": "inactive"}, check_mode=True)
    result = made.converge()
    assert result["changed"]
    assert result["units"]["redis-server.service"]["actions"] == ["enable", "start"]
    assert made.calls == []


def test_missing_unit_is_refused_by_name(converger, unit):
    with pytest.raises(unit.UnitError, match=r"redis-server\.service does not exist"):
        converger({"Id": "x", "LoadState": "not-found", "ActiveState": "inactive"}).converge()


def test_missing_unit_is_as_stopped_as_it_can_be(converger):
    shown = {"Id": "x", "LoadState": "not-found", "ActiveState": "inactive"}
    assert not converger(shown, state="stopped", enabled=False).converge()["changed"]


def test_masked_unit_is_refused_with_the_remedy(converger, unit):
    shown = {**RUNNING, "LoadState": "masked", "ActiveState": "inactive", "UnitFileState": "masked"}
    with pytest.raises(unit.UnitError, match=r"systemctl unmask redis-server\.service"):
        converger(shown).converge()


def test_unit_that_dies_after_its_start_fails_with_its_journal(converger, unit, monkeypatch):
    made = converger({**RUNNING, "ActiveState": "inactive", "Type": "simple"})
    show = made.systemctl

    def dies(*arguments):
        out = show(*arguments)
        made.shown["ActiveState"] = "failed"
        return out

    made.systemctl = dies
    monkeypatch.setattr(unit.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="bind: address in use\n"))
    with pytest.raises(unit.UnitError, match="bind: address in use"):
        made.converge()


def test_finished_oneshot_counts_as_done(converger):
    made = converger({**RUNNING, "ActiveState": "inactive", "Type": "oneshot"})
    start = made.systemctl

    def finishes(*arguments):
        out = start(*arguments)
        made.shown["ActiveState"] = "inactive"
        return out

    made.systemctl = finishes
    assert made.converge()["changed"]


@pytest.mark.parametrize(
    ("name", "directories"),
    [
        ("redis.service", ["redis.service.d", "service.d"]),
        ("trading-md.service", ["trading-md.service.d", "trading-.service.d", "service.d"]),
        ("pg@15.service", ["pg@15.service.d", "pg@.service.d", "service.d"]),
    ],
)
def test_dropins_come_from_the_units_own_template_prefix_and_type_directories(unit, name, directories):
    assert unit.dropin_directories(name) == directories


@pytest.fixture
def unit_directories(unit, tmp_path, monkeypatch):
    """An empty /etc and /lib of units."""
    directories = tmp_path / "etc", tmp_path / "lib"
    for directory in directories:
        directory.mkdir()
    monkeypatch.setattr(unit, "UNIT_DIRECTORIES", tuple(map(str, directories)))
    return directories


def test_dropin_that_systemd_overlooked_is_unread(unit, unit_directories):
    etc, lib = unit_directories
    (lib / "a.service").write_text("[Service]")
    (etc / "a.service.d").mkdir()
    (etc / "a.service.d" / "x.conf").write_text("[Unit]")
    assert unit.unread_unit_files("a.service", [str(lib / "a.service")]) == [str(etc / "a.service.d" / "x.conf")]


def test_overriding_unit_file_is_unread_and_the_overridden_is_not(unit, unit_directories):
    etc, lib = unit_directories
    for directory in (etc, lib):
        (directory / "a.service").write_text("[Service]")
    assert unit.unread_unit_files("a.service", [str(lib / "a.service")]) == [str(etc / "a.service")]
    assert unit.unread_unit_files("a.service", [str(etc / "a.service")]) == []


def test_unit_file_of_an_instance_is_its_templates(unit, unit_directories):
    _, lib = unit_directories
    (lib / "pg@.service").write_text("[Service]")
    assert unit.unread_unit_files("pg@15.service", [str(lib / "pg@.service")]) == []


def test_masked_dropin_is_not_unread(unit, unit_directories):
    etc, _ = unit_directories
    (etc / "a.service.d").mkdir()
    (etc / "a.service.d" / "x.conf").symlink_to("/dev/null")
    assert unit.unread_unit_files("a.service", []) == []


def test_unit_skipped_by_its_conditions_is_warned_of_and_changes_nothing(converger):
    skipped = {"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestamp": "Fri 2026-11-20 23:58:21 UTC"}
    made = converger({**RUNNING, **skipped, "InvocationID": ""})
    warnings = []
    made.module.warn = warnings.append
    start = made.systemctl

    def skips(*arguments):
        out = start(*arguments)
        made.shown["ActiveState"] = "inactive"
        return out

    made.systemctl = skips
    assert not made.converge()["changed"]
    assert "Condition= of its unit file" in warnings[0]


def test_change_during_the_start_is_not_taken_as_read(unit):
    before = {"/a": unit.Stamp(10, "old"), "/b": unit.Stamp(10, "same")}
    after = {"/a": unit.Stamp(50, "new"), "/b": unit.Stamp(10, "same")}
    assert unit.settled(before, after, start=40) == {"/b": "same"}
