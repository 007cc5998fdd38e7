"""The Binance adapter against the paper venue itself, on real PostgreSQL and Redis: orders, fills, losses, faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import Market, eventually, free_port
from test_paper_venue import SECRET, Venue, serving
from trading_platform import instruments
from trading_platform.config import Endpoint, Settings
from trading_platform.db import Database
from trading_platform.domain.orders import Intent
from trading_platform.engine.venues import StreamGap, VenueRejected, VenueReport, VenueTrade, VenueUnknown
from trading_platform.engine.venues.binance import BinanceVenue, of_account

BUY = Intent("t-limit", "paper", "BTCUSDT", 1, "paper", "buy", "limit", "GTC", Decimal("0.1"), Decimal(50_000))
TAKE = replace(BUY, client_order_id="t-market", type="market", limit_price=None)


@pytest.fixture
def faulty(settings: Settings, credentials: Path) -> Settings:
    """A paper venue that can be told to misbehave, and keys for it."""
    (credentials / "paper-venue-secret").write_text(SECRET)
    return settings.model_copy(
        update={
            "services": {**settings.services, "paper-venue": Endpoint(port=free_port())},
            "paper_venue": settings.paper_venue.model_copy(update={"faults": True}),
            "venues": {"paper": settings.venues["paper"].model_copy(update={"timeout_s": 1.0})},
        }
    )


@pytest.fixture
async def paper(faulty: Settings, market: Market) -> AsyncIterator[Venue]:
    """A venue with a market: 60,000.00 × 1 bid, 60,001.00 × 1 asked."""
    async with serving(faulty) as running:
        await running.leads()
        await market.quote("BTCUSDT", "60000.00", "60001.00", bid_size="1", ask_size="1")
        await running.has_seen(bidPrice="60000", askPrice="60001")
        yield running


@pytest.fixture
async def venue(faulty: Settings, paper: Venue, db: Database) -> AsyncIterator[BinanceVenue]:
    opened = of_account(faulty, faulty.accounts[0], await instruments.load(db))
    await opened.open()
    yield opened
    await opened.close()


class Stream:
    """What the venue's stream told so far."""

    def __init__(self, venue: BinanceVenue) -> None:
        self.heard: list[VenueReport | StreamGap] = []
        self._task = asyncio.create_task(self._listen(venue))

    async def _listen(self, venue: BinanceVenue) -> None:
        async with aclosing(venue.reports()) as reports:  # type: ignore[type-var]
            async for said in reports:
                self.heard.append(said)

    @property
    def gaps(self) -> int:
        return sum(isinstance(said, StreamGap) for said in self.heard)

    @property
    def trades(self) -> list[VenueTrade]:
        return [said.trade for said in self.heard if isinstance(said, VenueReport) and said.trade is not None]

    async def has(self, gaps: int = 1, trades: int = 0) -> None:
        async def told() -> bool:
            assert not self._task.done(), self._task.result()
            return self.gaps >= gaps and len(self.trades) >= trades

        await eventually(told, what=f"{gaps} gaps and {trades} trades on the stream")

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def stream(venue: BinanceVenue) -> AsyncIterator[Stream]:
    listening = Stream(venue)
    await listening.has(gaps=1)
    yield listening
    await listening.close()


async def misbehave(paper: Venue, kind: str, **rule: Any) -> None:
    response = await paper.http.post("/faults", json={"rules": [{"kind": kind, **rule}]})
    assert response.is_success, response.text


async def behave(paper: Venue) -> None:
    assert (await paper.http.delete("/faults")).is_success


async def test_our_instruments_and_the_venues_rules_agree(venue: BinanceVenue) -> None:
    assert venue.disagreements == {}


async def test_an_execution_is_the_same_by_answer_by_stream_and_by_asking(venue: BinanceVenue, stream: Stream) -> None:
    answer = await venue.submit(TAKE)
    assert (answer.status, answer.filled_quantity) == ("FILLED", Decimal("0.1"))
    await stream.has(trades=len(answer.trades))
    asked = await venue.trades("BTCUSDT", None, 100)
    assert list(answer.trades) == stream.trades == asked
    assert (asked[0].client_order_id, asked[0].fill.price, asked[0].fill.liquidity) == ("t-market", Decimal(60_001), "taker")
    assert await venue.trades("BTCUSDT", asked[-1].fill.trade_id, 100) == []


async def test_an_order_lives_at_the_venue_from_submit_to_cancel(venue: BinanceVenue, stream: Stream) -> None:
    placed = await venue.submit(BUY)
    assert placed.status == "NEW"
    assert await venue.query("BTCUSDT", "t-limit") == placed
    assert await venue.open_orders() == [placed]
    assert await venue.balances() == {"USD": Decimal(50_000), "USDT": Decimal(50_000)}, "locked is still ours"
    assert await venue.cancel("BTCUSDT", "t-limit") == replace(placed, status="CANCELED")
    assert await venue.open_orders() == []

    async def told() -> bool:
        said = [one.order for one in stream.heard if isinstance(one, VenueReport)]
        return [(one.client_order_id, one.status) for one in said] == [("t-limit", "NEW"), ("t-limit", "CANCELED")]

    await eventually(told, what="the order's life on the stream")


async def test_a_partial_fill_is_told_when_the_market_comes(venue: BinanceVenue, stream: Stream, market: Market) -> None:
    await venue.submit(replace(BUY, limit_price=Decimal(60_000), quantity=Decimal("0.5")))
    await market.trade("BTCUSDT", "59999.00", "0.2")
    await stream.has(trades=1)
    found = await venue.query("BTCUSDT", "t-limit")
    assert found is not None
    assert (found.status, found.filled_quantity) == ("PARTIALLY_FILLED", Decimal("0.2"))
    assert stream.trades[0].fill.liquidity == "maker"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"type": "stop", "side": "sell", "trigger_price": Decimal(59_000), "limit_price": None}, None),
        ({"type": "stop", "trigger_price": Decimal(61_000), "limit_price": None}, "NEW"),
        ({"type": "stop_limit", "trigger_price": Decimal(61_000), "limit_price": Decimal(61_500)}, "NEW"),
        ({"post_only": True}, "NEW"),
        ({"post_only": True, "limit_price": Decimal(60_500)}, None),
        ({"time_in_force": "IOC"}, "EXPIRED"),
        ({"time_in_force": "FOK", "limit_price": Decimal(60_500), "quantity": Decimal("0.3")}, "FILLED"),
        ({"quantity": Decimal(5)}, None),
    ],
)
async def test_every_kind_of_order_is_taken_or_refused_with_a_reason(
    venue: BinanceVenue, changes: dict[str, Any], status: str | None
) -> None:
    intent = replace(BUY, **changes)
    if status is not None:
        assert (await venue.submit(intent)).status == status
        return
    with pytest.raises(VenueRejected) as refused:
        await venue.submit(intent)
    assert refused.value.code == ("POST_ONLY_WOULD_TAKE" if intent.post_only else "INSUFFICIENT_FUNDS")
    assert await venue.query("BTCUSDT", "t-limit") is None


async def test_a_contract_is_traded_by_our_symbol_and_is_no_balance(venue: BinanceVenue, paper: Venue, market: Market) -> None:
    await market.quote("BTCUSD-PERP", "60000.0", "60000.5", bid_size="1", ask_size="1")
    await paper.has_seen("BTCUSDPERP", bidPrice="60000", askPrice="60000.5")
    answer = await venue.submit(replace(TAKE, symbol="BTCUSD-PERP", instrument_id=6, side="sell"))
    assert (answer.symbol, answer.status) == ("BTCUSD-PERP", "FILLED")
    assert [one.fill.trade_id.rpartition(":")[0] for one in await venue.trades("BTCUSD-PERP", None, 10)] == ["BTCUSD-PERP"]
    assert set(await venue.balances()) == {"USD", "USDT"}


async def test_the_same_id_twice_is_one_order(venue: BinanceVenue) -> None:
    first = await venue.submit(BUY)
    assert await venue.submit(BUY) == first
    assert await venue.open_orders() == [first]


async def test_an_order_the_venue_was_too_busy_for_is_rejected(venue: BinanceVenue, paper: Venue) -> None:
    await misbehave(paper, "error_before", path="/api/v3/order", method="POST", count=1)
    with pytest.raises(VenueRejected, match="VENUE_OVERLOADED"):
        await venue.submit(BUY)
    assert await venue.query("BTCUSDT", "t-limit") is None


@pytest.mark.parametrize(
    ("kind", "answer", "there"),
    [("no_answer", {}, True), ("error_after", {}, True), ("error_before", {"status": 504, "code": -1007}, False)],
)
async def test_an_order_the_venue_did_not_answer_for_is_found_by_its_id_or_not(
    venue: BinanceVenue, paper: Venue, kind: str, answer: dict[str, int], there: bool
) -> None:
    await misbehave(paper, kind, path="/api/v3/order", method="POST", count=1, **answer)
    with pytest.raises(VenueUnknown):
        await venue.submit(BUY)
    assert (await venue.query("BTCUSDT", "t-limit") is not None) == there


async def test_a_venue_whose_clock_drifts_is_followed(venue: BinanceVenue, paper: Venue) -> None:
    await misbehave(paper, "clock_drift", milliseconds=20_000)
    assert (await venue.submit(BUY)).status == "NEW"
    await behave(paper)
    await venue.cancel("BTCUSDT", "t-limit")


async def test_a_venue_that_limits_is_waited_for(venue: BinanceVenue, paper: Venue) -> None:
    await misbehave(paper, "rate_limit", path="/api/v3/order", method="POST", count=1, seconds=1)
    assert (await venue.submit(BUY)).status == "NEW"
    await misbehave(paper, "rate_limit", path="/api/v3/order", method="POST", count=1, seconds=60)
    with pytest.raises(VenueRejected, match="VENUE_RATE_LIMITED"):
        await venue.submit(replace(BUY, client_order_id="t-2"))


async def test_our_weights_are_not_below_the_venues(venue: BinanceVenue, paper: Venue) -> None:
    counts: list[tuple[str, int, int]] = []
    weights = {one.limit: one for one in venue.usage()}

    async def spends(what: str, call: Any) -> None:
        before = {one.limit: one.used for one in venue.usage()}["weight"]
        theirs = int((await paper.signed("GET", "/api/v3/rateLimit/order")).headers["x-mbx-used-weight-1m"])
        await call
        after = int((await paper.signed("GET", "/api/v3/rateLimit/order")).headers["x-mbx-used-weight-1m"])
        asking = int((await paper.signed("GET", "/api/v3/rateLimit/order")).headers["x-mbx-used-weight-1m"]) - after
        counts.append((what, {one.limit: one.used for one in venue.usage()}["weight"] - before, after - theirs - asking))

    assert weights["weight"].allowed == 6_000
    await spends("submit", venue.submit(BUY))
    await spends("query", venue.query("BTCUSDT", "t-limit"))
    await spends("open orders", venue.open_orders())
    await spends("trades", venue.trades("BTCUSDT", None, 100))
    await spends("balances", venue.balances())
    await spends("cancel", venue.cancel("BTCUSDT", "t-limit"))
    await spends("cancel all", venue.cancel_all(["BTCUSDT"]))
    assert [(what, ours, theirs) for what, ours, theirs in counts if ours < theirs] == []


async def test_a_stream_that_was_cut_comes_back_with_a_gap_and_what_was_missed_is_asked_for(
    venue: BinanceVenue, paper: Venue, stream: Stream
) -> None:
    await misbehave(paper, "drop_streams", count=1)
    answer = await venue.submit(TAKE)
    await stream.has(gaps=2)
    assert await venue.trades("BTCUSDT", None, 100) == list(answer.trades)
    await venue.submit(replace(TAKE, client_order_id="t-next"))
    await stream.has(gaps=2, trades=1)
    assert stream.trades[-1].client_order_id == "t-next"


async def test_everything_can_be_cancelled_at_once(venue: BinanceVenue) -> None:
    for number in range(3):
        await venue.submit(replace(BUY, client_order_id=f"t-{number}", quantity=Decimal("0.01")))
    await venue.cancel_all(["BTCUSDT", "ETHUSDT", "NOSUCH"])
    assert await venue.open_orders() == []


async def test_the_venue_cancels_by_itself_when_the_dead_man_is_not_armed_again(venue: BinanceVenue) -> None:
    await venue.submit(BUY)
    await venue.arm_dead_man(["BTCUSDT"], 0.3)

    async def gone() -> bool:
        return await venue.open_orders() == []

    await eventually(gone, what="the cancel by the dead man's timer")


async def test_names_of_orders_are_found_by_a_venue_object_that_did_not_make_them(
    venue: BinanceVenue, faulty: Settings, db: Database
) -> None:
    expected = [f"t-{number}" for number in range(7)]
    for name in expected:
        await venue.submit(replace(TAKE, client_order_id=name, quantity=Decimal("0.01")))
    other = of_account(faulty, faulty.accounts[0], await instruments.load(db))
    await other.open()
    assert [one.client_order_id for one in await other.trades("BTCUSDT", None, 100)] == expected
    await other.close()
