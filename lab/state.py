"""Where a lab's facts live on disk, and the locks that keep two commands from building the same thing.

One directory per lab under /var/lib/trading-lab/labs; its lab.json holds only what was decided (number,
topology, release, image). What runs is never written down: that is asked of the kernel.
"""

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.report import LabError, say

STATE = Path("/var/lib/trading-lab")
CACHE = Path("/var/cache/trading-lab")
PREFIX = "10.213"
_LOCKS = Path("/run/lock/trading-lab")
REPO = Path(__file__).resolve().parent.parent

DOMAIN = "lab.test"
BRIDGE = "tlab"
TOPOLOGIES = {"single": 1, "ha": 3}
RELEASES = ("bookworm", "trixie")
DEFAULT = "default"
NUMBERS = range(1, 251)


@dataclass(frozen=True)
class Host:
    """One host of a lab: its name, its address and the place of its files."""

    name: str
    address: str
    machine: str
    interface: str
    directory: Path

    @property
    def fqdn(self) -> str:
        return f"{self.name}.{DOMAIN}"

    @property
    def root(self) -> Path:
        """Where the host's root file system is mounted outside."""
        return self.directory / "root"


@dataclass(frozen=True)
class Lab:
    """What was decided about a lab when it was made."""

    name: str
    number: int
    topology: str
    release: str
    image: str

    @property
    def directory(self) -> Path:
        return STATE / "labs" / self.name

    @property
    def bridge(self) -> str:
        return f"{BRIDGE}{self.number}"

    @property
    def network_prefix(self) -> str:
        """The first three numbers of every address, with the last dot."""
        return f"{PREFIX}.{self.number}."

    @property
    def network(self) -> str:
        return network_of(self.number)

    @property
    def gateway(self) -> str:
        """The lab's own address: names, packages and certificates are served there."""
        return f"{self.network_prefix}1"

    @property
    def hosts(self) -> list[Host]:
        return [self._host(position) for position in range(1, TOPOLOGIES[self.topology] + 1)]

    def _host(self, position: int) -> Host:
        name = f"lab{position}"
        machine = f"{self.bridge}-{name}"
        return Host(name, f"{self.network_prefix}{10 + position}", machine, f"vb-{machine}", self.directory / "hosts" / name)

    def host(self, name: str) -> Host:
        """The host of that name; raises LabError naming the ones there are."""
        for host in self.hosts:
            if name in (host.name, host.fqdn):
                return host
        there = ", ".join(host.name for host in self.hosts)
        raise LabError(f"lab {self.name} has no host {name!r}; it has: {there}")

    def cgroup(self, part: str = "") -> str:
        """The cgroup of a host or a service of this lab, or of the whole lab."""
        return f"{self.bridge}/{part}" if part else self.bridge


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a whole file or none of it; a reader never sees half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    temporary.replace(path)


def check_name(name: str) -> str:
    """A lab's name becomes a directory: letters, digits and dashes; raises LabError otherwise."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name):
        raise LabError(f"a lab's name is made of small letters, digits and dashes, at most 41 of them; this is {name!r}")
    return name


def find(name: str) -> Lab | None:
    """The lab of that name as it was decided, or None."""
    file = STATE / "labs" / check_name(name) / "lab.json"
    try:
        return Lab(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise LabError(f"{file} cannot be read ({error}); `bin/lab down --name {name}` removes that lab") from error


def get(name: str) -> Lab:
    """The lab of that name; raises LabError when there is none."""
    lab = find(name)
    if lab is None:
        raise LabError(f"there is no lab {name!r}; type: bin/lab up" + ("" if name == DEFAULT else f" --name {name}"))
    return lab


def names() -> list[str]:
    """The names of all labs on this machine, readable or not."""
    return sorted(directory.name for directory in (STATE / "labs").glob("*"))


def every() -> list[Lab]:
    """All labs on this machine, by number."""
    labs = [find(name) for name in names()]
    return sorted((lab for lab in labs if lab is not None), key=lambda lab: lab.number)


def save(lab: Lab) -> None:
    """Write down what was decided, where only root looks: below are keys and whole file systems."""
    STATE.mkdir(parents=True, exist_ok=True)
    (STATE / "labs").mkdir(mode=0o700, exist_ok=True)
    write(lab.directory / "lab.json", json.dumps(asdict(lab), indent=2) + "\n")


def network_of(number: int) -> str:
    """The addresses of the lab with this number."""
    return f"{PREFIX}.{number}.0/24"


def remove_empty() -> None:
    """Take the directories of the state away that hold nothing any more."""
    for directory in (STATE / "labs", STATE / "image", STATE):
        with contextlib.suppress(OSError):
            directory.rmdir()


@contextlib.contextmanager
def locked(what: str, *, deadline: float = 1800) -> Iterator[None]:
    """Hold the lock `what`; says so once when another command holds it, and gives up after the deadline."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    with (_LOCKS / what).open("a+") as file:
        until = time.monotonic() + deadline
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LabError(f"another bin/lab has held {what} for {deadline:.0f} s; see: fuser -v {_LOCKS / what}") from None
                if not told:
                    say(f"waiting: another bin/lab works on {what}")
                    told = True
                time.sleep(0.1)
        yield
