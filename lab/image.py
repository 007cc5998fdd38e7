"""The host image: bare Debian, bootstrapped once per release and never changed afterwards.

Hosts are overlays above it. Its directory carries a fingerprint of the recipe and of the mirrors, so a changed
recipe makes a new image beside the old one, and a run killed half-way leaves only a directory nobody refers to.
"""

import hashlib
import json
import shutil
from pathlib import Path

from lab import cgroup, mirror, package_cache, state
from lab.commands import inside, run
from lab.report import LabError, say

# What a freshly installed Debian server has and the playbooks may rely on; everything else is theirs to install.
_PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tzdata",
)

# Raise this when what _furnish() writes changes.
_RECIPE = 1

_IMAGES = state.STATE / "image"
_BUILD_DEADLINE = 900


def path(image: str) -> Path:
    """The directory of an image by its name."""
    return _IMAGES / image


def ensure(release: str) -> str:
    """The name of the image for `release`, bootstrapped now if this machine has none yet."""
    with state.locked(f"image-{release}"):
        sources = mirror.of_this_machine(release)
        name = f"{release}-{_fingerprint(sources)}"
        if not path(name).is_dir():
            _bootstrap(release, name, sources)
            remove_unused(release, kept=name)
        return name


def _fingerprint(sources: list[mirror.Source]) -> str:
    recipe = json.dumps([_RECIPE, _PACKAGES, [mirror.as_one_line(source) for source in sources], mirror.settings()])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def _bootstrap(release: str, name: str, sources: list[mirror.Source]) -> None:
    say(f"image {release}: bootstrapping bare Debian (once)")
    building = _IMAGES / f".{release}.building"
    builder = f"image-{release}"
    # An earlier run may have been killed while its mmdebstrap goes on.
    cgroup.kill(builder)
    _remove_tree(building)
    building.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"',
        f'--aptopt=Acquire::http::Proxy "http://{package_cache.LOCAL}"',
        *(f"--aptopt={setting.rstrip(';')}" for setting in mirror.settings()),
        release,
        str(building),
        "-",
    ]
    listed = "\n".join(mirror.as_one_line(mirror.through_cache(source)) for source in sources) + "\n"
    try:
        run(inside(cgroup.create(builder), command), stdin=listed, timeout=_BUILD_DEADLINE)
        _furnish(building, sources)
        run(["sync", "--file-system", str(building)], timeout=120)
        building.rename(path(name))
    finally:
        cgroup.remove(builder)
        _remove_tree(building)
    say(f"image {release}: ready")


def _furnish(root: Path, sources: list[mirror.Source]) -> None:
    """What an operator would do on every new server before the first playbook run: a login, a network, apt's sources."""
    apt = root / "etc/apt"
    (apt / "sources.list").unlink(missing_ok=True)
    (apt / "apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    entries = "\n".join(mirror.as_deb822(mirror.through_cache(source)) for source in sources)
    state.write(apt / "sources.list.d/debian.sources", entries)
    state.write(apt / "apt.conf.d/50mirror", "".join(f"{line}\n" for line in mirror.settings()))
    for source in sources:
        _copy_foreign_key(root, source.signed_by)

    in_root = ["chroot", str(root)]
    # Debian has a group of this name already, so the login takes it as its own.
    run([*in_root, "useradd", "--create-home", "--shell", "/bin/bash", "--gid", "operator", "operator"])
    state.write(root / "etc/sudoers.d/operator", "operator ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440)

    # Every clone gets its own: host keys and identity must never be shared.
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    state.write(root / "etc/machine-id", "uninitialized\n", 0o444)
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "var/log/journal").mkdir(exist_ok=True)

    units = ["systemctl", "--quiet", f"--root={root}"]
    run([*units, "enable", "systemd-networkd.service", "ssh.service"])
    # apt's own timers would take the package lock in the middle of a play; a login prompt would write to the boot log.
    run([*units, "mask", "apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "getty.target"])


def _copy_foreign_key(root: Path, signed_by: str) -> None:
    """A mirror signed by a company's own key needs that key in the hosts at the same place."""
    if signed_by.startswith("/") and not (root / signed_by.lstrip("/")).exists():
        copy = root / signed_by.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(signed_by, copy)


def _remove_tree(directory: Path) -> None:
    if not directory.exists():
        return
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for where in sorted((place for place in mounted if place.startswith(f"{directory}/")), reverse=True):
        run(["umount", "--lazy", where])
    shutil.rmtree(directory)


def remove_unused(release: str = "", kept: str = "") -> list[str]:
    """Delete the images, of one release or of all, that no lab uses and that are not `kept`; returns their names."""
    labs = state.every()
    used = {kept, *(lab.image for lab in labs)}
    # A lab that is being made has a release already, and its image in a moment.
    awaited = {lab.release for lab in labs if not lab.image}
    removed = []
    for directory in _IMAGES.glob(f"{release}*"):
        if directory.name.startswith(".") or directory.name in used or directory.name.split("-")[0] in awaited - {release}:
            continue
        _remove_tree(directory.rename(directory.with_name(f".{directory.name}.removed")))
        removed.append(directory.name)
    return removed


def purge() -> None:
    """Delete every image, half-made ones included; for when there is no lab."""
    for directory in _IMAGES.glob("*"):
        _remove_tree(directory)


def check_filesystem() -> None:
    """Raises LabError when the state directory cannot carry overlays."""
    state.STATE.mkdir(parents=True, exist_ok=True)
    kind = run(["stat", "--file-system", "--format=%T", str(state.STATE)]).strip()
    if kind in ("overlayfs", "nfs", "tmpfs", "ramfs", "fuseblk"):
        raise LabError(
            f"{state.STATE} is on {kind}, which cannot carry the hosts' overlays; "
            f"needed: a local disk file system such as ext4 or xfs. Type: mount --bind /a/directory/on/a/disk {state.STATE}"
        )
