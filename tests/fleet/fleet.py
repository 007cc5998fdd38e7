"""A lab as the fleet tests see it: hosts to boot and break, playbooks to run, and what they said.

Everything goes the way an operator goes: bin/lab, ansible-playbook, ssh. Nothing here knows how the lab works inside.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
LABS = Path("/var/lib/trading-lab/labs")
RECAP = re.compile(
    r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)\s+unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)", re.M
)


T = TypeVar("T")


class NotReached(AssertionError):
    """A condition did not come true before its deadline; the message says what was seen last."""


def until(what: str, seconds: float, probe: Callable[[], T | None], every: float = 1.0) -> T:
    """Polls until `probe` returns something truthy; fails with what it saw last."""
    deadline = time.monotonic() + seconds
    seen: T | str | None = None
    while time.monotonic() < deadline:
        try:
            seen = probe()
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            seen = repr(error)
        else:
            if seen:
                return seen
        time.sleep(every)
    raise NotReached(f"{what}: not within {seconds:.0f} s; last seen: {seen}")


@dataclass(frozen=True)
class Run:
    """One ansible-playbook run: its exit code, its whole output, its recap and how long it took."""

    code: int
    output: str
    seconds: float

    @property
    def changed(self) -> dict[str, int]:
        return {row["host"]: int(row["changed"]) for row in RECAP.finditer(self.output)}

    def changed_tasks(self) -> list[str]:
        task, found = "?", []
        for line in self.output.splitlines():
            if line.startswith("TASK ["):
                task = line[6 : line.rfind("]")]
            elif line.startswith("changed:"):
                found.append(f"{task}: {line}")
        return found

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.output.splitlines()[-lines:])


class Fleet:
    """A named lab. Hosts are lab1, lab2, …"""

    def __init__(self, name: str, topology: str) -> None:
        self.name = name
        self.topology = topology
        self.state = LABS / name
        self.hosts = ["lab1"] if topology == "single" else ["lab1", "lab2", "lab3"]

    @property
    def inventory(self) -> Path:
        return self.state / "inventory"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.state / "vault-password"),
            "ANSIBLE_NOCOLOR": "1",
        }

    def lab(self, *arguments: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "bin/lab"), arguments[0], "--name", self.name, *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def boot(self) -> None:
        self.lab("up", "--hosts-only", "--topology", self.topology)

    def up(self) -> Run:
        """The newcomer's command: hosts and platform in one go."""
        began = time.monotonic()
        done = self.lab("up", "--topology", self.topology, check=False, timeout=1500)
        return Run(done.returncode, done.stdout + done.stderr, time.monotonic() - began)

    def remove(self) -> None:
        self.lab("down")

    def on(self, host: str, command: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a shell command on a host as root."""
        done = self.lab("exec", host, "--", "bash", "-c", command, check=False, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{host}: {command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def _command(self, playbook: str, arguments: Sequence[str]) -> list[str]:
        return [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(self.inventory), str(ROOT / "ansible" / playbook), *arguments]

    def play(self, playbook: str, *arguments: str, timeout: float = 1200) -> Run:
        began = time.monotonic()
        done = subprocess.run(
            self._command(playbook, arguments),
            cwd=ROOT,
            env=self.environment,
            text=True,
            timeout=timeout,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return Run(done.returncode, done.stdout, time.monotonic() - began)

    def play_until(self, playbook: str, marker: str, timeout: float = 900) -> str:
        """Runs a playbook and kills it, hard, as soon as a task whose name contains `marker` has begun. Returns its output."""
        began = time.monotonic()
        with subprocess.Popen(
            self._command(playbook, ()),
            cwd=ROOT,
            env={**self.environment, "PYTHONUNBUFFERED": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("TASK [") and marker in line:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    return "".join(lines)
                assert time.monotonic() - began < timeout, f"{marker!r} was not reached in {timeout} s"
        raise AssertionError(f"the run ended before a task named like {marker!r}:\n{''.join(lines[-60:])}")

    def health(self, host: str) -> tuple[int, dict[str, str]]:
        """health_check.sh on a host: its exit code, and the state of each part."""
        done = self.on(host, "health_check.sh --json", check=False)
        report = json.loads(done.stdout)
        return done.returncode, {part["part"]: part["status"] for part in report["parts"]}

    def healthy(self, host: str, seconds: float = 120) -> None:
        def well() -> bool | None:
            code, parts = self.health(host)
            if code == 0:
                return True
            raise ValueError(f"exit {code}: { {part: status for part, status in parts.items() if status != 'ok'} }")

        until(f"{host} healthy", seconds, well, every=2)
