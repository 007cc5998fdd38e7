"""One package cache for all labs of this machine: apt-cacher-ng on loopback, its files kept until `down --purge`.

Each lab offers it at its own address (lab.services); bootstrapping an image goes through it, too, so that no
package crosses the outer network twice.
"""

import contextlib
import shutil
import socket
import time
from pathlib import Path

from lab import cgroup, mirror, state
from lab.commands import detach, run
from lab.report import LabError

_PORT = 31420
LOCAL = f"127.0.0.1:{_PORT}"
_GROUP = "package-cache"
_USER = "apt-cacher-ng"
_CONFIG = state.STATE / "package-cache"
_FILES = state.CACHE / "packages"
_READY_DEADLINE = 20


def _config() -> str:
    lines = [
        f"CacheDir: {_FILES}",
        f"LogDir: {_CONFIG}/log",
        "SupportDir: /usr/lib/apt-cacher-ng",
        f"SocketPath: {_CONFIG}/run/socket",
        f"PidFile: {_CONFIG}/run/pid",
        f"Port: {_PORT}",
        "BindAddress: 127.0.0.1",
        "ForeGround: 1",
        "VerboseLog: 0",
        # Packages are kept; `down --purge` is what throws them away.
        "ExThreshold: 3650",
    ]
    proxy = mirror.outer_proxy()
    return "\n".join([*lines, f"Proxy: {proxy}"] if proxy else lines) + "\n"


def ensure() -> None:
    """Start the cache if it does not answer; safe to call from several commands at once."""
    with state.locked("package-cache"):
        config = _config()
        file = _CONFIG / "acng.conf"
        if _answers() and cgroup.running(_GROUP) and file.exists() and file.read_text() == config:
            return
        cgroup.kill(_GROUP)
        if _answers():
            raise LabError(f"something that is not the lab listens on {LOCAL}; see: ss -ltnp 'sport = :{_PORT}'")
        _start(file, config)


def _start(file: Path, config: str) -> None:
    for directory in (_FILES, _CONFIG / "log", _CONFIG / "run"):
        directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(directory, _USER, _USER)
    state.write(file, config)
    detach(
        ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "apt-cacher-ng", "-c", str(_CONFIG)],
        log=_CONFIG / "output.log",
        cgroups=cgroup.create(_GROUP),
    )
    until = time.monotonic() + _READY_DEADLINE
    while not _answers():
        if time.monotonic() > until:
            raise LabError(f"the package cache does not answer on {LOCAL} after {_READY_DEADLINE} s; see {_CONFIG}/output.log")
        time.sleep(0.05)


def _answers() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", _PORT), timeout=1):
            return True
    except OSError:
        return False


def stop() -> None:
    """Stop the cache and forget its settings; the packages stay."""
    with state.locked("package-cache"):
        cgroup.remove(_GROUP)
        shutil.rmtree(_CONFIG, ignore_errors=True)


def purge() -> None:
    """Throw the cached packages away."""
    if _FILES.exists():
        run(["rm", "--recursive", "--force", "--one-file-system", str(_FILES)], timeout=300)
    with contextlib.suppress(OSError):
        state.CACHE.rmdir()
