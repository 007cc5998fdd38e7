"""trading.platform.files: what differs is written, all or nothing, and nothing else is touched."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import load

files = load("files")
DEFAULTS = {"state": "file", "content": None, "target": None, "mode": None, "validate": None, "secret": False}


def owner() -> dict[str, str]:
    import grp
    import pwd

    return {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def run(entries: list[dict], *, check_mode: bool = False, diff: bool = False) -> dict:
    def run_command(command: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    module = SimpleNamespace(
        params={"files": [{**DEFAULTS, **owner(), **entry} for entry in entries]},
        check_mode=check_mode,
        _diff=diff,
        run_command=run_command,
    )
    return files.run(module)


def test_a_missing_file_is_written_and_the_second_time_nothing_happens(tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "a"), "content": "x\n", "mode": "0640"}
    assert run([entry])["paths"] == [entry["path"]]
    assert (tmp_path / "a").read_text() == "x\n"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    before = (tmp_path / "a").stat()
    assert run([entry]) == {"changed": False, "paths": []}
    assert (tmp_path / "a").stat().st_ctime_ns == before.st_ctime_ns


def test_only_what_differs_is_touched(tmp_path: Path) -> None:
    entries = [{"path": str(tmp_path / name), "content": name} for name in "abc"]
    run(entries)
    kept = (tmp_path / "a").stat().st_ino
    (tmp_path / "b").write_text("edited by hand")
    assert run(entries)["paths"] == [str(tmp_path / "b")]
    assert (tmp_path / "a").stat().st_ino == kept


def test_a_directory_is_made_before_the_files_in_it_whatever_the_order(tmp_path: Path) -> None:
    run([
        {"path": str(tmp_path / "d"), "state": "directory", "mode": "0700"},
        {"path": str(tmp_path / "d/f"), "content": "x"},
    ])  # fmt: skip
    assert (tmp_path / "d/f").read_text() == "x"


def test_one_refused_file_keeps_all_of_them_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("old")
    with pytest.raises(files.Refused, match=r"bad: refused by false \(exit 1\)"):
        run([
            {"path": str(tmp_path / "good"), "content": "new"},
            {"path": str(tmp_path / "bad"), "content": "new", "validate": "false %s"},
        ])  # fmt: skip
    assert (tmp_path / "good").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_the_validator_sees_the_file_under_its_own_name(tmp_path: Path) -> None:
    run([{"path": str(tmp_path / "name.conf"), "content": "x", "validate": "sh -c 'test $(basename %s) = name.conf'"}])
    assert (tmp_path / "name.conf").exists()


def test_a_refused_secret_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(files.Refused) as refusal:
        run([{"path": str(tmp_path / "s"), "content": "hunter2", "secret": True, "validate": "sh -c 'cat %s; exit 1'"}])
    assert "hunter2" not in str(refusal.value)


def test_check_mode_says_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    entries = [{"path": str(tmp_path / "d"), "state": "directory"}, {"path": str(tmp_path / "d/f"), "content": "x"}]
    result = run(entries, check_mode=True, diff=True)
    assert result["paths"] == [str(tmp_path / "d"), str(tmp_path / "d/f")]
    assert result["diff"][1]["after"] == "x"
    assert list(tmp_path.iterdir()) == []


def test_check_mode_does_not_need_the_user_that_the_run_would_make(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    entry = {"path": str(tmp_path / "f"), "content": "x", "owner": "nobody-has-this-name"}
    assert run([entry], check_mode=True)["changed"]
    with pytest.raises(files.Refused, match=r"no such user or group: .*nobody-has-this-name"):
        run([entry])


def test_a_secret_is_kept_out_of_the_difference(tmp_path: Path) -> None:
    result = run([{"path": str(tmp_path / "s"), "content": "hunter2", "secret": True}], diff=True)
    assert "hunter2" not in repr(result)


def test_links_are_replaced_and_files_removed(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    entries = [
        {"path": str(tmp_path / "link"), "state": "link", "target": "there"},
        {"path": str(tmp_path / "old"), "state": "absent"},
    ]
    run(entries)
    assert os.readlink(tmp_path / "link") == "there"
    assert not (tmp_path / "old").exists()
    assert not run(entries)["changed"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"path": "relative", "content": "x"}, "absolute path"),
        ({"path": "/tmp/x"}, "needs its content"),
        ({"path": "/tmp/x", "state": "link"}, "needs its target"),
    ],
)
def test_what_cannot_be_meant_is_refused(entry: dict, words: str) -> None:
    with pytest.raises(files.Refused, match=words):
        run([entry])


def test_a_path_given_twice_is_refused(tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "a"), "content": "x"}
    with pytest.raises(files.Refused, match="given twice"):
        run([entry, entry])


def test_a_directory_in_the_place_of_a_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(files.Refused, match="expected a file, found a directory"):
        run([{"path": str(tmp_path / "a"), "content": "x"}])


def test_a_mode_without_quotes_in_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(files.Refused, match="octal digits"):
        (tmp_path / "a").write_text("x")
        run([{"path": str(tmp_path / "a"), "content": "x", "mode": "u=rw"}])
