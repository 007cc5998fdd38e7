"""Taking a lab away without trace, and looking whether that is true.

Works from what the kernel shows, not from our notes alone, so that it also clears what a killed run or a
directory removed by hand left behind.
"""

import re
import shutil
from pathlib import Path

from lab import cgroup, machine, network, state
from lab.commands import run, succeeds
from lab.report import LabError, say
from lab.state import Lab


def remove(lab: Lab) -> None:
    """Remove the lab; raises LabError naming every thing that stayed."""
    for host in lab.hosts:
        machine.remove(lab, host)
    clear(lab.bridge, lab.network)
    if lab.directory.exists():
        shutil.rmtree(lab.directory)
    left = leftovers(lab)
    if left:
        raise LabError(f"lab {lab.name} left something behind:\n  " + "\n  ".join(left))


def clear(bridge: str, network_range: str) -> None:
    """End the processes and remove the mounts, links and firewall tables that carry the bridge's name."""
    cgroup.remove(bridge)
    for where in _mounts(bridge):
        run(["umount", where])
    network.remove(bridge)
    # Multiplexed ssh sessions would otherwise wait on hosts that are gone, and be taken for the next lab's.
    succeeds(["ss", "--kill", "--numeric", "--tcp", "dst", network_range])


def clear_orphans() -> None:
    """Remove what is left of labs whose directory is gone."""
    known = {lab.bridge for lab in state.every()}
    ours = re.compile(rf"{state.BRIDGE}\d+")
    present = {name for name in (*network.bridges(), *cgroup.names()) if ours.fullmatch(name)}
    for bridge in sorted(present - known):
        clear(bridge, state.network_of(int(bridge.removeprefix(state.BRIDGE))))
        say(f"{bridge}: cleared what a lab without a directory had left")


def forget(name: str) -> None:
    """Remove the directory of a lab that nothing is known about any more, with the mounts below it."""
    directory = state.STATE / "labs" / name
    for where in _mounts_below(directory):
        run(["umount", "--lazy", where])
    if directory.exists():
        run(["rm", "--recursive", "--force", "--one-file-system", str(directory)], timeout=300)


def leftovers(lab: Lab) -> list[str]:
    """Everything of the lab that is still there, in words; empty when nothing is."""
    found = [f"process {pid}" for pid in cgroup.processes(lab.cgroup())]
    found += [f"mount {where}" for where in {*_mounts(lab.bridge), *_mounts_below(lab.directory)}]
    found += [f"interface {interface}" for interface in network.interfaces(lab.bridge)]
    found += [f"firewall table {family} {table}" for family, table in network.tables(lab.bridge)]
    found += [f"cgroup {directory}" for directory in cgroup.directories(lab.cgroup())]
    found += [f"directory {lab.directory}"] if lab.directory.exists() else []
    return found


def _mounts(bridge: str) -> list[str]:
    return [where for source, where in _mount_table() if source.startswith(f"lab-{bridge}-")]


def _mounts_below(directory: Path) -> list[str]:
    return [where for _, where in _mount_table() if where.startswith(f"{directory}/")]


def _mount_table() -> list[tuple[str, str]]:
    """Every (source, mount point), the innermost first."""
    lines = Path("/proc/mounts").read_text().splitlines()
    return [(line.split()[0], line.split()[1]) for line in reversed(lines)]
