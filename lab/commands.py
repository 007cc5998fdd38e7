"""Running other programs: to completion with their output, or detached in a cgroup of their own."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.report import LabError

_OUTPUT_SHOWN = 25


def run(command: Sequence[str], *, stdin: str = "", timeout: float = 60) -> str:
    """Run to completion and return standard output; raises LabError with the end of the output if it fails."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise LabError(f"`{shlex.join(command)}` did not finish within {timeout:.0f} s") from None
    if done.returncode != 0:
        shown = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_OUTPUT_SHOWN:])
        raise LabError(f"`{shlex.join(command)}` failed with exit code {done.returncode}:\n{shown}")
    return done.stdout


def succeeds(command: Sequence[str], *, timeout: float = 60) -> bool:
    """Whether the command ends with exit code 0 in time; its output is thrown away."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def inside(cgroups: Sequence[Path], command: Sequence[str]) -> list[str]:
    """The command line that enters the cgroups and then becomes `command`."""
    enter = 'for group in $GROUPS_TO_ENTER; do echo $$ > "$group/cgroup.procs" || exit 125; done; unset GROUPS_TO_ENTER; exec "$@"'
    groups = " ".join(str(group) for group in cgroups)
    return ["/usr/bin/env", f"GROUPS_TO_ENTER={groups}", "/bin/sh", "-c", enter, "sh", *command]


def detach(command: Sequence[str], *, log: Path, cgroups: Sequence[Path], environment: Mapping[str, str] | None = None) -> int:
    """Start a program that outlives us: own session, own cgroup, output to `log`, nothing of ours kept open."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            inside(cgroups, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    return process.pid
