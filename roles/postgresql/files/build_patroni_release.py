"""Builds Patroni's environment for one kind of host, on the control node, as one archive that needs no network there.

The archive holds `<release>/`: a virtual environment on the host's own /usr/bin/python3, every file taken by the hash
of the lock. It is the same bytes for the same lock, interpreter and architecture, so a second call does nothing.
"""

import argparse
import fcntl
import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# No wheel exists for these two; both are pure Python, built with the locked build requirements.
BUILT_FROM_SOURCE = ("python-etcd", "ydiff")
PROGRAMS = {"patroni": "patroni.__main__:main", "patronictl": "patroni.ctl:ctl"}


def launcher(release: str, entry_point: str) -> str:
    """A console script bound to the release it belongs to."""
    module, function = entry_point.split(":")
    return (
        f"#!/opt/patroni/releases/{release}/bin/python -I\n"
        f"from {module} import {function}\n\n"
        f'if __name__ == "__main__":\n'
        f"    {function}()\n"
    )


def install_packages(arguments: argparse.Namespace, target: Path) -> None:
    """Every package of the lock for the host's interpreter and architecture; exits with uv's words on failure."""
    command = [
        str(arguments.uv), "pip", "install", "--quiet", "--require-hashes",
        "--only-binary", ":all:", *(word for name in BUILT_FROM_SOURCE for word in ("--no-binary", name)),
        "--build-constraints", str(arguments.build_lock),
        "--python", sys.executable,
        "--python-version", arguments.python, "--python-platform", f"{arguments.architecture}-manylinux_2_28",
        "--target", str(target), "--requirement", str(arguments.lock),
    ]  # fmt: skip
    if arguments.index_url:
        command += ["--default-index", arguments.index_url]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(
            f"Patroni's packages could not be fetched for Python {arguments.python} on {arguments.architecture}:\n"
            f"{done.stderr.strip()}\n"
            "Where the package index cannot be reached, set postgresql_patroni_index_url to a mirror of it."
        )
    # uv's scripts name the control node's interpreter; ours replace them.
    for script in (target / "bin").iterdir():
        script.unlink()
    (target / "bin").rmdir()


def without_identity(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same bytes whoever builds it, whenever."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
    return info


def add_text(archive: tarfile.TarFile, path: str, text: str, mode: int) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(text.encode()), mode
    archive.addfile(without_identity(info), io.BytesIO(text.encode()))


def write_archive(arguments: argparse.Namespace, packages: Path, sink: io.BufferedWriter) -> None:
    """Packages and environment, as they will lie under /opt/patroni/releases/."""
    release = arguments.release
    with gzip.GzipFile(fileobj=sink, mode="wb", mtime=0, compresslevel=3) as squeezed, tarfile.open(fileobj=squeezed, mode="w") as archive:
        link = tarfile.TarInfo(f"{release}/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/python3"
        archive.addfile(without_identity(link))
        add_text(archive, f"{release}/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n", 0o644)
        for program, entry_point in PROGRAMS.items():
            add_text(archive, f"{release}/bin/{program}", launcher(release, entry_point), 0o755)
        library = f"{release}/lib/python{arguments.python}/site-packages"
        for path in sorted(packages.rglob("*")):
            if "__pycache__" not in path.parts:
                archive.add(path, f"{library}/{path.relative_to(packages)}", recursive=False, filter=without_identity)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--build-lock", type=Path, required=True)
    parser.add_argument("--python", required=True, help="the host's version, such as 3.11")
    parser.add_argument("--architecture", required=True, choices=["x86_64", "aarch64"])
    parser.add_argument("--release", required=True, help="name of the release, which is the archive's only top directory")
    parser.add_argument("--index-url", default="")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with open(arguments.output.parent / f".{arguments.output.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if arguments.output.exists():
            return
        with tempfile.TemporaryDirectory(dir=arguments.output.parent) as scratch:
            packages = Path(scratch) / "packages"
            install_packages(arguments, packages)
            unfinished = Path(scratch) / "archive"
            with open(unfinished, "wb") as sink:
                write_archive(arguments, packages, sink)
            os.replace(unfinished, arguments.output)
    print(f"built {arguments.output.name}")


if __name__ == "__main__":
    main()
