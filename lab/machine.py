"""One host: its overlay above the image, its identity, booting it, losing it, and waiting until it answers.

A host runs when its cgroup is populated; its first process (the guest's systemd) is found there as well.
"""

import os
import re
import secrets
import shutil
import socket
import stat
import time
from pathlib import Path

from lab import certificates, cgroup, image, state
from lab.commands import detach, inside, run, succeeds
from lab.report import LabError, say
from lab.state import Host, Lab

BOOT_DEADLINE = 120
# systemd-nspawn that keeps its unit ends with 133 when the guest reboots, and expects to be started again
# in a control group as empty as the first one.
_KEEPER = """
while :; do
    for place in $0; do
        find "$place" -depth -type d -exec rmdir {} +
        mkdir "$place"
    done
    "$@"
    [ $? -eq 133 ] || exit
done
"""
_NSPAWN_RUN = Path("/run/systemd/nspawn")


def running(lab: Lab, host: Host) -> bool:
    """Whether the host is switched on."""
    return cgroup.running(lab.cgroup(host.name))


def mounted(host: Host) -> bool:
    """Whether the host's root file system is mounted outside."""
    return os.path.ismount(host.root)


def prepare(lab: Lab, host: Host) -> None:
    """Give the host its disk: an overlay above the image, with its identity written once."""
    upper, work = host.directory / "upper", host.directory / "work"
    for directory in (upper, work, host.root):
        directory.mkdir(parents=True, exist_ok=True)
    if not mounted(host):
        options = f"lowerdir={image.path(lab.image)},upperdir={upper},workdir={work}"
        run(["mount", "-t", "overlay", f"lab-{host.machine}", "-o", options, str(host.root)])
    identified = host.directory / "identified"
    if not identified.exists():
        _identify(lab, host)
        identified.touch()


def _identify(lab: Lab, host: Host) -> None:
    """What makes a clone a host of its own: names, address, machine id, ssh keys, the way to its packages."""
    etc = host.root / "etc"
    state.write(etc / "hostname", f"{host.name}\n")
    # The name resolves to the real address: databases announce themselves to their peers by it.
    state.write(etc / "hosts", f"127.0.0.1 localhost\n::1 localhost\n{host.address} {host.fqdn} {host.name}\n")
    state.write(etc / "machine-id", f"{secrets.token_hex(16)}\n", 0o444)
    state.write(etc / "resolv.conf", f"nameserver {lab.gateway}\nsearch {state.DOMAIN}\n")
    state.write(
        etc / "systemd/network/10-lab.network",
        f"[Match]\nName=host0\n\n[Network]\nAddress={host.address}/24\nGateway={lab.gateway}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    )
    state.write(etc / "apt/apt.conf.d/50lab", f'Acquire::http::Proxy "http://{lab.gateway}:3142";\n')
    key = host.directory / "ssh_host_ed25519_key"
    certificates.ssh_key(key, host.fqdn)
    state.write(etc / "ssh/ssh_host_ed25519_key", key.read_text(), 0o600)
    state.write(etc / "ssh/ssh_host_ed25519_key.pub", key.with_name(f"{key.name}.pub").read_text())
    login = certificates.ssh_key(lab.directory / "id_ed25519", f"lab {lab.name}")
    for home in ("root", "home/operator"):
        _authorize(host.root / home, login)


def _authorize(home: Path, public_key: str) -> None:
    owner = home.stat()
    directory = home / ".ssh"
    directory.mkdir(mode=0o700, exist_ok=True)
    state.write(directory / "authorized_keys", f"{public_key}\n", 0o600)
    for path in (directory, directory / "authorized_keys"):
        os.chown(path, owner.st_uid, owner.st_gid)


def boot(lab: Lab, host: Host) -> None:
    """Switch the host on, if it is off; returns at once, wait_until_up() waits."""
    if running(lab, host):
        return
    prepare(lab, host)
    _forget_previous_run(host)
    command = [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        # There may be no outer systemd or machined to register with; the cgroup is ours.
        "--keep-unit",
        "--register=no",
        f"--machine={host.machine}",
        f"--hostname={host.name}",
        f"--directory={host.root}",
        f"--network-bridge={lab.bridge}",
        "--console=read-only",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        # Databases lock memory. The clock stays the outer kernel's: no CAP_SYS_TIME.
        "--capability=CAP_IPC_LOCK",
    ]
    environment = {
        # Inside, cgroup version 2 as on any Debian since 11, whatever the outer system uses.
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        # /tmp is what the guest's Debian makes of it: a directory in 12, a tmpfs in 13.
        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
    }
    group = lab.cgroup(host.name)
    places = cgroup.create(f"{group}/machine")
    keeper = ["/bin/sh", "-c", _KEEPER, " ".join(str(place) for place in places), *inside(places, command)]
    detach(keeper, log=host.directory / "console.log", cgroups=cgroup.create(f"{group}/keeper"), environment=environment)


def _forget_previous_run(host: Host) -> None:
    """Remove what systemd-nspawn leaves in /run when it is killed."""
    shutil.rmtree(_NSPAWN_RUN / "propagate" / host.machine, ignore_errors=True)
    succeeds(["ip", "link", "delete", host.interface])
    # The lock file of the root directory is named after its device and inode.
    if mounted(host):
        root = host.root.stat()
        (_NSPAWN_RUN / "locks" / f"inode-{root.st_dev}:{root.st_ino}").unlink(missing_ok=True)


def leader(lab: Lab, host: Host) -> int:
    """The outer pid of the host's first process; raises LabError when the host is off."""
    depth = len(_pids_by_namespace("self"))
    for pid in cgroup.processes(lab.cgroup(host.name)):
        pids = _pids_by_namespace(str(pid))
        if len(pids) == depth + 1 and pids[-1] == "1":
            return pid
    raise LabError(f"{host.name} is not running; type: bin/lab start {host.name}")


def _pids_by_namespace(pid: str) -> list[str]:
    """The process's pid as each pid namespace sees it, outermost first; empty when it is gone."""
    try:
        status = Path("/proc", pid, "status").read_text()
    except OSError:
        return []
    return next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])


def wait_until_up(lab: Lab, host: Host, *, deadline: float = BOOT_DEADLINE) -> None:
    """Poll until an operator can log in; raises LabError with the end of the boot log after the deadline."""
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        if _ssh_answers(host) and succeeds([*ssh_command(lab, host), "true"], timeout=10):
            return
        if not running(lab, host):
            raise LabError(f"{host.name} went off while booting; {_console(host)}")
        time.sleep(0.1)
    raise LabError(f"{host.name} cannot be logged in to after {deadline:.0f} s: {_why_no_login(lab, host)}; {_console(host)}")


def _why_no_login(lab: Lab, host: Host) -> str:
    try:
        run([*ssh_command(lab, host), "true"], timeout=10)
    except LabError as error:
        return str(error)
    return "it answers now"


def _console(host: Host) -> str:
    log = host.directory / "console.log"
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", log.read_text(errors="replace"))
    return "\n  ".join([f"the end of {log}:", *[line for line in text.splitlines() if line.strip()][-12:]])


def _ssh_answers(host: Host) -> bool:
    try:
        with socket.create_connection((host.address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def ssh_command(lab: Lab, host: Host) -> list[str]:
    """How to log in to the host as the operator, with pinned host keys and without a question."""
    return ["ssh", "-F", str(lab.directory / "ssh_config"), host.name]


def enter_command(lab: Lab, host: Host) -> list[str]:
    """How to run a command in the host as root without the network: it works however broken ssh or the firewall is."""
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
    environment.append(f"TERM={os.environ.get('TERM', 'dumb')}")
    return [
        *["nsenter", f"--target={leader(lab, host)}", "--all", "--wdns=/root"],
        *["/usr/bin/env", "-i", *environment],
    ]


def power_cut(lab: Lab, host: Host) -> None:
    """Every process of the host is gone at once; its disk stays as it was."""
    cgroup.kill(lab.cgroup(host.name))


def reboot(lab: Lab, host: Host) -> None:
    """An orderly restart from inside; returns when the new boot can be logged in to."""
    before = leader(lab, host)
    run([*enter_command(lab, host), "systemctl", "--no-block", "reboot"])
    until = time.monotonic() + BOOT_DEADLINE
    while _is_leader(lab, host, before):
        if time.monotonic() > until:
            raise LabError(f"{host.name} did not go down within {BOOT_DEADLINE} s; {_console(host)}")
        time.sleep(0.1)
    wait_until_up(lab, host)


def _is_leader(lab: Lab, host: Host, pid: int) -> bool:
    try:
        return leader(lab, host) == pid
    except LabError:
        return False


def remove(lab: Lab, host: Host) -> None:
    """Switch the host off and take everything of it away, its disk included."""
    cgroup.remove(lab.cgroup(host.name))
    _forget_previous_run(host)
    if mounted(host):
        run(["umount", str(host.root)])
    if host.directory.exists():
        _remove_directory(host.directory)


def _remove_directory(directory: Path) -> None:
    """rm that never crosses into another file system and copes with the kernel's mode-000 work directory."""
    for entry in directory.iterdir():
        if stat.S_ISDIR(entry.lstat().st_mode) and os.path.ismount(entry):
            raise LabError(f"{entry} is still mounted; see: fuser -vm {entry}")
    run(["rm", "--recursive", "--force", "--one-file-system", str(directory)], timeout=300)


def announce(host: Host) -> None:
    """Say that the host can be used."""
    say(f"{host.name}: up at {host.address}")
