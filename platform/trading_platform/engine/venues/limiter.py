"""A venue's rate limits: what may be asked of it when, and who goes first.

`Limits` is pure: told the time, what was sent and what the venue said of our usage, it says how long a request has to wait.
Cancels come before queries, queries before new orders, and a part of each limit is kept for those that come first. `Limiter`
is the queue in front of it. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from trading_platform.engine.venues import Usage


class Urgency(IntEnum):
    """Who goes first. NOW: cancels, and orders that close positions in an emergency."""

    NOW = 0
    QUERY = 1
    ORDER = 2


class RateLimited(Exception):
    """It cannot be sent in time without exceeding the venue's limits. Nothing was sent."""


# What of a limit is kept for those who go first.
_KEPT: Final = {
    "weight": {Urgency.NOW: 0.0, Urgency.QUERY: 0.10, Urgency.ORDER: 0.25},
    "orders": {Urgency.NOW: 0.0, Urgency.QUERY: 0.0, Urgency.ORDER: 0.10},
}
# Requests get closer to each other on their way, and those of one grain are remembered as one: a window is watched for longer
# than it lasts.
_STRETCH: Final = 1.02
_GRAINS: Final = 200
_TYPES: Final = {"REQUEST_WEIGHT": "weight", "ORDERS": "orders"}
_UNITS: Final = {"SECOND": 1, "MINUTE": 60, "HOUR": 3_600, "DAY": 86_400}
_LETTERS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_USED: Final = re.compile(r"x-mbx-(used-weight|order-count)-(\d+)([smhd])", re.IGNORECASE)
_DEFAULT_PAUSE_S: Final = {418: 120.0, 429: 5.0}


@dataclass(slots=True)
class _Window:
    """One limit. Whatever moment is looked at, not more than `allowed` was taken in the `interval_s` before it."""

    kind: str
    interval_s: int
    allowed: int
    used: int = 0
    taken: deque[list[float]] = field(default_factory=deque)

    @property
    def lasts(self) -> float:
        return self.interval_s * _STRETCH

    def forget(self, now: float) -> None:
        while self.taken and self.taken[0][0] + self.lasts <= now:
            self.used -= int(self.taken.popleft()[1])

    def take(self, amount: int, now: float) -> None:
        self.forget(now)
        self.used += amount
        if self.taken and now - self.taken[-1][0] < self.interval_s / _GRAINS:
            self.taken[-1][1] += amount
        else:
            self.taken.append([now, amount])

    def wait(self, amount: int, kept: float, now: float) -> float:
        self.forget(now)
        room = self.allowed - math.floor(self.allowed * kept)
        if amount > room:
            room = self.allowed
        if amount > room:
            return math.inf
        excess = self.used + amount - room
        if excess <= 0:
            return 0.0
        for at, part in self.taken:
            excess -= int(part)
            if excess <= 0:
                return at + self.lasts - now
        return self.lasts


class Limits:
    """The venue's limits and how far they are used, by our own account of it or the venue's, whichever is more."""

    def __init__(self, weight_per_minute: int, orders_per_10_s: int) -> None:
        self._windows = [_Window("weight", 60, weight_per_minute), _Window("orders", 10, orders_per_10_s)]
        self._all_until = -math.inf
        self._orders_until = -math.inf

    def learn(self, rate_limits: Sequence[Mapping[str, Any]]) -> None:
        """exchangeInfo's `rateLimits`. Ours stay where they are stricter."""
        for limit in rate_limits:
            kind, unit = _TYPES.get(str(limit.get("rateLimitType"))), _UNITS.get(str(limit.get("interval")))
            if kind is None or unit is None:
                continue
            interval, allowed = unit * int(limit["intervalNum"]), int(limit["limit"])
            known = self._window(kind, interval)
            if known is None:
                self._windows.append(_Window(kind, interval, allowed))
            else:
                known.allowed = min(known.allowed, allowed)

    def told(self, headers: Mapping[str, str], now: float) -> None:
        """An answer's headers: what the venue counted. What it counted more than we did, others used."""
        for name, value in headers.items():
            match = _USED.fullmatch(name)
            if match is None or not value.isascii() or not value.isdigit():
                continue
            kind = "weight" if match[1].lower() == "used-weight" else "orders"
            window = self._window(kind, int(match[2]) * _LETTERS[match[3].lower()])
            if window is None:
                continue
            window.forget(now)
            if int(value) > window.used:
                window.take(int(value) - window.used, now)

    def wait(self, urgency: Urgency, weight: int, orders: int, now: float) -> float:
        """Seconds until it may be sent; infinite when it never may."""
        pause = self._all_until - now
        if orders:
            pause = max(pause, self._orders_until - now)
        for window in self._windows:
            amount = weight if window.kind == "weight" else orders
            if amount:
                pause = max(pause, window.wait(amount, _KEPT[window.kind][urgency], now))
        return max(pause, 0.0)

    def take(self, weight: int, orders: int, now: float) -> None:
        """It is being sent."""
        for window in self._windows:
            amount = weight if window.kind == "weight" else orders
            if amount:
                window.take(amount, now)

    def block(self, seconds: float, now: float, *, orders_only: bool = False) -> None:
        """The venue said to come back later."""
        if orders_only:
            self._orders_until = max(self._orders_until, now + seconds)
        else:
            self._all_until = max(self._all_until, now + seconds)

    def usage(self, now: float) -> list[Usage]:
        for window in self._windows:
            window.forget(now)
        return [Usage(window.kind, window.used, window.allowed, window.interval_s) for window in self._windows]

    def _window(self, kind: str, interval_s: int) -> _Window | None:
        return next((one for one in self._windows if one.kind == kind and one.interval_s == interval_s), None)


@dataclass(slots=True)
class _Waiting:
    weight: int
    orders: int
    turn: asyncio.Future[None]


class Limiter:
    """The queue: first by urgency, then by arrival. For one event loop."""

    def __init__(
        self, limits: Limits, *, clock: Callable[[], float], jitter_s: float = 0.25, draw: Callable[[], float] = random.random
    ) -> None:
        self.limits = limits
        self._clock = clock
        self._jitter_s = jitter_s
        self._draw = draw
        self._queues: dict[Urgency, deque[_Waiting]] = {urgency: deque() for urgency in Urgency}
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, urgency: Urgency, *, weight: int, orders: int = 0, deadline: float) -> None:
        """Return when it may be sent, and count it. Raises RateLimited when that is not before `deadline`."""
        now = self._clock()
        wait = self.limits.wait(urgency, weight, orders, now)
        if wait <= 0 and not any(self._queues[one] for one in Urgency if one <= urgency):
            self.limits.take(weight, orders, now)
            return
        if now + wait > deadline:
            raise RateLimited(f"the venue's limits leave no room for {'more than its share' if math.isinf(wait) else f'{wait:.1f} s'}")
        waiting = _Waiting(weight, orders, asyncio.get_running_loop().create_future())
        self._queues[urgency].append(waiting)
        self._admit()
        try:
            async with asyncio.timeout(max(deadline - now, 0.0)):
                await waiting.turn
        except TimeoutError:
            raise RateLimited(f"the venue's limits left no room for {deadline - now:.1f} s") from None

    def refused(self, status: int, retry_after: str | None, *, orders_only: bool) -> None:
        """429 or 418: nothing was accepted, and for a while nothing more is sent. Not everybody comes back in the same moment."""
        try:
            seconds = float(retry_after) if retry_after is not None else _DEFAULT_PAUSE_S[status]
        except ValueError:
            seconds = _DEFAULT_PAUSE_S[status]
        if not 0 <= seconds <= 7 * 86_400:
            seconds = _DEFAULT_PAUSE_S[status]
        self.limits.block(seconds + self._draw() * self._jitter_s, self._clock(), orders_only=orders_only)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _admit(self) -> None:
        """Let go who may; come back when the next one may."""
        self.close()
        now, soonest = self._clock(), math.inf
        for urgency, queue in self._queues.items():
            while queue:
                first = queue[0]
                if first.turn.done():
                    queue.popleft()
                    continue
                wait = self.limits.wait(urgency, first.weight, first.orders, now)
                if wait > 0:
                    soonest = min(soonest, wait)
                    break
                queue.popleft()
                self.limits.take(first.weight, first.orders, now)
                first.turn.set_result(None)
        if not math.isinf(soonest):
            self._timer = asyncio.get_running_loop().call_later(soonest, self._admit)
