"""What a row of looks at a part makes of it. Pure: the time is told.

One failed look is a doubt, not an outage: the part is "suspect" until `failures` looks in a row have failed; then it is "down".
One good look brings it back. "degraded" is what a part says of itself while it still works.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["unknown", "up", "degraded", "suspect", "down"]
Verdict = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw. `detail` says why it is not well."""

    ok: bool
    degraded: bool = False
    detail: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """A part and how it is: since when (epoch seconds), and how many looks in a row failed."""

    name: str
    critical: bool
    status: Status = "unknown"
    since: float = 0.0
    failed_in_a_row: int = 0
    detail: str = ""
    latency_ms: float = 0.0
    looked_at: float = 0.0

    def after(self, look: Look, now: float, failures: int) -> Part:
        """The part, one look later."""
        failed = 0 if look.ok else self.failed_in_a_row + 1
        if look.ok:
            status: Status = "degraded" if look.degraded else "up"
        else:
            status = "down" if failed >= failures else "suspect"
        return replace(
            self,
            status=status,
            since=self.since if status == self.status else now,
            failed_in_a_row=failed,
            detail=look.detail,
            latency_ms=look.latency_ms,
            looked_at=now,
        )


def verdict(parts: list[Part]) -> Verdict:
    """Of the whole: unhealthy when a critical part is down or was never seen well, degraded when any is not well."""
    if any(part.critical and (part.status in ("down", "unknown")) for part in parts):
        return "unhealthy"
    return "healthy" if all(part.status == "up" for part in parts) else "degraded"
