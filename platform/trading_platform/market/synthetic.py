"""A seeded synthetic market: where the platform's quotes and trades come from when no venue is connected.

The market is a pure function of (seed, instrument, instant). Two hosts with one seed see one market, so a stand-by that takes
over, or a service that restarts, continues the same path instead of jumping to another price. Nothing here reads a clock.

A day's path runs on a grid of seconds: fat-tailed returns scaled by a regime (calm, normal, turbulent), by the hour's activity
and by rare jumps, bent so that it begins and ends on levels that follow a bounded walk over the days. Within a second, quotes
and trades arrive at random, in bursts when the market moves, stamped on the venue's publication grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trading_platform.batches import ASK, BID, BUY_AGGRESSOR, SELL_AGGRESSOR, SYNTHETIC, TRADE
from trading_platform.instruments import Instrument, Kind
from trading_platform.market.ticks import Ticks

SECOND_NS: Final = 1_000_000_000
DAY_SECONDS: Final = 86_400
YEAR_SECONDS: Final = 365 * DAY_SECONDS

# Streams of randomness: one number each, so that adding a consumer of randomness never shifts another's.
_LEVEL, _PATH, _SECOND = 1, 2, 3

_LEVEL_PERIODS_DAYS: Final = (1, 4, 16, 64)
_REGIME_VOLATILITY: Final = np.array([0.6, 1.0, 2.4])
_REGIME_SHARE: Final = np.array([0.35, 0.5, 0.15])
_REGIME_MINUTES: Final = 25
_JUMPS_PER_DAY: Final = 3.0
_TAIL_DEGREES: Final = 5.0


@dataclass(frozen=True, slots=True)
class SyntheticInstrument:
    """One instrument of the synthetic market; prices and sizes are integers at the instrument's own scales.

    `price` is the level the market wanders around, `tick` the smallest price step, `lot` the smallest size step, `typical_size`
    the median trade. `volatility` is annual (0.6 = 60 %), `spread` the usual spread in ticks, rates are per second.
    """

    instrument_id: int
    price: int
    tick: int
    lot: int
    typical_size: int
    volatility: float = 0.6
    spread: int = 2
    quotes_per_second: float = 4.0
    trades_per_second: float = 2.0


class SyntheticMarket:
    """Quotes and trades of several instruments for any span of time."""

    def __init__(self, instruments: Sequence[SyntheticInstrument], seed: int, publication_ms: int = 100) -> None:
        """`publication_ms` is the venue's grid: events carry the stamp of the slot they are published in; 0 keeps exact times."""
        self._instruments = tuple(instruments)
        self._seed = seed
        self._grid_ns = publication_ms * 1_000_000
        # A second is asked for many times when its ticks are released slot by slot; a day's path serves 86,400 seconds.
        self._second = lru_cache(maxsize=4)(self._make_second)
        self._day = lru_cache(maxsize=2 * max(1, len(self._instruments)))(self._make_day)

    def ticks(self, start_ns: int, end_ns: int) -> Ticks:
        """Every tick with start_ns <= ts_event < end_ns, in time order; a quote is a bid row followed by an ask row.

        However a span is cut into calls, the ticks are the same.
        """
        seconds = range(start_ns // SECOND_NS, -(-end_ns // SECOND_NS))
        ticks = Ticks.concatenate([self._second(second) for second in seconds])
        first, last = np.searchsorted(ticks.ts_event, [start_ns, end_ns], side="left")
        return ticks[int(first) : int(last)]

    def _make_second(self, second: int) -> Ticks:
        ticks = Ticks.concatenate([self._instrument_second(index, second) for index in range(len(self._instruments))])
        return ticks[np.argsort(ticks.ts_event, kind="stable")]

    def _instrument_second(self, index: int, second: int) -> Ticks:
        spec = self._instruments[index]
        rng = self._random(_SECOND, index, second)
        day, offset = divmod(second, DAY_SECONDS)
        path = self._day(index, day)
        here, there = path.log_price[offset], path.log_price[offset + 1]
        regime = path.volatility[offset]
        activity = _session_activity(offset)
        # The market talks more when it moves: a second that moved three of its standard deviations carries four times the events.
        burst = 1.0 + min(3.0, abs(there - here) / (regime * spec.volatility / np.sqrt(YEAR_SECONDS)) / 2.0)
        quotes = 1 + rng.poisson(spec.quotes_per_second * activity * burst)
        trades = rng.binomial(quotes, min(1.0, spec.trades_per_second / max(spec.quotes_per_second, 1e-9)))

        at = np.sort(rng.random(quotes))
        half_spread = 0.5 * spec.tick * spec.spread * np.sqrt(regime) * np.exp(rng.normal(0.0, 0.25, quotes))
        mid = spec.price * np.exp(here + (there - here) * at) + rng.normal(0.0, 0.3, quotes) * spec.tick
        bid = np.maximum(1, np.floor((mid - half_spread) / spec.tick)).astype(np.int64) * spec.tick
        ask = np.maximum(bid + spec.tick, np.ceil((mid + half_spread) / spec.tick).astype(np.int64) * spec.tick)
        quote_sizes = self._sizes(rng, spec, 2 * quotes, 8.0)

        traded = np.sort(rng.choice(quotes, size=trades, replace=False))
        buyer = rng.random(trades) < 0.5 + 0.25 * np.sign(there - here)
        trade_price = np.where(buyer, ask[traded], bid[traded])

        ts = second * SECOND_NS + (at * SECOND_NS).astype(np.int64)
        if self._grid_ns:
            ts -= ts % self._grid_ns
        # Rows of one event stay together: trade against the standing quote first, then the new quote's two sides.
        event = np.arange(quotes) * 3
        order = np.argsort(np.concatenate([event[traded], event + 1, event + 2]), kind="stable")
        return Ticks(
            instrument=np.full(trades + 2 * quotes, spec.instrument_id, dtype=np.uint32),
            ts_event=np.concatenate([ts[traded], ts, ts])[order],
            price=np.concatenate([trade_price, bid, ask])[order],
            size=np.concatenate([self._sizes(rng, spec, trades, 1.0), quote_sizes])[order],
            flags=np.concatenate(
                [
                    np.where(buyer, TRADE | BUY_AGGRESSOR, TRADE | SELL_AGGRESSOR).astype(np.uint8) | np.uint8(SYNTHETIC),
                    np.full(quotes, BID | SYNTHETIC, dtype=np.uint8),
                    np.full(quotes, ASK | SYNTHETIC, dtype=np.uint8),
                ]
            )[order],
        )

    @staticmethod
    def _sizes(rng: np.random.Generator, spec: SyntheticInstrument, count: int, scale: float) -> NDArray[np.int64]:
        lots = np.exp(rng.normal(0.0, 1.0, count)) * spec.typical_size * scale / spec.lot
        sizes: NDArray[np.int64] = np.maximum(1, np.rint(lots)).astype(np.int64) * spec.lot
        return sizes

    def _make_day(self, index: int, day: int) -> _Day:
        spec = self._instruments[index]
        rng = self._random(_PATH, index, day)
        minutes = DAY_SECONDS // 60
        stays = rng.geometric(1.0 / _REGIME_MINUTES, size=minutes)
        states = rng.choice(_REGIME_VOLATILITY.size, size=minutes, p=_REGIME_SHARE)
        regime = np.repeat(_REGIME_VOLATILITY[np.repeat(states, stays)[:minutes]], 60)
        per_second = spec.volatility / np.sqrt(YEAR_SECONDS)
        shocks = rng.standard_t(_TAIL_DEGREES, DAY_SECONDS) * np.sqrt((_TAIL_DEGREES - 2.0) / _TAIL_DEGREES)
        jumps = np.where(rng.random(DAY_SECONDS) < _JUMPS_PER_DAY / DAY_SECONDS, rng.normal(0.0, 40.0, DAY_SECONDS), 0.0)
        returns = per_second * (shocks * regime * np.sqrt(_SESSION) + jumps)
        walk = np.concatenate([[0.0], np.cumsum(returns)])
        opening, closing = self._level(index, day), self._level(index, day + 1)
        bend = np.linspace(opening, closing - walk[-1], DAY_SECONDS + 1)
        return _Day(log_price=walk + bend, volatility=regime)

    def _level(self, index: int, day: int) -> float:
        """Log distance of a day's opening from the instrument's price: a sum of slow waves, so bounded for ever."""
        daily = self._instruments[index].volatility * np.sqrt(DAY_SECONDS / YEAR_SECONDS)
        level = 0.0
        for period in _LEVEL_PERIODS_DAYS:
            node, into = divmod(day, period)
            left = self._random(_LEVEL, index, period, node).normal()
            right = self._random(_LEVEL, index, period, node + 1).normal()
            level += 0.7 * daily * np.sqrt(period) * (left + (right - left) * into / period)
        return float(level)

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, *key])))


@dataclass(frozen=True, slots=True)
class _Day:
    log_price: NDArray[np.float64]  # 86,401 values: the last is the next day's first
    volatility: NDArray[np.float64]  # 86,400 regime multipliers


def _session_curve() -> NDArray[np.float64]:
    """Activity over the UTC day: three sessions over a quiet floor, averaging about one."""
    hour = np.arange(DAY_SECONDS) / 3600.0
    curve = np.full(DAY_SECONDS, 0.55)
    for opens, width, height in ((1.5, 2.0, 0.5), (8.5, 2.2, 0.9), (14.5, 2.4, 1.3)):
        distance = np.minimum(np.abs(hour - opens), 24.0 - np.abs(hour - opens))
        curve += height * np.exp(-0.5 * (distance / width) ** 2)
    return curve / float(curve.mean())


_SESSION: Final = _session_curve()


def _session_activity(second_of_day: int) -> float:
    return float(_SESSION[second_of_day])


# What a synthetic instrument behaves like where the configuration does not say: level, annual volatility, spread in basis points.
_LEVELS: Final[dict[str, Decimal]] = {
    "BTCUSDT": Decimal(60_000),
    "ETHUSDT": Decimal(3_000),
    "SOLUSDT": Decimal(150),
    "EURUSD": Decimal("1.0850"),
    "XAUUSD": Decimal(2_300),
    "SPY": Decimal(520),
}
_CHARACTER: Final[dict[Kind, tuple[Decimal, float, float]]] = {
    "spot": (Decimal(100), 0.6, 0.5),
    "perpetual": (Decimal(100), 0.65, 0.5),
    "fx": (Decimal(1), 0.08, 0.5),
    "metal": (Decimal(2_000), 0.15, 1.0),
    "equity": (Decimal(100), 0.2, 0.5),
}
_TYPICAL_NOTIONAL: Final = Decimal(5_000)


def synthetic_instrument(
    instrument: Instrument, price: Decimal | None, quotes_per_second: float, trades_per_second: float
) -> SyntheticInstrument:
    """How an instrument of the catalogue trades in the synthetic market."""
    level, volatility, spread_bps = _CHARACTER[instrument.kind]
    level = price or _LEVELS.get(instrument.symbol, level)
    scaled = instrument.scaled_price(instrument.tick_size * max(1, round(level / instrument.tick_size)))
    tick = instrument.scaled_price(instrument.tick_size)
    typical = max(instrument.lot_size, instrument.round_quantity(_TYPICAL_NOTIONAL / (level * instrument.multiplier)))
    return SyntheticInstrument(
        instrument_id=instrument.id,
        price=scaled,
        tick=tick,
        lot=instrument.scaled_size(instrument.lot_size),
        typical_size=instrument.scaled_size(typical),
        volatility=volatility,
        spread=max(1, round(scaled * spread_bps / 10_000 / tick)),
        quotes_per_second=quotes_per_second,
        trades_per_second=trades_per_second,
    )
