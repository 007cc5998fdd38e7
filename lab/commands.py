"""Running other programs: to completion with their output, or detached in a cgroup of their own."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

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


def become(command: Sequence[str]) -> NoReturn:
    """Replace this process: signals, terminal and exit code are the other program's."""
    sys.stdout.flush()
    os.execvp(command[0], list(command))  # noqa: S606 - no shell is wanted: the words are the program's as they are


def inside(cgroups: Sequence[Path], command: Sequence[str]) -> list[str]:
    """The command line that enters the cgroups and then becomes `command`."""
    enter = 'for group in $0; do echo $$ > "$group/cgroup.procs" || exit 125; done; exec "$@"'
    return ["/bin/sh", "-c", enter, " ".join(str(group) for group in cgroups), *command]


def detach(command: Sequence[str], *, log: Path, cgroups: Sequence[Path], environment: Mapping[str, str] | None = None) -> None:
    """Start a program that outlives us: own session, output to `log`, nothing of ours kept open.

    It is in its cgroups before it begins, so whoever looks there after we return sees it, or that it has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    for group in cgroups:
        (group / "cgroup.procs").write_text(str(process.pid))
    if process.stdin is not None:
        process.stdin.write(b"go\n")
        process.stdin.close()
