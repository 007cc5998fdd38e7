"""Rate limits: request weight a minute and orders in ten seconds, in windows of the clock as Binance has them.

Who goes on asking after being told to stop is banned, longer each time. Nothing of it survives a restart.
"""

from __future__ import annotations

from dataclasses import dataclass

from trading_platform.paper_venue.errors import VenueError

MINUTE_MS = 60_000
TEN_SECONDS_MS = 10_000
BAN_AFTER = 20  # refusals in one minute
FIRST_BAN_MS = 120_000
LONGEST_BAN_MS = 3 * 86_400_000


@dataclass(slots=True)
class _Count:
    window: int = 0
    used: int = 0

    def add(self, now_ms: int, interval_ms: int, amount: int) -> int:
        window = now_ms // interval_ms
        if window != self.window:
            self.window, self.used = window, 0
        self.used += amount
        return self.used


@dataclass(slots=True)
class _Caller:
    weight: _Count
    orders: _Count
    refusals: _Count
    banned_until_ms: int = 0
    ban_ms: int = FIRST_BAN_MS


class Limits:
    """Counts by caller: an account, or the address of who has no key."""

    def __init__(self, weight_per_minute: int, orders_per_10_s: int) -> None:
        self.weight_per_minute = weight_per_minute
        self.orders_per_10_s = orders_per_10_s
        self._callers: dict[str, _Caller] = {}

    def charge(self, caller: str, weight: int, now_ms: int) -> int:
        """Weight used in this minute, this request included. Raises 429 above the limit and 418 for the banned."""
        state = self._of(caller)
        if now_ms < state.banned_until_ms:
            raise self.banned(state.banned_until_ms, now_ms)
        used = state.weight.add(now_ms, MINUTE_MS, weight)
        if used > self.weight_per_minute:
            message = (
                f"Too much request weight used; current limit is {self.weight_per_minute} request weight per 1 MINUTE. "
                "Please use WebSocket Streams for live updates to avoid polling the API."
            )
            raise self._refuse(state, now_ms, MINUTE_MS, -1003, message)
        return used

    def count_order(self, caller: str, now_ms: int) -> int:
        """Orders of these ten seconds, this one included. Raises 429."""
        state = self._of(caller)
        used = state.orders.add(now_ms, TEN_SECONDS_MS, 1)
        if used > self.orders_per_10_s:
            message = f"Too many new orders; current limit is {self.orders_per_10_s} orders per 10 SECOND."
            raise self._refuse(state, now_ms, TEN_SECONDS_MS, -1015, message)
        return used

    def orders(self, caller: str, now_ms: int) -> int:
        return self._of(caller).orders.add(now_ms, TEN_SECONDS_MS, 0)

    def weight(self, caller: str, now_ms: int) -> int:
        return self._of(caller).weight.add(now_ms, MINUTE_MS, 0)

    @staticmethod
    def banned(until_ms: int, now_ms: int) -> VenueError:
        message = (
            f"Way too much request weight used; IP banned until {until_ms}. Please use WebSocket Streams for live updates to avoid bans."
        )
        return _stop(418, -1003, message, until_ms, now_ms)

    def _refuse(self, state: _Caller, now_ms: int, interval_ms: int, code: int, message: str) -> VenueError:
        if state.refusals.add(now_ms, MINUTE_MS, 1) >= BAN_AFTER:
            state.banned_until_ms = now_ms + state.ban_ms
            state.ban_ms = min(state.ban_ms * 2, LONGEST_BAN_MS)
            return self.banned(state.banned_until_ms, now_ms)
        until_ms = (now_ms // interval_ms + 1) * interval_ms
        return _stop(429, code, message, until_ms, now_ms)

    def _of(self, caller: str) -> _Caller:
        state = self._callers.get(caller)
        if state is None:
            if len(self._callers) >= 10_000:
                self._callers.pop(next(iter(self._callers)))
            state = self._callers[caller] = _Caller(_Count(), _Count(), _Count())
        return state


def _stop(status: int, code: int, message: str, until_ms: int, now_ms: int) -> VenueError:
    seconds = max(1, -(-(until_ms - now_ms) // 1_000))
    return VenueError(status, code, message, {"Retry-After": str(seconds)}, {"serverTime": now_ms, "retryAfter": until_ms})
