"""trading.platform.release: a release is whole or absent, the switch is one rename, the active one is never removed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import time
from pathlib import Path

import pytest
from conftest import load

release = load("release")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def archive(tmp_path: Path):
    """Makes an archive of a release; `spoil` edits its manifest, `extra` adds members."""

    def make(identifier: str, spoil=lambda manifest: None, extra: dict[str, bytes] | None = None) -> dict[str, str]:
        package = f"venv/lib/python{release.python_minor()}/site-packages/trading_platform/__init__.py"
        files = {package: b'__version__ = "1"\n', "bin/tool": b"#!/bin/sh\n"}
        manifest = {
            "id": identifier,
            "version": "1",
            "python": release.python_minor(),
            "machine": platform.machine(),
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
        spoil(manifest)
        path = tmp_path / f"{identifier}.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content in {**files, "manifest.json": json.dumps(manifest).encode(), **(extra or {})}.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
                tar.addfile(member, io.BytesIO(content))
        return {"archive": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    return make


def converge(root: Path, state: str, identifier: str = "", *, check_mode: bool = False, **asked: object) -> dict:
    given = {"root": str(root), "state": state, "id": identifier, "archive": None, "sha256": None, "keep": 3, **asked}
    return release.converge(given, check_mode)


def test_a_bare_host_has_nothing_and_names_its_interpreter(root: Path) -> None:
    seen = converge(root, "inspected")
    assert (seen["current"], seen["releases"], seen["changed"]) == ("", [], False)
    assert seen["python"] == release.python_minor()


def test_a_release_is_installed_once_read_only_and_runnable(root: Path, archive) -> None:
    made = archive("1.0-a")
    assert converge(root, "installed", "1.0-a", **made)["changed"]
    tree = root / "releases/1.0-a"
    assert os.access(tree / "venv/bin/python", os.X_OK)
    assert not list((tree / "venv/bin").glob("activate*"))
    assert oct((tree / "bin/tool").stat().st_mode)[-3:] == "555"
    assert oct((tree / "manifest.json").stat().st_mode)[-3:] == "444"
    assert list(tree.rglob("*.pyc"))
    assert not Path(made["archive"]).exists()
    assert not converge(root, "installed", "1.0-a", **made)["changed"]


def test_a_damaged_archive_leaves_nothing(root: Path, archive) -> None:
    made = archive("1.0-a")
    with pytest.raises(release.ReleaseError, match="the transfer was damaged"):
        converge(root, "installed", "1.0-a", **{**made, "sha256": "0" * 64})
    assert os.listdir(root / "releases") == []


def change_hash(manifest: dict) -> None:
    manifest["files"]["bin/tool"] = "0" * 64


@pytest.mark.parametrize(
    ("spoil", "extra", "words"),
    [
        (lambda m: m.update(machine="vax"), {}, "for machine vax, expected"),
        (lambda m: m.update(python="2.7"), {}, "for python 2.7, expected"),
        (lambda m: m.update(id="other"), {}, "for id other, expected"),
        (lambda m: m["files"].update(gone="0"), {}, "lacks 1 file"),
        (change_hash, {}, "bin/tool is not what the manifest says"),
        (lambda m: None, {"smuggled": b"x"}, "smuggled is not what the manifest says"),
        (lambda m: None, {"../outside": b"x"}, "no plain file inside the release"),
        (lambda m: None, {"/etc/outside": b"x"}, "no plain file inside the release"),
    ],
)
def test_an_archive_that_is_not_what_it_says_is_refused_and_leaves_nothing(root: Path, archive, spoil, extra, words: str) -> None:
    with pytest.raises(release.ReleaseError, match=words):
        converge(root, "installed", "1.0-a", **archive("1.0-a", spoil, extra))
    assert os.listdir(root / "releases") == []
    assert not (root / "outside").exists()


def test_what_an_interrupted_run_left_is_cleared_by_the_next(root: Path, archive) -> None:
    (root / "releases/.new-half").mkdir(parents=True)
    (root / "releases/.new-half/file").touch()
    assert converge(root, "inspected")["releases"] == []
    converge(root, "installed", "1.0-a", **archive("1.0-a"))
    assert os.listdir(root / "releases") == ["1.0-a"]


def test_activating_points_current_and_the_environment_at_it(root: Path, archive) -> None:
    converge(root, "installed", "1.0-a", **archive("1.0-a"))
    assert converge(root, "active", "1.0-a")["changed"]
    assert os.readlink(root / "current") == "releases/1.0-a"
    assert (root / "venv/bin/python").exists()
    assert converge(root, "active", "1.0-a") | {"diff": None} == {
        "changed": False, "current": "1.0-a", "releases": ["1.0-a"], "removed": [], "diff": None,
        "python": release.python_minor(), "machine": platform.machine(),
    }  # fmt: skip


def test_a_release_that_is_not_there_is_not_activated(root: Path, archive) -> None:
    converge(root, "installed", "1.0-a", **archive("1.0-a"))
    with pytest.raises(release.ReleaseError, match=r"1\.0-b is not installed .* there are: 1\.0-a"):
        converge(root, "active", "1.0-b")


def test_the_oldest_go_but_never_the_active_one(root: Path, archive) -> None:
    for name in ("r1", "r2", "r3", "r4"):
        converge(root, "installed", name, **archive(name))
        time.sleep(0.02)  # a rename's time is what orders them
    converge(root, "active", "r1", keep=10)
    done = converge(root, "active", "r1", keep=2)
    assert done["removed"] == ["r3", "r2"]
    assert done["releases"] == ["r4", "r1"]


def test_check_mode_announces_and_leaves_all_as_it_is(root: Path, archive) -> None:
    assert converge(root, "installed", "r1", check_mode=True, archive="/nowhere", sha256="0")["changed"]
    assert converge(root, "active", "r1", check_mode=True)["changed"]
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("identifier", ["", "../r1", ".new-x", "a/b", "a b"])
def test_an_identifier_that_could_lead_elsewhere_is_refused(root: Path, identifier: str) -> None:
    with pytest.raises(release.ReleaseError, match="no identifier"):
        converge(root, "active", identifier)
