"""What the lab says while it works: one line per step with the time since the start, and refusals.

Everything goes to standard error, so that the output of `exec`, `ssh` and `status --json` stays clean.
"""

import sys
import time

_STARTED = time.monotonic()


class LabError(Exception):
    """A refusal or a failure the operator can act on: what was expected, what was found, what to do."""


def elapsed() -> float:
    """Seconds since the command began."""
    return time.monotonic() - _STARTED


def say(message: str) -> None:
    """Print one line of progress with the elapsed time."""
    print(f"{elapsed():7.1f}s  {message}", file=sys.stderr, flush=True)
