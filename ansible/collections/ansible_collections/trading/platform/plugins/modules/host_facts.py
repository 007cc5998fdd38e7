#!/usr/bin/python
"""What the base roles must know of a host, measured in one call.

Reads files only: no subprocess, nothing changed, nothing secret. Measured on every run, because cached facts may describe
a host that has been replaced meanwhile.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_facts
short_description: What the base roles must know of a host, in one call
description:
  - Sets C(ansible_facts.packages) in the form of M(ansible.builtin.package_facts), and C(ansible_facts.trading_host).
options:
  sysctl:
    description: Kernel settings whose current value and writability are wanted.
    type: list
    elements: str
    default: []
  users:
    description: Users whose existence and groups are wanted.
    type: list
    elements: str
    default: []
  storage:
    description: The path whose file system holds the data.
    type: path
    default: /var/lib
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Look at the host
  trading.platform.host_facts:
    sysctl: [net.core.somaxconn, vm.overcommit_memory]
    users: [trading]
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  type: dict
  returned: always
  contains:
    packages:
      description: Installed Debian packages, each a list of one entry with version and architecture.
      type: dict
      returned: always
    trading_host:
      description: System, hardware, kernel settings, users and how this connection came in.
      type: dict
      returned: always
"""

import glob
import grp
import os
import pwd
import re
import time

from ansible.module_utils.basic import AnsibleModule

CAP_SYS_TIME = 25


def read(path: str) -> str:
    """The file's text, empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def parse_dpkg_status(text: str) -> dict[str, list[dict[str, str]]]:
    """Installed packages of dpkg's status file, in the form of package_facts."""
    packages: dict[str, list[dict[str, str]]] = {}
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version|Architecture): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").split()[-1:] == ["installed"] and "Package" in fields:
            packages.setdefault(fields["Package"], []).append(
                {
                    "name": fields["Package"],
                    "version": fields.get("Version", ""),
                    "arch": fields.get("Architecture", ""),
                    "source": "apt",
                }
            )
    return packages


def half_installed(text: str, updates: list[str]) -> bool:
    """Whether dpkg was interrupted: packages on their way in dpkg's status file, or entries in its journal."""
    states = {line.split()[-1] for line in re.findall(r"^Status: install \S+ .*$", text, re.MULTILINE)}
    return bool(states & {"half-installed", "unpacked", "half-configured"} or [name for name in updates if name.isdigit()])


def parse_assignments(text: str) -> dict[str, str]:
    """KEY=value lines, as in /etc/os-release and /etc/default."""
    return {key: value.strip().strip("\"'") for key, value in re.findall(r"^\s*(\w+)\s*=(.*)$", text, re.MULTILINE)}


def container() -> str:
    """The kind of container this host is, empty for a machine of its own."""
    return read("/run/systemd/container").strip() or ("docker" if os.path.exists("/.dockerenv") else "")


def may_set_clock() -> bool:
    """Whether this process holds CAP_SYS_TIME and is not inside a container (whose clock is the outer host's)."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", read("/proc/self/status"), re.MULTILINE)
    return bool(found and int(found[1], 16) >> CAP_SYS_TIME & 1) and not container()


def settings(keys: list[str]) -> dict[str, dict[str, object]]:
    """Current value and writability of kernel settings; a setting that does not exist here has neither."""
    found = {}
    for key in keys:
        path = "/proc/sys/" + key.replace(".", "/")
        exists = os.path.exists(path)
        found[key] = {
            "exists": exists,
            "value": " ".join(read(path).split()),
            "writable": exists and bool(os.stat(path).st_mode & 0o200) and not os.statvfs(path).f_flag & os.ST_RDONLY,
        }
    return found


def accounts(names: list[str]) -> dict[str, dict[str, object]]:
    """The users that exist, with home, shell and groups."""
    found = {}
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        groups = [group.gr_name for group in grp.getgrall() if name in group.gr_mem]
        found[name] = {
            "home": entry.pw_dir,
            "shell": entry.pw_shell,
            "group": grp.getgrgid(entry.pw_gid).gr_name,
            "groups": sorted(groups),
        }
    return found


def storage(path: str) -> dict[str, object]:
    """Size, free space and kind of the file system that holds a path; `rotational` is None where it cannot be told."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    space = os.statvfs(path)
    device = os.stat(path).st_dev
    rotational = None
    block = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for queue in (f"{block}/queue/rotational", f"{os.path.realpath(block)}/../queue/rotational"):
        value = read(queue).strip()
        if value:
            rotational = value == "1"
            break
    return {
        "path": path,
        "size_gb": round(space.f_blocks * space.f_frsize / 10**9, 1),
        "free_gb": round(space.f_bavail * space.f_frsize / 10**9, 1),
        "rotational": rotational,
    }


def network_mbps() -> int:
    """The fastest link that is up and states its speed; 0 where none does (virtual ones do not)."""
    speeds = [read(path).strip() for path in glob.glob("/sys/class/net/*/speed")]
    return max([int(speed) for speed in speeds if re.fullmatch(r"[0-9]+", speed)], default=0)


def memory_mb() -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def has_keys(user: str) -> bool:
    """Whether the user has authorized keys of its own, where sshd looks by default."""
    try:
        home = pwd.getpwnam(user).pw_dir
    except KeyError:
        return False
    texts = [read(os.path.join(home, ".ssh", name)) for name in ("authorized_keys", "authorized_keys2")]
    return any(re.search(r"^[^#\s]", text, re.MULTILINE) for text in texts)


def ssh_connection() -> dict[str, object]:
    """Where this connection came from, told by the nearest parent that still knows (sudo clears it from our own)."""
    process = os.getpid()
    while process > 1:
        environment = read(f"/proc/{process}/environ").split("\0")
        for entry in environment:
            if entry.startswith("SSH_CONNECTION="):
                words = entry.partition("=")[2].split()
                user = next((entry[5:] for entry in environment if entry.startswith("USER=")), "")
                if len(words) == 4:
                    return {"from": words[0], "to_port": words[3], "user": user, "has_keys": has_keys(user)}
        parent = re.search(r"^PPid:\s*(\d+)", read(f"/proc/{process}/status"), re.MULTILINE)
        process = int(parent[1]) if parent else 0
    return {}


def package_index_age() -> int:
    """Seconds since apt's package lists were last updated; a very large number when they never were."""
    stamps = ["/var/lib/apt/periodic/update-success-stamp"]
    if glob.glob("/var/lib/apt/lists/*_Packages*"):
        stamps.append("/var/lib/apt/lists")
    times = [os.stat(path).st_mtime for path in stamps if os.path.exists(path)]
    return int(time.time() - max(times)) if times and len(stamps) == 2 else 10**9


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sysctl": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "str", "default": []},
            "storage": {"type": "path", "default": "/var/lib"},
        },
        supports_check_mode=True,
    )
    release = parse_assignments(read("/etc/os-release"))
    status = read("/var/lib/dpkg/status")
    journal = os.listdir("/var/lib/dpkg/updates") if os.path.isdir("/var/lib/dpkg/updates") else []
    zone = os.path.realpath("/etc/localtime")
    module.exit_json(
        changed=False,
        ansible_facts={
            "packages": parse_dpkg_status(status),
            "trading_host": {
                "system": release.get("ID", "unknown"),
                "version": release.get("VERSION_ID", "unknown"),
                "systemd": os.path.isdir("/run/systemd/system"),
                "container": container(),
                "may_set_clock": may_set_clock(),
                "cores": len(os.sched_getaffinity(0)),
                "memory_mb": memory_mb(),
                "storage": storage(module.params["storage"]),
                "network_mbps": network_mbps(),
                "time_zone": zone.partition("/zoneinfo/")[2] or "UTC",
                "sysctl": settings(module.params["sysctl"]),
                "users": accounts(module.params["users"]),
                "ssh_connection": ssh_connection(),
                "half_installed": half_installed(status, journal),
                "package_index_age": package_index_age(),
            },
        },
    )


if __name__ == "__main__":
    main()
