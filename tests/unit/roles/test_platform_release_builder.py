"""platform/release.py: the same inputs give the same name and bytes, any other input another name, refusals say why."""

from __future__ import annotations

import importlib.util
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

BUILDER = Path(__file__).parents[3] / "platform/release.py"
FAKE_UV = """#!/bin/sh
# Puts one wheel's worth of files where --target says, and counts how often it was asked.
echo asked >> "{log}"
while [ $# -gt 0 ]; do [ "$1" = --target ] && target=$2; shift; done
mkdir -p "$target/numpy/core/tests" "$target/numpy/include" "$target/bin"
echo code > "$target/numpy/__init__.py"; echo test > "$target/numpy/core/tests/test_x.py"
echo header > "$target/numpy/include/x.h"; echo script > "$target/bin/f2py"
"""


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("platform_release_builder", BUILDER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name, text in {
        "requirements.txt": "numpy==1 --hash=sha256:00\n",
        "trading_platform/__init__.py": '"""Doc."""\n\n__version__ = "1.2.0"\n',
        "trading_platform/engine/__init__.py": "",
        "trading_platform/__pycache__/x.pyc": "compiled",
        "migrations/env.py": "",
        "bin/tool.sh": "#!/bin/sh\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "bin/tool.sh").chmod(0o755)
    return root


@pytest.fixture
def uv(tmp_path: Path) -> Path:
    path = tmp_path / "uv"
    path.write_text(FAKE_UV.format(log=tmp_path / "uv.log"))
    path.chmod(0o755)
    return path


def build(builder: ModuleType, project: Path, uv: Path, output: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    arguments = ["--python", "3.11", "--machine", "x86_64", "--output", str(output), "--uv", str(uv), "--project", str(project)]
    assert builder.main([*arguments, *more]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_an_archive_holds_what_a_host_needs_and_no_more(builder, project, uv, tmp_path, capsys) -> None:
    made = build(builder, project, uv, tmp_path / "out", capsys)
    packages = "venv/lib/python3.11/site-packages"
    with tarfile.open(made["archive"]) as tar:
        files = {member.name: member for member in tar if member.isfile()}
        version = tar.extractfile(f"{packages}/trading_platform/__init__.py").read().decode()
        manifest = json.load(tar.extractfile("manifest.json"))
    assert set(files) == {
        "bin/tool.sh", "manifest.json", f"{packages}/numpy/__init__.py", f"{packages}/trading_platform/__init__.py",
        f"{packages}/trading_platform/engine/__init__.py", f"{packages}/trading_platform/migrations/env.py",
    }  # fmt: skip
    assert files["bin/tool.sh"].mode == 0o755
    assert {(member.uid, member.mtime) for member in files.values()} == {(0, 0)}
    assert set(manifest["files"]) == set(files) - {"manifest.json"}
    assert f'__version__ = "{made["version"]}"' in version
    assert made["version"].startswith("1.2.0+")
    assert made["id"].startswith("1.2.0-")


def test_building_twice_gives_the_same_bytes(builder, project, uv, tmp_path, capsys) -> None:
    first = build(builder, project, uv, tmp_path / "one", capsys)
    second = build(builder, project, uv, tmp_path / "two", capsys)
    assert (first["id"], first["sha256"]) == (second["id"], second["sha256"])


def test_what_is_built_is_not_built_again_unless_the_archive_was_damaged(builder, project, uv, tmp_path, capsys) -> None:
    first = build(builder, project, uv, tmp_path / "out", capsys)
    assert build(builder, project, uv, tmp_path / "out", capsys)["reused"] is True
    assert (tmp_path / "uv.log").read_text().count("asked") == 1
    Path(first["archive"]).write_bytes(b"damaged")
    again = build(builder, project, uv, tmp_path / "out", capsys)
    assert (again["reused"], again["sha256"]) == (False, first["sha256"])


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "trading_platform/engine/__init__.py").write_text("x = 1\n"),
        lambda root: (root / "requirements.txt").write_text("numpy==2 --hash=sha256:00\n"),
        lambda root: (root / "migrations/0002.py").write_text(""),
        lambda root: (root / "bin/tool.sh").chmod(0o644),
        lambda root: (root / "bin/tool.sh").rename(root / "bin/other.sh"),
    ],
)
def test_any_changed_input_gives_another_name(builder, project, uv, tmp_path, capsys, change) -> None:
    before = build(builder, project, uv, tmp_path, capsys, "--describe")
    change(project)
    assert build(builder, project, uv, tmp_path, capsys, "--describe")["id"] != before["id"]


def test_what_is_not_shipped_does_not_change_the_name(builder, project, uv, tmp_path, capsys) -> None:
    before = build(builder, project, uv, tmp_path, capsys, "--describe")
    (project / "trading_platform/__pycache__/y.pyc").write_text("compiled")
    (project / "notes.md").write_text("")
    assert build(builder, project, uv, tmp_path, capsys, "--describe") == before


def test_python_and_architecture_are_part_of_the_name(builder, project) -> None:
    names = {
        builder.describe(project, builder.Target(python, machine)).id for python in ("3.11", "3.13") for machine in ("x86_64", "aarch64")
    }
    assert len(names) == 4


def test_describing_builds_nothing(builder, project, uv, tmp_path, capsys) -> None:
    build(builder, project, uv, tmp_path / "out", capsys, "--describe")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("python", "machine", "words"),
    [("3.9", "x86_64", "Python 3.9 is not supported"), ("3.11", "vax", "architecture vax is not supported")],
)
def test_an_unsupported_host_is_refused(builder, project, tmp_path, capsys, python, machine, words) -> None:
    arguments = ["--python", python, "--machine", machine, "--output", str(tmp_path), "--project", str(project)]
    assert builder.main(arguments) == 1
    assert words in capsys.readouterr().err


def test_a_failing_installer_is_quoted_and_leaves_no_archive(builder, project, tmp_path, capsys) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'hash mismatch for numpy' >&2\nexit 1\n")
    uv.chmod(0o755)
    arguments = ["--python", "3.11", "--machine", "x86_64", "--output", str(tmp_path / "out"), "--uv", str(uv)]
    assert builder.main([*arguments, "--project", str(project)]) == 1
    assert "hash mismatch for numpy" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_missing_lock_or_version_is_named(builder, project, tmp_path, capsys) -> None:
    arguments = ["--python", "3.11", "--machine", "x86_64", "--output", str(tmp_path), "--project", str(project)]
    (project / "trading_platform/__init__.py").write_text("")
    assert builder.main(arguments) == 1
    assert "no line __version__" in capsys.readouterr().err
    (project / "requirements.txt").unlink()
    assert builder.main(arguments) == 1
    assert "requirements.txt is missing" in capsys.readouterr().err


def test_only_the_newest_archives_are_kept(builder, project, uv, tmp_path, capsys) -> None:
    for number in range(builder.KEPT + 2):
        (project / "trading_platform/number.py").write_text(f"n = {number}\n")
        build(builder, project, uv, tmp_path / "out", capsys)
    assert len(list((tmp_path / "out").glob("*.tar.gz"))) == builder.KEPT
