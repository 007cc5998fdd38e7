"""Refusals before anything is changed: each with the measured value, the needed value and the way out."""

import os
import shutil
from pathlib import Path

from lab import cgroup, image, network, state
from lab.report import LabError
from lab.state import Lab

_GIB = 1024**3
_DISK_PER_TOPOLOGY = {"single": 8 * _GIB, "ha": 16 * _GIB}
_MEMORY_PER_TOPOLOGY = {"single": 3 * _GIB, "ha": 7 * _GIB}


def check_machine() -> None:
    """Raises LabError when this machine cannot carry any lab."""
    if os.geteuid() != 0:
        raise LabError(f"the lab makes hosts, networks and mounts and needs root; this is uid {os.geteuid()}. Type: sudo bin/lab …")
    for needed in ("systemd-nspawn", "mmdebstrap", "dnsmasq", "apt-cacher-ng", "pebble", "nft", "ip", "ssh-keygen", "openssl"):
        if shutil.which(needed) is None:
            raise LabError(f"the command {needed} is missing although its package was asked for; see: apt-get install --reinstall")


def check_room(lab: Lab) -> None:
    """Raises LabError when the hosts that do not run yet would not fit, or the addresses are taken."""
    image.check_filesystem()
    network.check_free(lab.network, lab.bridge)
    if any(cgroup.running(lab.cgroup(host.name)) for host in lab.hosts):
        return
    check_space(lab)


def check_space(lab: Lab) -> None:
    """Raises LabError when disk or memory is too small for the topology."""
    _compare("disk space under " + str(state.STATE), shutil.disk_usage(state.STATE).free, _DISK_PER_TOPOLOGY[lab.topology], lab)
    _compare("available memory", available_memory(Path("/proc/meminfo").read_text()), _MEMORY_PER_TOPOLOGY[lab.topology], lab)


def _compare(what: str, measured: int, needed: int, lab: Lab) -> None:
    if measured < needed:
        raise LabError(
            f"{what}: {measured / _GIB:.1f} GiB, but topology {lab.topology} needs {needed / _GIB:.0f} GiB. "
            "`bin/lab status` shows other labs; `bin/lab down --name NAME` frees what one holds"
        )


def available_memory(meminfo: str) -> int:
    """Bytes that can be used without swapping, from the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise LabError("/proc/meminfo has no MemAvailable line; the lab needs a Linux kernel of 3.14 or newer")
