"""Control groups: how the lab knows what runs, and how it ends it.

Every host and every service of a lab lives in a cgroup below `trading-lab/`, so that no pid is ever written
down and none can go stale: what the kernel lists there is what runs. `cgroup.kill` ends a whole host at once.

The cgroup2 tree is the one that counts. Where the outer system still uses version 1 (then cgroup2 is mounted
beside it, or is mounted by us), the same path is kept in the `name=systemd` tree, which systemd-nspawn insists on.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from lab.commands import run
from lab.report import LabError

_MOUNT = Path("/sys/fs/cgroup")
_TOP = "trading-lab"
_CONTROLLERS = {"cpu", "io", "memory", "pids"}
_V1_SYSTEMD = _MOUNT / "systemd"
_V1_UNIFIED = _MOUNT / "unified"


def _filesystem(path: Path) -> str:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if where == str(path):
            return kind
    return ""


def _unified() -> Path:
    """The mount point of cgroup2; mounts it beside a pure version 1 tree."""
    if _filesystem(_MOUNT) == "cgroup2":
        return _MOUNT
    if _filesystem(_V1_UNIFIED) != "cgroup2":
        _V1_UNIFIED.mkdir(exist_ok=True)
        run(["mount", "-t", "cgroup2", "cgroup2", str(_V1_UNIFIED)])
    return _V1_UNIFIED


def _trees() -> list[Path]:
    unified = _unified()
    if unified == _MOUNT:
        return [unified]
    if _filesystem(_V1_SYSTEMD) != "cgroup":
        _V1_SYSTEMD.mkdir(exist_ok=True)
        run(["mount", "-t", "cgroup", "-o", "none,name=systemd", "cgroup", str(_V1_SYSTEMD)])
    return [unified, _V1_SYSTEMD]


def create(name: str) -> list[Path]:
    """Make the cgroup `trading-lab/<name>` in every tree, with the controllers that cgroup2 has to give."""
    groups = []
    for tree in _trees():
        group = tree / _TOP / name
        group.mkdir(parents=True, exist_ok=True)
        groups.append(group)
    _enable_controllers(_unified(), name)
    return groups


def _enable_controllers(tree: Path, name: str) -> None:
    """Let hosts limit memory, processor and tasks; where version 1 holds the controllers there are none to give."""
    directory = tree
    for part in ("", _TOP, *Path(name).parts[:-1]):
        directory /= part
        offered = set((directory / "cgroup.controllers").read_text().split())
        enabled = set((directory / "cgroup.subtree_control").read_text().split())
        for controller in sorted(offered & _CONTROLLERS - enabled):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _path(name: str) -> Path:
    return _unified() / _TOP / name


def running(name: str) -> bool:
    """Whether any process lives in the cgroup."""
    events = _path(name) / "cgroup.events"
    try:
        return "populated 1" in events.read_text()
    except FileNotFoundError:
        return False


def processes(name: str) -> Iterator[int]:
    """Every pid in the cgroup and below it."""
    for file in sorted(_path(name).rglob("cgroup.procs")):
        try:
            yield from (int(pid) for pid in file.read_text().split())
        except OSError:
            continue


def kill(name: str, *, deadline: float = 15) -> None:
    """SIGKILL everything in the cgroup at once and wait until it is gone; nothing happens where nothing runs."""
    if not running(name):
        return
    (_path(name) / "cgroup.kill").write_text("1")
    until = time.monotonic() + deadline
    while running(name):
        if time.monotonic() > until:
            left = " ".join(str(pid) for pid in processes(name))
            raise LabError(f"processes of {name} outlived SIGKILL for {deadline:.0f} s: {left}")
        time.sleep(0.02)


def remove(name: str) -> None:
    """Kill what is left and take the cgroup away from every tree."""
    kill(name)
    for tree in _trees():
        group = tree / _TOP / name
        if group.exists():
            for directory in sorted((d for d in group.rglob("*") if d.is_dir()), reverse=True):
                _rmdir(directory)
            _rmdir(group)


def _rmdir(directory: Path, *, deadline: float = 5) -> None:
    """Dying processes keep a cgroup busy for a moment after they are gone from its list."""
    until = time.monotonic() + deadline
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > until:
                raise LabError(f"cannot remove the cgroup {directory}: {error}") from error
            time.sleep(0.02)
        else:
            return


def remove_top() -> None:
    """Take the common parent away when no lab is left in it."""
    for tree in _trees():
        try:
            (tree / _TOP).rmdir()
        except OSError:
            continue


def directories(name: str) -> list[Path]:
    """The cgroup's directory in every tree that has one."""
    return [group for group in (tree / _TOP / name for tree in _trees()) if group.exists()]


def names(prefix: str = "") -> list[str]:
    """The cgroups directly below `trading-lab/<prefix>`."""
    directory = _path(prefix) if prefix else _unified() / _TOP
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
