"""The shapes the public paths answer with. What a service behind sends is held against these before it leaves: a field that is
missing, null or of another type is an error of ours (502), never an answer.

`Number` is a JSON number, for fields that readers compare (`jq '.daily_loss > 1000'`); `Money` is decimal text, exact for every
client. Fields beyond these may come along, never null.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

Number = Annotated[int, Field(strict=True)] | Annotated[Decimal, Field(strict=True)]
Money = Annotated[str, Field(pattern=r"^-?[0-9]{1,40}(\.[0-9]{1,40})?$")]
Milliseconds = Annotated[int, Field(strict=True, ge=0, description="UTC, epoch milliseconds")]
Count = Annotated[int, Field(strict=True, ge=0)]


class Document(BaseModel):
    model_config = ConfigDict(extra="allow")


class MarketData(Document):
    """`timestamp` is when the platform received it; `bid` and `ask` are absent where the source has trades only."""

    symbol: str
    timestamp: Milliseconds
    event_timestamp: Milliseconds
    age_seconds: Number
    mark: Money
    source: str


class Candle(Document):
    symbol: str
    interval: Annotated[int, Field(strict=True, ge=1, description="seconds")]
    timestamp: Milliseconds
    open: Money
    high: Money
    low: Money
    close: Money
    volume: Money


class Candles(RootModel[list[Candle]]):
    """Closed candles, oldest first."""


class Instrument(Document):
    id: Count
    symbol: str
    kind: str
    tick_size: Money
    lot_size: Money


class Instruments(RootModel[list[Instrument]]):
    """Everything that can be traded."""


class Position(Document):
    """`position_side` is the book: net, or long and short apart in a hedging account. `unvalued_fees`, where there are any, are fees
    in currencies without a rate, by currency; they are not in `fees`."""

    account: str
    symbol: str
    side: str
    position_side: Annotated[str, Field(pattern="^(net|long|short)$")] = "net"
    quantity: Money
    average_price: Money
    realised_pnl: Money


class Positions(RootModel[list[Position]]):
    """Open positions: a bare array, so that `jq length` counts them."""


class RiskSummary(Document):
    total_exposure: Number
    daily_pnl: Number
    max_drawdown: Number
    open_positions: list[dict[str, Any]]
    risk_score: Number


class RiskCurrent(Document):
    daily_loss: Number
    total_exposure: Number


class DailyPerformance(Document):
    """Trades are fills here; figures of round trips (`round_trips`, `profit_factor`, `expectancy` …) and of returns (`sortino_ratio`,
    `calmar_ratio` …) come along where they can be known."""

    total_trades: Count
    win_rate: Number
    total_pnl: Number
    sharpe_ratio: Number


class Trade(Document):
    """One fill. `timestamp` is when it was executed, `event_timestamp` the market's own time it was executed at. `realised_pnl` and,
    where the order's decision names a price, `slippage` (what was paid beyond it) come once the fill is booked."""

    id: str
    timestamp: Milliseconds
    event_timestamp: Milliseconds
    account: str
    symbol: str
    side: str
    position_side: Annotated[str, Field(pattern="^(net|long|short)$")]
    quantity: Money
    price: Money
    fee: Money
    fee_currency: str
    liquidity: str
    venue: str
    client_order_id: str


class Trades(RootModel[list[Trade]]):
    """The most recent fills, newest last."""


class TradingChange(Document):
    """A change of the state of trading that is in force and obeyed. `changed` is false where it already was so."""

    account: str
    state: str
    version: Count
    changed: bool


class TradingAccount(Document):
    """An account as trading stands; `acknowledged`: no order of before the newest change can reach the venue any more."""

    account: str
    state: str
    version: Count
    acknowledged: bool
    waiting_for: list[str]
    open_orders: Count
    positions: list[str]


class TradingOverview(Document):
    """`state` is the platform's own; for an account the stricter of it and its own counts. `mode` says `safe_mode`, too."""

    state: str
    mode: str
    accounts: list[TradingAccount]


class EmergencyReport(Document):
    """What an emergency action did. Only what is complete is answered with it; what is not is a problem with the same members."""

    complete: bool
    left: list[str]
    unseen: list[str]
    accounts: dict[str, dict[str, Any]]


class Token(BaseModel):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the name of a scheme
    expires_in: Annotated[int, Field(description="seconds")]
    role: str


class Problem(BaseModel):
    """RFC 9457: every error of the platform looks like this. `code` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    request_id: str | None
