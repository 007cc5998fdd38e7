"""What the lab decides before it touches the machine: addresses, cuts, room, names, words for the host."""

import json
import shlex
from pathlib import Path

import pytest

from lab import cli, commands, faults, inventory, network, preflight, state
from lab.report import LabError
from lab.state import Lab

HA = Lab("test", 4, "ha", "bookworm", "")
SINGLE = Lab("test", 5, "single", "bookworm", "")


def directions(lab: Lab, names: list[str], *, one_way: bool = False) -> set[str]:
    return {f"{sender.name}>{receiver.name}" for sender, receiver in faults.cuts(lab, names, one_way=one_way)}


def test_hosts_have_the_addresses_of_their_lab_number() -> None:
    assert [(host.fqdn, host.address) for host in HA.hosts] == [
        ("lab1.lab.test", "10.213.4.11"),
        ("lab2.lab.test", "10.213.4.12"),
        ("lab3.lab.test", "10.213.4.13"),
    ]
    assert (HA.gateway, HA.network, HA.bridge) == ("10.213.4.1", "10.213.4.0/24", "tlab4")


def test_link_names_of_the_largest_lab_number_fit_into_the_kernel() -> None:
    longest = Lab("test", state.NUMBERS[-1], "ha", "bookworm", "").hosts[-1].interface
    assert len(longest) <= 15


def test_unknown_host_is_refused_with_the_hosts_there_are() -> None:
    with pytest.raises(LabError, match="lab1, lab2, lab3"):
        HA.host("lab4")


@pytest.mark.parametrize("name", ["", "-a", "A", "a/b", "..", "a" * 42])
def test_lab_name_that_is_no_plain_word_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="small letters"):
        state.check_name(name)


def test_one_named_host_is_cut_off_from_all_others() -> None:
    assert directions(HA, ["lab2"]) == {"lab2>lab1", "lab1>lab2", "lab2>lab3", "lab3>lab2"}


def test_named_hosts_are_cut_off_from_each_other_only() -> None:
    assert directions(HA, ["lab1", "lab3"]) == {"lab1>lab3", "lab3>lab1"}


def test_one_way_cut_loses_only_what_the_first_host_sends() -> None:
    assert directions(HA, ["lab1"], one_way=True) == {"lab1>lab2", "lab1>lab3"}
    assert directions(HA, ["lab3", "lab1"], one_way=True) == {"lab3>lab1"}


def test_host_named_twice_is_one_host() -> None:
    assert directions(HA, ["lab1", "lab1"]) == directions(HA, ["lab1"])


def test_partition_of_a_single_host_is_refused() -> None:
    with pytest.raises(LabError, match="nobody to cut"):
        faults.cuts(SINGLE, ["lab1"], one_way=False)


def routes(monkeypatch: pytest.MonkeyPatch, *table: dict[str, str]) -> None:
    monkeypatch.setattr(network, "run", lambda _: json.dumps(table))


def test_own_bridge_and_default_route_do_not_take_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, {"dst": "default", "dev": "eth0"}, {"dst": "10.213.4.0/24", "dev": "tlab4"})
    network.check_free(HA.network, HA.bridge)


def test_wider_route_of_something_else_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, {"dst": "10.213.0.0/16", "dev": "vpn0"})
    with pytest.raises(LabError, match=r"10\.213\.0\.0/16 on vpn0"):
        network.check_free(HA.network, HA.bridge)


def test_number_skips_other_labs_and_ranges_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, {"dst": "10.213.2.128/25", "dev": "vpn0"})
    assert network.free_number("mine", {0, 1}) == 3
    assert network.free_number(state.DEFAULT, {1}) == 0


def test_numbers_that_are_all_taken_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch)
    with pytest.raises(LabError, match="250 address ranges"):
        network.free_number("mine", set(state.NUMBERS))


def test_inventory_gets_the_addresses_of_its_lab() -> None:
    text = "lab1: {ansible_host: 10.213.0.11}\nadmin: [10.213.0.0/24]\nother: 10.213.10.1\n"
    assert inventory.adapt(text, HA.network_prefix) == "lab1: {ansible_host: 10.213.4.11}\nadmin: [10.213.4.0/24]\nother: 10.213.10.1\n"


def test_available_memory_is_read_in_bytes() -> None:
    assert preflight.available_memory("MemTotal: 9 kB\nMemAvailable:   2048 kB\n") == 2048 * 1024


def test_too_little_memory_is_refused_with_both_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda _: 2 * 1024**3)
    with pytest.raises(LabError, match=r"available memory: 2\.0 GiB, but topology ha needs 7 GiB"):
        preflight.check_space(HA)


def test_words_after_two_dashes_belong_to_the_host() -> None:
    assert cli.split(["exec", "lab1", "--name", "x", "--", "ls", "--", "--name"]) == (
        ["exec", "lab1", "--name", "x"],
        ["ls", "--", "--name"],
    )
    assert cli.split(["status"]) == (["status"], [])


def test_written_file_has_its_mode_and_replaces_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "secret"
    state.write(file, "one")
    state.write(file, "two", 0o600)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("two", 0o600)
    assert [path.name for path in file.parent.iterdir()] == ["secret"]


def test_failed_command_is_told_with_its_code_and_its_last_words() -> None:
    with pytest.raises(LabError, match=r"exit code 3:\nwhy"):
        commands.run(["sh", "-c", "echo why >&2; exit 3"])


def test_command_enters_its_groups_before_it_begins(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    printed = commands.run(commands.inside([group], ["sh", "-c", f"cat {shlex.quote(str(group))}/cgroup.procs; echo $$"]))
    entered, own = printed.split()
    assert entered == own
