#!/usr/bin/env python3
"""Builds one release of the platform: everything a host needs to run it, in one archive, installed without the network.

The archive holds a virtual environment's layout with every dependency (exactly those of requirements.txt, checked
against their hashes), our package with its migrations, the scripts of bin/, and a manifest with the SHA-256 of each file.
Built on the control node for the host's Python and architecture. The same inputs give the same identifier and the same
bytes; what is built already is not built again. Never talks to a host, never writes outside the output directory.

    platform/release.py --python 3.11 --machine x86_64 --output .artifacts          builds, prints JSON
    platform/release.py --python 3.11 --machine x86_64 --output .artifacts --describe   says what it would be, builds nothing
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
SOURCES = ("trading_platform", "migrations", "bin")  # directories of the project that a release carries
LOCK = "requirements.txt"
# glibc 2.36 is Debian 12's; a wheel for it runs on 13 too.
PLATFORMS = {"x86_64": "x86_64-manylinux_2_36", "aarch64": "aarch64-manylinux_2_36"}
PYTHONS = ("3.11", "3.12", "3.13")
# What wheels bring that is never imported here, a fifth of the bytes: headers, sources, tests, and Arrow's remote ends
# (its own code takes their absence for a build without them).
LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|numpy/.*/tests|pyarrow/(tests|include|src)|sqlalchemy/testing)(/|$)"
    r"|\.(pyc|pyx|pxd|pxi|h|hpp|a)$"
    r"|(^|/)pyarrow/(lib)?(arrow(_python)?)?_(flight|s3|s3fs)\.[^/]*so[^/]*$"
)
KEPT = 6  # archives in the output directory, of all targets together
FORMAT = 1  # of the archive; part of the identifier


class BuildError(Exception):
    """The release cannot be built; the text says what was found and what to do."""


@dataclass(frozen=True)
class Target:
    """Whose interpreter the release is for."""

    python: str
    machine: str

    def __post_init__(self) -> None:
        if self.python not in PYTHONS:
            raise BuildError(f"Python {self.python} is not supported: the platform runs on {', '.join(PYTHONS)}")
        if self.machine not in PLATFORMS:
            raise BuildError(f"architecture {self.machine} is not supported: there are {', '.join(PLATFORMS)}")


@dataclass(frozen=True)
class Release:
    """A release by name; `version` is what its services report."""

    id: str
    version: str
    target: Target

    def archive(self, output: Path) -> Path:
        """Where its archive is, or will be."""
        return output / f"trading-platform-{self.id}.tar.gz"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = parse(arguments)
    try:
        target = Target(options.python, options.machine)
        release = describe(options.project, target)
        if options.describe:
            print(json.dumps({"id": release.id, "version": release.version}))
            return 0
        print(json.dumps(build(options.project, release, options.output, options.uv)))
    except (BuildError, OSError) as error:
        print(f"release.py: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command line to options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", required=True, help="minor version of the host's Python, as 3.11")
    parser.add_argument("--machine", required=True, help="the host's architecture, as uname -m says it")
    parser.add_argument("--output", required=True, type=Path, help="directory of the archives")
    parser.add_argument("--uv", default="uv", help="the uv program")
    parser.add_argument("--project", type=Path, default=PROJECT, help=argparse.SUPPRESS)
    parser.add_argument("--describe", action="store_true", help="print the identifier only, build nothing")
    return parser.parse_args(arguments)


# What a release is ---------------------------------------------------------------------------------------------------


def describe(project: Path, target: Target) -> Release:
    """Its identifier: version, and a hash over every input and the way it is built."""
    digest = hashlib.sha256(f"{FORMAT}\0{target.python}\0{target.machine}\0".encode())
    digest.update(Path(__file__).read_bytes())
    for path, name in inputs(project):
        digest.update(f"{name}\0{path.stat().st_mode & stat.S_IXUSR}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    short = digest.hexdigest()[:12]
    version = declared_version(project)
    return Release(id=f"{version}-{short}", version=f"{version}+{short}", target=target)


def inputs(project: Path) -> Iterator[tuple[Path, str]]:
    """Every file of the project that is in a release, with its name in the project, in a stable order."""
    lock = project / LOCK
    if not lock.is_file():
        raise BuildError(f"{lock} is missing: write it with the command at the top of {project / 'pyproject.toml'}")
    yield lock, LOCK
    for top in SOURCES:
        for path in sorted((project / top).rglob("*")):
            name = path.relative_to(project).as_posix()
            if path.is_file() and not LEFT_OUT.search(name):
                yield path, name


def declared_version(project: Path) -> str:
    """`__version__` of the package, read without importing it."""
    source = project / "trading_platform" / "__init__.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and [ast.unparse(name) for name in node.targets] == ["__version__"]
            and isinstance(node.value, ast.Constant)
        ):
            version = str(node.value.value)
            if not re.fullmatch(r"\d+(\.\d+)*", version):
                raise BuildError(f"{source}: __version__ is {version!r}, expected digits and dots")
            return version
    raise BuildError(f'{source}: no line __version__ = "…"')


# Building it ---------------------------------------------------------------------------------------------------------


def build(project: Path, release: Release, output: Path, uv: str) -> dict[str, object]:
    """The archive with its hash; built under a lock, so that several hosts asking at once wait for one build."""
    output.mkdir(parents=True, exist_ok=True)
    archive, note = release.archive(output), output / f"trading-platform-{release.id}.json"
    with open(output / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = recorded(archive, note)
        if known:
            return {**known, "reused": True}
        with tempfile.TemporaryDirectory(prefix=".build-", dir=output) as scratch:
            tree = Path(scratch) / "release"
            fill(project, release, tree, uv)
            packed = Path(scratch) / archive.name
            pack(tree, packed)
            facts = {
                "id": release.id,
                "version": release.version,
                "python": release.target.python,
                "machine": release.target.machine,
                "archive": str(archive.resolve()),
                "sha256": sha256(packed),
                "bytes": packed.stat().st_size,
            }
            os.replace(packed, archive)
        fresh = note.with_suffix(".json.new")
        fresh.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, note)
        forget_old(output)
    return {**facts, "reused": False}


def forget_old(output: Path) -> None:
    """Archives can be built again; the newest few are worth their space."""
    notes = sorted(output.glob("trading-platform-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for note in notes[KEPT:]:
        note.with_suffix(".tar.gz").unlink(missing_ok=True)
        note.unlink()


def recorded(archive: Path, note: Path) -> dict[str, object] | None:
    """What an earlier build wrote down, if the archive is still what it was."""
    try:
        facts: dict[str, object] = json.loads(note.read_text(encoding="utf-8"))
        if facts["sha256"] == sha256(archive):
            return {**facts, "archive": str(archive.resolve())}
    except (OSError, ValueError, KeyError):
        pass
    return None


def fill(project: Path, release: Release, tree: Path, uv: str) -> None:
    """The release as a directory: venv layout, scripts, manifest."""
    packages = tree / "venv" / "lib" / f"python{release.target.python}" / "site-packages"
    packages.mkdir(parents=True)
    install_dependencies(project / LOCK, release.target, packages, uv)
    prune(packages)
    for path, name in inputs(project):
        if name.startswith("bin/"):
            place(path, tree / name)
        elif name.startswith("migrations/"):
            place(path, packages / "trading_platform" / name)
        elif name != LOCK:
            place(path, packages / name)
    stamp(packages / "trading_platform" / "__init__.py", release.version)
    manifest = {
        "id": release.id,
        "version": release.version,
        "python": release.target.python,
        "machine": release.target.machine,
        "files": {path.relative_to(tree).as_posix(): sha256(path) for path in sorted(tree.rglob("*")) if path.is_file()},
    }
    (tree / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def install_dependencies(lock: Path, target: Target, packages: Path, uv: str) -> None:
    """Wheels only, each with a hash of the lock: nothing is compiled, nothing unexpected gets in."""
    command = [
        uv, "pip", "install", "--quiet", "--no-config", "--require-hashes", "--only-binary", ":all:", "--no-deps",
        "--python", sys.executable, "--python-version", target.python, "--python-platform", PLATFORMS[target.machine],
        "--link-mode", "copy", "--target", str(packages), "--requirements", str(lock),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    except FileNotFoundError as error:
        raise BuildError(f"{uv} is not there: install the control node's requirements.txt, or name it by --uv") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError("uv did not finish in 15 minutes: can this machine reach its package index?") from error
    if done.returncode != 0:
        raise BuildError(f"uv could not install {lock} for {target}:\n{done.stderr.strip()}")


def prune(packages: Path) -> None:
    """Take out what is never imported, and the entry points of others: nothing but ours is started here."""
    shutil.rmtree(packages / "bin", ignore_errors=True)
    (packages / ".lock").unlink(missing_ok=True)
    for path in sorted(packages.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif LEFT_OUT.search(path.relative_to(packages).as_posix()):
            path.unlink()


def place(source: Path, target: Path) -> None:
    """Copy with nothing but content and executable bit."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)


def stamp(module: Path, version: str) -> None:
    """Make the package say which release it is."""
    text, count = re.subn(r"^__version__ = .*$", f'__version__ = "{version}"', module.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if count != 1:
        raise BuildError(f"{module}: expected one line __version__ = …, found {count}")
    module.write_text(text, encoding="utf-8")


def pack(tree: Path, archive: Path) -> None:
    """The same tree gives the same bytes: sorted, owned by root, no times. Fast compression: it is sent once, over a fast network."""
    with (
        open(archive, "wb") as sink,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=sink, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(tree.rglob("*")):
            name = path.relative_to(tree).as_posix()
            if path.is_symlink():
                raise BuildError(f"{name} is a symbolic link; a release holds files only")
            entry = tarfile.TarInfo(name)
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size, entry.mode = len(content), 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
            tar.addfile(entry, io.BytesIO(content))


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
