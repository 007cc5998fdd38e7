"""Wiring and routes of the market data service. Everything here is for this host: it listens on loopback only."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import Path as PathParameter
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from trading_platform import money
from trading_platform.bus import Bus
from trading_platform.config import Settings
from trading_platform.instruments import Instrument, UnknownInstrument
from trading_platform.market_data import candle_partitions, lake_routes, replays
from trading_platform.market_data.candle_partitions import CandlePartitions
from trading_platform.market_data.lake import Lake
from trading_platform.market_data.lake_writer import LakeWriter
from trading_platform.market_data.service import LEASE, MarketData
from trading_platform.problems import Problem
from trading_platform.service import Service

Symbol = Annotated[str, PathParameter(pattern=r"^[A-Z0-9][A-Z0-9._-]{0,31}$", description="As in the instrument list: BTCUSDT")]
STARTING_S: Final = 20.0


class ReplayRequest(BaseModel):
    """A file inside the replay directory, and how many times faster than recorded it plays."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=500)]
    speed: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] | Literal["max"] = 1.0


def create(settings: Settings) -> Service:
    service = Service("market-data", settings)
    directory = Path(settings.market_data.replay_directory or Path(settings.data_directory) / "replay")
    market = MarketData(settings.market_data, directory, service.db, service.bus)
    service.loop("feed", market.run, lease=LEASE)
    service.loop("candles", market.store.run)
    wanted = settings.market_data.lake
    lake = Lake(Path(wanted.directory or Path(settings.data_directory) / "lake"), min_free_bytes=wanted.min_free_mib << 20)
    if wanted.enabled:
        writer = LakeWriter(lake, wanted, service.bus, market.catalogue)
        service.loop("lake", writer.run)
        service.dependency("lake", writer.check, critical=False)
        service.health_member(writer.health)
    partitions = CandlePartitions(settings.market_data, service.db)
    service.loop("partitions", partitions.run, lease=candle_partitions.LEASE)
    service.dependency("candle-partitions", partitions.check, critical=False)
    freshness = Freshness(service.bus, market.live_symbols, settings.market_data.stale_after_s)
    if market.live_symbols:
        service.dependency("feed", freshness.check)
    service.health_member(freshness.health)
    service.health_member(lambda: {"leading": market.leading, "live_symbols": market.live_symbols, "candles_waiting": market.store.waiting})
    _routes(service, market, settings, lake)
    return service


class Freshness:
    """How old the live feed's data is, whichever host leads: judged by what everybody reads."""

    def __init__(self, on_bus: Bus, symbols: list[str], stale_after_s: float) -> None:
        self._bus = on_bus
        self._symbols = symbols
        self._stale_after_s = stale_after_s
        self._created = time.monotonic()
        self._received_ns: dict[str, int] = {}

    async def check(self) -> None:
        """Raises Problem when a symbol has had no tick for too long."""
        quotes = await self._bus.quotes(self._symbols)
        self._received_ns = {symbol: quote.ts_recv_ns for symbol, quote in quotes.items()}
        ages = self.ages()
        stale = [f"{symbol} for {age:.0f} s" for symbol, age in ages.items() if age > self._stale_after_s]
        silent = [symbol for symbol in self._symbols if symbol not in ages]
        if stale:
            raise Problem(503, "STALE_MARKET_DATA", f"no ticks of {', '.join(stale)} (allowed: {self._stale_after_s:g} s)")
        if silent and time.monotonic() - self._created > STARTING_S:
            raise Problem(503, "NO_MARKET_DATA", f"no ticks of {', '.join(silent)} yet")

    def ages(self) -> dict[str, float]:
        """Seconds since the newest tick of each live symbol that ever had one."""
        now_ns = time.time_ns()
        return {symbol: max(0.0, (now_ns - received) / 1e9) for symbol, received in self._received_ns.items()}

    def health(self) -> dict[str, Any]:
        """`newest_age_seconds` is that of the symbol that has waited longest for a tick; absent while there is none."""
        ages = {symbol: round(age, 3) for symbol, age in self.ages().items()}
        return {"newest_age_seconds": max(ages.values()), "age_seconds": ages} if ages else {}


def _routes(service: Service, market: MarketData, settings: Settings, lake: Lake) -> None:
    app = service.app

    async def instrument(symbol: str) -> Instrument:
        try:
            return (await market.catalogue()).symbol(symbol)
        except UnknownInstrument as error:
            raise Problem(404, "UNKNOWN_SYMBOL", str(error)) from None

    lake_routes.install(app, lake, service.db, instrument)

    @app.get("/market-data/{symbol}", tags=["market data"])
    async def quote(symbol: Symbol) -> dict[str, Any]:
        """The latest quote. `timestamp` (epoch ms) is when the platform received it, `event_timestamp` the source's own time;
        prices are decimal text; `bid` and `ask` are absent where the source has trades only."""
        known = await instrument(symbol)
        latest = (await service.bus.quotes([symbol])).get(symbol)
        if latest is None:
            raise Problem(503, "NO_MARKET_DATA", f"there is no market data of {symbol}", headers={"Retry-After": "5"})
        age_s = (time.time_ns() - latest.ts_recv_ns) / 1e9
        if age_s > settings.market_data.stale_after_s:
            raise Problem(
                503,
                "STALE_MARKET_DATA",
                f"the newest data of {symbol} is {age_s:.0f} s old (allowed: {settings.market_data.stale_after_s:g} s)",
                headers={"Retry-After": "5"},
                age_seconds=round(age_s, 3),
            )
        prices = {"bid": latest.bid, "ask": latest.ask, "last": latest.last, "mark": latest.mark}
        return {
            "symbol": symbol,
            **{name: money.text(known.price(value)) for name, value in prices.items() if value is not None},
            "timestamp": latest.ts_recv_ns // 1_000_000,
            "event_timestamp": latest.ts_event_ns // 1_000_000,
            "age_seconds": round(max(0.0, age_s), 3),
            "source": latest.source,
        }

    @app.get("/candles/{symbol}", tags=["market data"])
    async def candles(
        symbol: Symbol,
        interval: Annotated[int, Query(ge=1, le=7 * 86_400, description="seconds")] = 60,
        start: Annotated[datetime | None, Query(description="ISO 8601; without a zone it is UTC")] = None,
        end: datetime | None = None,
        limit: Annotated[int, Query(ge=1, le=5_000)] = 500,
    ) -> list[dict[str, Any]]:
        """Closed candles opened in [start, end), the newest `limit` of them, oldest first. Prices and volume are decimal text."""
        known = await instrument(symbol)
        last = _utc(end) if end else datetime.now(UTC) + timedelta(days=1)
        first = _utc(start) if start else datetime(1980, 1, 1, tzinfo=UTC)
        if first >= last:
            raise Problem(422, "INVALID_REQUEST", f"start ({first.isoformat()}) is not before end ({last.isoformat()})")
        return [
            {
                "symbol": symbol,
                "interval": interval,
                "timestamp": int(candle.ts_open.timestamp()) * 1000,
                **{name: money.text(getattr(candle, name)) for name in ("open", "high", "low", "close", "volume")},
                "source": candle.source,
            }
            for candle in await market.store.history(known.id, interval, first, last, limit)
        ]

    @app.get("/instruments", tags=["market data"])
    async def instrument_list() -> list[dict[str, Any]]:
        """Every instrument: what symbols there are, and at which scales and steps they are priced. Decimals are text."""
        return [
            {name: money.text(value) if isinstance(value, Decimal) else value for name, value in asdict(known).items()}
            for known in await market.catalogue()
        ]

    @app.post("/replays", status_code=202, tags=["replay"])
    async def start_replay(request: ReplayRequest) -> dict[str, Any]:
        """Check the whole file, then play it. 422 names row and column of what is wrong with it; nothing is loaded then."""
        speed = None if request.speed == "max" else float(request.speed)
        return _document(await market.start_replay(request.path, speed))

    @app.delete("/replays/{replay_id}", status_code=202, tags=["replay"])
    async def stop_replay(replay_id: str) -> dict[str, Any]:
        """Stop a replay; what it has said already stays said."""
        await market.stop_replay(replay_id)
        return {"id": replay_id, "state": "stopping"}

    @app.get("/replays/{replay_id}", tags=["replay"])
    async def replay(replay_id: str) -> dict[str, Any]:
        """How far a replay is; any host can say."""
        found = await replays.find(service.bus, replay_id, time.time())
        if found is None:
            raise Problem(404, "UNKNOWN_REPLAY", f"there is no replay {replay_id[:40]!r}; replays are remembered for 7 days")
        return _document(found)


def _document(replay: replays.Replay) -> dict[str, Any]:
    return {name: getattr(replay, name) for name in replay.__struct_fields__}


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
