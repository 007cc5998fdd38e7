"""The rules every order passes before it may be sent, and what they are judged by. Pure: in memory, no clock, no I/O.

`AccountRisk` follows one account: its positions, what works, prices, limits, and the figures the risk service publishes. Whoever
places the account's orders tells it of everything and asks `check` first; being the account's only writer, what one order
reserves the next one sees. What is not known refuses what adds risk. docs/operations/limits.md explains each rule.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from trading_platform import money
from trading_platform.domain import positions, trading_state
from trading_platform.domain.figures import ALWAYS_OPEN, PublishedFigures
from trading_platform.domain.orders import Fill, Intent, Order, PositionSide, Status
from trading_platform.domain.positions import Position
from trading_platform.domain.trading_state import State
from trading_platform.instruments import Catalogue, Instrument, InvalidOrder
from trading_platform.messages import Side

ZERO = Decimal(0)

# A clock may be this much ahead of ours; prices and figures from further in the future are wrong.
CLOCK_SKEW_NS = 5_000_000_000
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS

# The reject breaker looks at the last so many orders that came to an end lately, and says nothing before there are enough.
REJECT_WINDOW = 20
REJECT_WINDOW_MIN = 10
REJECT_MAX_AGE_NS = 10 * MINUTE_NS

Key = tuple[int, PositionSide]


@dataclass(frozen=True, slots=True)
class Limits:
    """One version of an account's limits, or the portfolio's; money in its currency, shares as fractions. None: not limited."""

    version: int
    max_order_notional: Decimal
    max_position_notional: Decimal
    max_total_exposure: Decimal
    max_orders_per_minute: int
    price_collar: Decimal
    max_daily_loss: Decimal
    max_data_age_s: Decimal
    max_orders_per_second: int | None = None
    max_daily_loss_share: Decimal | None = None
    max_weekly_loss: Decimal | None = None
    max_weekly_loss_share: Decimal | None = None
    max_monthly_loss: Decimal | None = None
    max_monthly_loss_share: Decimal | None = None
    max_drawdown: Decimal | None = None
    max_leverage: Decimal | None = None
    max_concentration: Decimal | None = None
    max_consecutive_losses: int | None = None
    max_reject_share: Decimal | None = None
    max_var: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an account stands, or would stand: what its limits are compared with. Money; None: unknown.

    `position_value` is of the instrument asked about, or the largest. Starts are the equities the periods began with.
    """

    position_value: Decimal | None
    exposure: Decimal | None
    equity: Decimal | None
    equity_day: Decimal | None
    equity_week: Decimal | None
    equity_month: Decimal | None
    peak_equity: Decimal | None
    value_at_risk: Decimal | None
    consecutive_losses: int | None = 0
    reject_share: Decimal = ZERO


class Measure(NamedTuple):
    """One limit and how much of it is used; `used` None: unknown. `reached`: equal is too much already."""

    limit: str
    used: Decimal | None
    allowed: Decimal
    reached: bool = False

    @property
    def broken(self) -> bool:
        return self.used is None or self.used > self.allowed or (self.reached and self.used == self.allowed)


# The reason codes of a broken and of an unknown measure; the portfolio's begin with PORTFOLIO_.
CODES: Mapping[str, tuple[str, str]] = {
    "max_position_notional": ("POSITION_LIMIT_EXCEEDED", "POSITION_UNKNOWN"),
    "max_total_exposure": ("EXPOSURE_LIMIT_EXCEEDED", "EXPOSURE_UNKNOWN"),
    "max_leverage": ("LEVERAGE_LIMIT_EXCEEDED", "LEVERAGE_UNKNOWN"),
    "max_concentration": ("CONCENTRATION_LIMIT_EXCEEDED", "CONCENTRATION_UNKNOWN"),
    "max_daily_loss": ("DAILY_LOSS_LIMIT_REACHED", "DAILY_LOSS_UNKNOWN"),
    "max_weekly_loss": ("WEEKLY_LOSS_LIMIT_REACHED", "WEEKLY_LOSS_UNKNOWN"),
    "max_monthly_loss": ("MONTHLY_LOSS_LIMIT_REACHED", "MONTHLY_LOSS_UNKNOWN"),
    "max_drawdown": ("DRAWDOWN_LIMIT_REACHED", "DRAWDOWN_UNKNOWN"),
    "max_consecutive_losses": ("CONSECUTIVE_LOSSES_REACHED", "CONSECUTIVE_LOSSES_UNKNOWN"),
    "max_reject_share": ("REJECT_RATE_EXCEEDED", "REJECT_RATE_UNKNOWN"),
    "max_var": ("VAR_LIMIT_EXCEEDED", "VAR_UNKNOWN"),
}


def measures(limits: Limits, standing: Standing, *, by_position: bool = True) -> Iterator[Measure]:
    """Every limit that is set beside what is used of it, in the order they are judged.

    `by_position` False leaves out what is limited by instrument: the portfolio has no positions of its own.
    """
    equity = standing.equity
    if by_position:
        yield Measure("max_position_notional", standing.position_value, limits.max_position_notional)
    yield Measure("max_total_exposure", standing.exposure, limits.max_total_exposure)
    if limits.max_leverage is not None:
        yield _of_equity("max_leverage", standing.exposure, limits.max_leverage, equity)
    if limits.max_concentration is not None and by_position:
        yield _of_equity("max_concentration", standing.position_value, limits.max_concentration, equity)
    yield from _losses(limits, standing)
    if limits.max_drawdown is not None:
        peak = standing.peak_equity
        if equity is None or peak is None:
            yield Measure("max_drawdown", None, ZERO)
        else:
            peak = max(peak, equity)
            allowed = money.multiply(limits.max_drawdown, max(ZERO, peak))
            yield Measure("max_drawdown", money.subtract(peak, equity), allowed, reached=True)
    if limits.max_consecutive_losses is not None:
        losses = standing.consecutive_losses
        used = None if losses is None else Decimal(losses)
        yield Measure("max_consecutive_losses", used, Decimal(limits.max_consecutive_losses), reached=True)
    if limits.max_reject_share is not None:
        yield Measure("max_reject_share", standing.reject_share, limits.max_reject_share, reached=True)
    if limits.max_var is not None:
        yield _of_equity("max_var", standing.value_at_risk, limits.max_var, equity)


def _of_equity(limit: str, used: Decimal | None, share: Decimal, equity: Decimal | None) -> Measure:
    """A limit that is a multiple of the equity; nothing is allowed without any."""
    if equity is None:
        return Measure(limit, None, ZERO)
    return Measure(limit, used, money.multiply(share, max(ZERO, equity)))


def _losses(limits: Limits, standing: Standing) -> Iterator[Measure]:
    """Of a loss as money and as a share of the equity the period began with, the tighter counts."""
    for limit, amount, share, start in (
        ("max_daily_loss", limits.max_daily_loss, limits.max_daily_loss_share, standing.equity_day),
        ("max_weekly_loss", limits.max_weekly_loss, limits.max_weekly_loss_share, standing.equity_week),
        ("max_monthly_loss", limits.max_monthly_loss, limits.max_monthly_loss_share, standing.equity_month),
    ):
        if amount is None and share is None:
            continue
        if standing.equity is None or start is None:
            yield Measure(limit, None, ZERO)
            continue
        allowed = amount
        if share is not None:
            part = money.multiply(share, max(ZERO, start))
            allowed = part if allowed is None else min(allowed, part)
        assert allowed is not None, "one of the two is set"
        yield Measure(limit, max(ZERO, money.subtract(start, standing.equity)), allowed, reached=True)


def risk_score(found: list[Measure]) -> Decimal:
    """The most used of the limits, in percent of it, at most 100."""
    return money.round_money(min(Decimal(100), max((ratio(each) * 100 for each in found), default=ZERO)), 2)


def ratio(measure: Measure) -> Decimal:
    """Used as a share of what is allowed; 1 where nothing is allowed or nothing is known and something might be used."""
    if measure.used is None:
        return Decimal(1)
    if measure.allowed == 0:
        return ZERO if measure.used == 0 else Decimal(1)
    return money.divide(measure.used, measure.allowed, 8)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the order may go out, by which rule, and what was seen. `warnings` are limits used to `warn_at` or more."""

    accepted: bool
    code: str
    detail: str
    warnings: tuple[str, ...] = ()
    limits_version: int | None = None
    seen: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As kept with the order's event: small, amounts as text."""
        facts = {name: money.text(value) if isinstance(value, Decimal) else value for name, value in self.seen.items()}
        facts["limits_version"] = self.limits_version
        if self.warnings:
            facts["warnings"] = list(self.warnings)
        return facts


@dataclass(slots=True)
class _Book:
    """One position and what works on it. `reserved` is `working` and what held orders may still place."""

    instrument: Instrument
    rate: Decimal | None
    position: Position = field(default_factory=Position)
    working: dict[Side, Decimal] = field(default_factory=lambda: {"buy": ZERO, "sell": ZERO})
    reserved: dict[Side, Decimal] = field(default_factory=lambda: {"buy": ZERO, "sell": ZERO})
    pnl: Decimal | None = ZERO
    worth: Decimal | None = ZERO


@dataclass(slots=True)
class _Working:
    key: Key
    side: Side
    open: Decimal
    parent_id: str | None
    result: Decimal = ZERO  # of what it closed, less its fees, in the quote currency
    closed: bool = False


@dataclass(slots=True)
class _Family:
    """A held order: reserves its whole quantity, on which its children draw. `quantity` None: not known yet, or over."""

    key: Key
    side: Side
    quantity: Decimal | None = None
    is_bracket: bool = False
    entry_seen: bool = False
    entries: set[str] = field(default_factory=set)  # open ones
    open: dict[Side, Decimal] = field(default_factory=lambda: {"buy": ZERO, "sell": ZERO})
    filled: dict[Side, Decimal] = field(default_factory=lambda: {"buy": ZERO, "sell": ZERO})
    counted: dict[Side, Decimal] = field(default_factory=lambda: {"buy": ZERO, "sell": ZERO})
    members: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)  # open members

    def wants(self, side: Side, more: Decimal = ZERO) -> Decimal:
        """What the family can still trade on a side, with `more` placed: its reservation, or its children where they are more."""
        placed = money.add(self.open[side], more)
        if self.quantity is None:
            return placed
        if side == self.side:
            entered = self.is_bracket and self.entry_seen and not self.entries
            rest = ZERO if entered else money.subtract(self.quantity, self.filled[side])
        elif self.is_bracket:
            rest = money.subtract(self.filled[self.side], self.filled[side])
        else:
            rest = ZERO
        return max(rest, placed)


@dataclass(frozen=True, slots=True)
class _Push:
    """What an order would do to its book.

    `only_reduces`: with everything that works on its side it can do nothing else. What held orders merely reserve is left out of
    that: it is judged again before it is sent. `protects`: it is a held order's child that draws on what was reserved, besides.
    """

    price: Decimal
    reserved: Decimal  # on its side, with the order
    only_reduces: bool
    protects: bool


class AccountRisk:
    """One account's risk, in memory. `rates` converts currencies (None: unknown), `catalogue` knows the instruments."""

    def __init__(
        self,
        account_id: str,
        currency: str,
        rates: Callable[[str, str], Decimal | None],
        catalogue: Catalogue,
        mode: Literal["netting", "hedging"] = "netting",
        *,
        figures_max_age_s: float = 15.0,
        warn_at: Decimal = Decimal("0.8"),
    ) -> None:
        self.account_id = account_id
        self.currency = currency
        self._rates = rates
        self._catalogue = catalogue
        self._mode = mode
        self._figures_max_age_ns = int(figures_max_age_s * SECOND_NS)
        self._warn_at = warn_at
        self._limits: Limits | None = None
        self._portfolio: Limits | None = None
        self._max_data_age_ns = 0
        self._figures: PublishedFigures | None = None
        self._figures_ns = 0
        self._marks: dict[str, tuple[Decimal, int]] = {}
        self._books: dict[Key, _Book] = {}
        self._of_symbol: dict[str, list[_Book]] = {}
        self._pnl = ZERO
        self._pnl_unknown = 0
        self._worth = ZERO
        self._worth_unknown = 0
        self._orders: dict[str, _Working] = {}
        self._families: dict[str, _Family] = {}
        self._sent: deque[int] = deque()  # nanoseconds of the orders of the last minute
        self._outcomes: deque[tuple[int, bool]] = deque(maxlen=REJECT_WINDOW)  # when, whether the venue refused
        self._losses = 0
        self._state: State = "stopped"

    # --- what is told -------------------------------------------------------------------------------------------------

    def set_limits(self, account: Limits | None, portfolio: Limits | None) -> None:
        """The versions in force. Without the account's nothing passes; the portfolio may have none."""
        self._limits, self._portfolio = account, portfolio
        self._max_data_age_ns = 0 if account is None else int(account.max_data_age_s * SECOND_NS)

    def set_figures(self, figures: PublishedFigures | None) -> None:
        """What the risk service published last."""
        self._figures = figures
        self._figures_ns = 0 if figures is None else _ns(figures.computed_at)

    def set_position(self, instrument_id: int, side: PositionSide, position: Position) -> None:
        """What is held, at recovery."""
        book = self._book((instrument_id, side))
        book.position = position
        self._refresh(book)

    def on_quote(self, symbol: str, mark: Decimal, recv_ns: int) -> None:
        """The newest price of an instrument, and when it was received."""
        before = self._marks.get(symbol)
        self._marks[symbol] = (mark, recv_ns)
        if before is None or before[0] != mark:
            for book in self._of_symbol.get(symbol, ()):
                self._refresh(book)

    def on_open(self, order: Order) -> None:
        """An order was taken on; at recovery also the ended children of open held orders. Telling it twice changes nothing."""
        intent = order.intent
        key = (intent.instrument_id, intent.position_side)
        if intent.is_held:
            family = self._families.setdefault(order.id, _Family(key, intent.side))
            if order.is_open and family.quantity is None:
                family.side, family.quantity, family.is_bracket = intent.side, intent.quantity, intent.type == "bracket"
                self._count(family)
            return
        family_of = None if intent.parent_id is None else self._families.setdefault(intent.parent_id, _Family(key, intent.side))
        if order.id in self._orders or (family_of is not None and order.id in family_of.members):
            return
        if family_of is not None:
            family_of.members.add(order.id)
            family_of.filled[intent.side] = money.add(family_of.filled[intent.side], order.filled_quantity)
            family_of.entry_seen = family_of.entry_seen or intent.role == "entry"
            if order.is_open:
                family_of.live.add(order.id)
                if intent.role == "entry":
                    family_of.entries.add(order.id)
        if order.is_open:
            self._orders[order.id] = _Working(key, intent.side, ZERO, intent.parent_id)
            self._note_sent(_ns(order.created_at))
            self._set_open(order.id, order.open_quantity)
        elif family_of is not None:
            self._count(family_of)

    def on_fill(self, order: Order, fill: Fill) -> None:
        """An execution; `order` as it is after it."""
        intent = order.intent
        book = self._book((intent.instrument_id, intent.position_side))
        book.position, effect = positions.after_fill(
            book.position, book.instrument, intent.side, fill.quantity, fill.price, fill.fee, fill.fee_currency
        )
        family = None if intent.parent_id is None else self._families.get(intent.parent_id)
        if family is not None and order.id in family.members:
            family.filled[intent.side] = money.add(family.filled[intent.side], fill.quantity)
        known = self._orders.get(order.id)
        if known is not None:
            fee = positions.fee_value(book.instrument, fill.price, fill.fee, fill.fee_currency)
            # A fee that its fill does not value makes the equity unknown where no rate does: it is not lost here.
            known.result = money.add(known.result, effect.realised_pnl, (fee or ZERO).copy_negate())
            known.closed = known.closed or effect.closed_quantity > 0
            if self._set_open(order.id, money.subtract(known.open, min(known.open, fill.quantity))):
                return
        elif family is not None:
            self._count(family)
        self._refresh(book)

    def on_end(self, order: Order) -> None:
        """An order is over, however."""
        if order.intent.is_held:
            family = self._families.get(order.id)
            if family is not None:
                family.quantity = None
                self._count(family)
                self._drop(order.id)
            return
        known = self._orders.get(order.id)
        if known is None:
            return
        self._set_open(order.id, ZERO)
        del self._orders[order.id]
        if known.parent_id is not None:
            family = self._families[known.parent_id]
            family.live.discard(order.id)
            family.entries.discard(order.id)
            self._count(family)
            self._drop(known.parent_id)
        if order.status is not Status.REJECTED:
            self._outcomes.append((_ns(order.updated_at), False))
        if known.closed:
            self._losses = self._losses + 1 if known.result < 0 else 0

    def on_reject(self, order: Order) -> None:
        """The venue refused an order."""
        self._outcomes.append((_ns(order.updated_at), True))

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def equity(self) -> Decimal | None:
        """Capital with realised and unrealised result, at the newest prices; None: unknown."""
        capital = None if self._figures is None else self._figures.capital
        return None if capital is None or self._pnl_unknown else money.add(capital, self._pnl)

    @property
    def exposure(self) -> Decimal | None:
        """Value of all positions at their largest, were what works and is reserved filled on one side; None: unknown."""
        return None if self._worth_unknown else self._worth

    def position(self, instrument_id: int, side: PositionSide = "net") -> Position:
        book = self._books.get((instrument_id, side))
        return Position() if book is None else book.position

    def working(self, instrument_id: int, side: PositionSide = "net") -> tuple[Decimal, Decimal]:
        """Base units that orders may still buy and sell, what held orders reserve included."""
        book = self._books.get((instrument_id, side))
        return (ZERO, ZERO) if book is None else (book.reserved["buy"], book.reserved["sell"])

    def orders_last_minute(self, now: datetime) -> int:
        """Orders that were sent in the last minute."""
        return self._last_minute(_ns(now))

    def standing(self, now: datetime) -> Standing:
        """Where the account stands, were everything filled that works."""
        now_ns = _ns(now)
        figures = self._figures
        symbols = [[book.worth for book in books] for books in self._of_symbol.values()]
        known = [money.add(*(worth for worth in worths if worth is not None)) for worths in symbols]
        losses = None if figures is None else figures.consecutive_losses
        return Standing(
            position_value=None if self._worth_unknown else max(known, default=ZERO),
            exposure=self.exposure,
            equity=None if self._stale(now_ns) else self.equity,
            equity_day=None if figures is None else figures.equity_day,
            equity_week=None if figures is None else figures.equity_week,
            equity_month=None if figures is None else figures.equity_month,
            peak_equity=None if figures is None else figures.peak_equity,
            value_at_risk=None if figures is None else figures.value_at_risk,
            consecutive_losses=None if losses is None else max(self._losses, losses),
            reject_share=self._reject_share(now_ns),
        )

    # --- the decision -------------------------------------------------------------------------------------------------

    def check(self, intent: Intent, now: datetime, state: State) -> Decision:
        """The first rule the order breaks, or ACCEPTED. Changes nothing an order is judged by: what is sent is told by `on_open`."""
        if state == "running" and self._state != "running":
            # A person said to go on: what the breakers counted before that is settled.
            self._losses = 0
            self._outcomes.clear()
        self._state = state
        seen: dict[str, Any] = {"state": state}
        warnings: list[str] = []
        broken = self._judge(intent, _ns(now), state, seen, warnings)
        version = None if self._limits is None else self._limits.version
        if broken is not None:
            return Decision(False, broken[0], broken[1], (), version, seen)
        return Decision(True, "ACCEPTED", "within all limits", tuple(warnings), version, seen)

    def _judge(self, intent: Intent, now_ns: int, state: State, seen: dict[str, Any], warnings: list[str]) -> tuple[str, str] | None:
        instrument = self._catalogue.id(intent.instrument_id)
        if intent.flatten:
            return _instrument_rules(intent, instrument)
        if not trading_state.passes(state, "reducing"):
            return f"TRADING_{state.upper()}", f"trading is {state}"
        broken = _instrument_rules(intent, instrument)
        if broken is not None:
            return broken
        limits = self._limits
        if limits is None:
            return "LIMITS_MISSING", f"account {self.account_id} has no limits yet"
        quote = self._marks.get(intent.symbol)
        push = self._push(intent, quote[0] if quote else None)
        if not push.only_reduces:
            if intent.reduce_only:
                return "REDUCE_ONLY_WOULD_INCREASE", self._position_text(intent, "the order could do more than reduce the position")
            if self._closes(intent):
                return "CLOSE_EXCEEDS_POSITION", self._position_text(
                    intent, f"the order could sell or buy more than the {intent.position_side}"
                )
            if not trading_state.passes(state, "new"):
                return f"TRADING_{state.upper()}", f"trading is {state}: only orders that reduce a position pass"
        if push.protects:
            # What takes a held order's own risk back must get through when prices are missing or have run away.
            return None
        if quote is None:
            return "MARKET_DATA_MISSING", f"no price of {intent.symbol}"
        age_ns = now_ns - quote[1]
        seen["mark"], seen["mark_age_s"] = quote[0], _seconds(age_ns)
        if not -CLOCK_SKEW_NS <= age_ns <= self._max_data_age_ns:
            return "MARKET_DATA_STALE", f"the price of {intent.symbol} is {_seconds(age_ns)} s old, limit {limits.max_data_age_s} s"
        return self._order_rules(intent, instrument, limits, push, quote[0], now_ns, seen) or (
            None if push.only_reduces else self._adding_rules(intent, limits, push, now_ns, seen, warnings)
        )

    def _order_rules(
        self, intent: Intent, instrument: Instrument, limits: Limits, push: _Push, mark: Decimal, now_ns: int, seen: dict[str, Any]
    ) -> tuple[str, str] | None:
        """Rules about the order by itself."""
        rate = self._book_rate(instrument)
        if rate is None:
            return (
                "CURRENCY_NOT_CONVERTIBLE",
                f"no conversion rate of {instrument.quote_currency} into the account's {self.currency}",
            )
        for name, price in (("limit price", intent.limit_price), ("trigger price", intent.trigger_price)):
            if price is not None and abs(price - mark) > limits.price_collar * mark:
                away = abs(price - mark) / mark
                return "PRICE_COLLAR", f"{name} {price} is {away:.2%} from the market {mark}, limit {limits.price_collar:.2%}"
        last_minute = self._last_minute(now_ns)
        seen["orders_last_minute"] = last_minute
        if last_minute >= limits.max_orders_per_minute:
            return "ORDER_RATE_EXCEEDED", f"{last_minute} orders in the last minute, limit {limits.max_orders_per_minute}"
        burst = limits.max_orders_per_second
        if burst is not None and last_minute >= burst and self._sent[-burst] > now_ns - SECOND_NS:
            return "ORDER_BURST_EXCEEDED", f"{burst} orders in the last second are the limit"
        value = _value(instrument, intent.quantity, push.price, rate)
        seen["order_value"] = value
        smallest = instrument.notional(intent.quantity, intent.limit_price or mark)
        if smallest < instrument.min_notional:
            return "NOTIONAL_BELOW_MINIMUM", f"value {_money(smallest)} is below {instrument.min_notional} {instrument.quote_currency}"
        if value > limits.max_order_notional:
            return "ORDER_NOTIONAL_EXCEEDED", f"value {_money(value)}, limit {limits.max_order_notional}"
        return None

    def _adding_rules(
        self, intent: Intent, limits: Limits, push: _Push, now_ns: int, seen: dict[str, Any], warnings: list[str]
    ) -> tuple[str, str] | None:
        """Rules about where the account and all accounts would stand, were everything filled that works."""
        figures = self._figures
        if figures is None:
            return "FIGURES_MISSING", "the risk service has published no figures of this account yet"
        age_ns = now_ns - self._figures_ns
        seen["figures_age_s"] = _seconds(age_ns)
        if not -CLOCK_SKEW_NS <= age_ns <= self._figures_max_age_ns:
            return "FIGURES_STALE", f"the published figures are {_seconds(age_ns)} s old, limit {_seconds(self._figures_max_age_ns)} s"
        standing = self._standing(intent, push, figures, now_ns)
        seen |= {
            "position": self.position(intent.instrument_id, intent.position_side).quantity,
            "position_value": standing.position_value,
            "exposure": standing.exposure,
            "equity": standing.equity,
        }
        broken = self._compare(limits, standing, "", warnings)
        if broken is None and self._portfolio is not None:
            broken = self._compare(self._portfolio, self._portfolio_standing(standing, figures), "PORTFOLIO_", warnings)
        if broken is not None and broken[0].endswith("_UNKNOWN") and figures.reasons:
            return broken[0], f"{broken[1]}: {'; '.join(figures.reasons)}"
        return broken

    def _compare(self, limits: Limits, standing: Standing, prefix: str, warnings: list[str]) -> tuple[str, str] | None:
        for measure in measures(limits, standing, by_position=not prefix):
            used, allowed = measure.used, measure.allowed
            if used is None:
                return prefix + CODES[measure.limit][1], f"{prefix.lower()}{measure.limit} cannot be judged"
            if measure.broken:
                return prefix + CODES[measure.limit][0], f"{prefix.lower()}{measure.limit}: {_money(used)} of {_money(allowed)}"
            if used > 0 and used >= money.multiply(allowed, self._warn_at):
                warnings.append(prefix.lower() + measure.limit)
        return None

    # --- facts --------------------------------------------------------------------------------------------------------

    def _push(self, intent: Intent, mark: Decimal | None) -> _Push:
        """What the order would add to its book, and whether it can only take away from it."""
        book = self._book((intent.instrument_id, intent.position_side))
        side, quantity = intent.side, intent.quantity
        family = None if intent.parent_id is None else self._families.get(intent.parent_id)
        more = quantity if family is None else money.subtract(family.wants(side, quantity), family.counted[side])
        reserved = money.add(book.reserved[side], more)
        held = book.position.quantity
        takes_back = held.copy_abs() if (held < 0) == (side == "buy") and intent.type != "bracket" else ZERO
        only_reduces = money.add(book.working[side], quantity) <= takes_back
        protects = only_reduces and family is not None and family.quantity is not None and more == 0
        # A limit order may trade at the market or at its price, a stop near its trigger: the dearest counts.
        prices = [price for price in (mark, intent.limit_price, intent.trigger_price) if price is not None]
        return _Push(max(prices, default=ZERO), reserved, only_reduces, protects)

    def _closes(self, intent: Intent) -> bool:
        """Whether in a hedging account the order is meant to close its side."""
        return (intent.position_side, intent.side) in (("long", "sell"), ("short", "buy"))

    def _standing(self, intent: Intent, push: _Push, figures: PublishedFigures, now_ns: int) -> Standing:
        key = (intent.instrument_id, intent.position_side)
        book = self._books[key]
        assert book.rate is not None, "an order that cannot be valued was refused before"
        held, instrument = book.position.quantity, book.instrument
        if intent.side == "buy":
            towards, other = money.add(held, push.reserved), money.subtract(held, book.reserved["sell"])
        else:
            towards, other = money.subtract(held, push.reserved), money.add(held, book.reserved["buy"])
        value = _value(instrument, towards.copy_abs(), push.price, book.rate)
        worst = max(value, _value(instrument, other.copy_abs(), push.price, book.rate))
        elsewhere = [each.worth for each in self._of_symbol[intent.symbol] if each is not book]
        own = [worth for worth in elsewhere if worth is not None]
        equity = None if self._stale(now_ns) else self.equity
        exposure = None
        if self._worth_unknown == (book.worth is None):
            exposure = money.add(self._worth, (book.worth or ZERO).copy_negate(), worst)
        return Standing(
            position_value=money.add(value, *own) if len(own) == len(elsewhere) else None,
            exposure=exposure,
            equity=equity,
            equity_day=figures.equity_day,
            equity_week=figures.equity_week,
            equity_month=figures.equity_month,
            peak_equity=figures.peak_equity,
            value_at_risk=self._value_at_risk(figures, intent.symbol, money.add(worst, *own)),
            consecutive_losses=None if figures.consecutive_losses is None else max(self._losses, figures.consecutive_losses),
            reject_share=self._reject_share(now_ns),
        )

    def _portfolio_standing(self, own: Standing, figures: PublishedFigures) -> Standing:
        """All accounts together, in the portfolio's currency: the others as published, this one as it would be."""
        others = figures.elsewhere
        if others is None or others.rate is None:
            return Standing(None, None, None, None, None, None, None, None)
        rate = others.rate
        return Standing(
            position_value=None,
            exposure=_sum(others.exposure, own.exposure, rate),
            equity=_sum(others.equity, own.equity, rate),
            equity_day=others.equity_day,
            equity_week=others.equity_week,
            equity_month=others.equity_month,
            peak_equity=others.peak_equity,
            value_at_risk=_sum(others.value_at_risk, own.value_at_risk, rate),
        )

    def _value_at_risk(self, figures: PublishedFigures, symbol: str, worst: Decimal) -> Decimal | None:
        """The published value at risk, and what has been added since by itself: more than the whole can have become."""
        total = figures.value_at_risk
        if total is None:
            return None
        for name, books in self._of_symbol.items():
            if name == symbol:
                value = worst
            else:
                worths = [book.worth for book in books if book.worth is not None]
                if len(worths) < len(books):
                    return None
                value = money.add(*worths)
            grown = money.subtract(value, figures.values.get(name, ZERO))
            if grown > 0:
                loss_rate = figures.loss_rates.get(name)
                if loss_rate is None:
                    return None
                total = money.add(total, money.multiply(grown, loss_rate))
        return total

    def _stale(self, now_ns: int) -> bool:
        """Whether something held has a price too old to know the equity by, of a market that never closes."""
        for symbol, books in self._of_symbol.items():
            if books[0].instrument.kind in ALWAYS_OPEN and any(book.position.quantity for book in books):
                quote = self._marks.get(symbol)
                if quote is None or now_ns - quote[1] > self._max_data_age_ns:
                    return True
        return False

    def _last_minute(self, now_ns: int) -> int:
        """Orders sent in the last minute."""
        while self._sent and self._sent[0] <= now_ns - MINUTE_NS:
            self._sent.popleft()
        return len(self._sent)

    def _note_sent(self, at_ns: int) -> None:
        if self._sent and at_ns < self._sent[-1]:
            insort(self._sent, at_ns)
        else:
            self._sent.append(at_ns)

    def _reject_share(self, now_ns: int) -> Decimal:
        """The share of the last orders the venue refused; 0 while there are too few to say."""
        lately = [refused for at, refused in self._outcomes if at > now_ns - REJECT_MAX_AGE_NS]
        return money.divide(Decimal(sum(lately)), Decimal(len(lately)), 6) if len(lately) >= REJECT_WINDOW_MIN else ZERO

    def _position_text(self, intent: Intent, what: str) -> str:
        book = self._books[(intent.instrument_id, intent.position_side)]
        working = money.text(book.working[intent.side])
        return f"{what} (position {money.text(book.position.quantity)}, already working to {intent.side}: {working})"

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _book(self, key: Key) -> _Book:
        book = self._books.get(key)
        if book is None:
            instrument = self._catalogue.id(key[0])
            book = self._books[key] = _Book(instrument, self._rates(instrument.quote_currency, self.currency))
            self._of_symbol.setdefault(instrument.symbol, []).append(book)
        return book

    def _book_rate(self, instrument: Instrument) -> Decimal | None:
        return self._of_symbol[instrument.symbol][0].rate

    def _set_open(self, order_id: str, quantity: Decimal) -> bool:
        """What an order can still trade has changed; whether its own book was valued again for that."""
        order = self._orders[order_id]
        change = money.subtract(quantity, order.open)
        if order.parent_id is None and not change:
            return False
        order.open = quantity
        book = self._book(order.key)
        book.working[order.side] = money.add(book.working[order.side], change)
        if order.parent_id is None:
            book.reserved[order.side] = money.add(book.reserved[order.side], change)
            self._refresh(book)
            return True
        family = self._families[order.parent_id]
        family.open[order.side] = money.add(family.open[order.side], change)
        self._count(family)
        return False

    def _count(self, family: _Family) -> None:
        """What the family reserves has changed."""
        book = self._book(family.key)
        for side in family.counted:
            wanted = family.wants(side)
            change = money.subtract(wanted, family.counted[side])
            if change:
                family.counted[side] = wanted
                book.reserved[side] = money.add(book.reserved[side], change)
        self._refresh(book)

    def _drop(self, parent_id: str) -> None:
        """A family that is over, with all its children, is forgotten."""
        family = self._families[parent_id]
        if family.quantity is None and not family.live:
            del self._families[parent_id]

    def _refresh(self, book: _Book) -> None:
        """Value the book again; the account's totals follow."""
        quote = self._marks.get(book.instrument.symbol)
        pnl = self._pnl_of(book, quote[0] if quote else None)
        worth = self._worth_of(book, quote[0] if quote else None)
        self._pnl = money.add(self._pnl, pnl or ZERO, (book.pnl or ZERO).copy_negate())
        self._worth = money.add(self._worth, worth or ZERO, (book.worth or ZERO).copy_negate())
        self._pnl_unknown += (pnl is None) - (book.pnl is None)
        self._worth_unknown += (worth is None) - (book.worth is None)
        book.pnl, book.worth = pnl, worth

    def _pnl_of(self, book: _Book, mark: Decimal | None) -> Decimal | None:
        """What the position has earned and would earn closed at the mark, less fees."""
        position = book.position
        earned = money.subtract(position.realised_pnl, position.fees)
        if position.quantity:
            if mark is None:
                return None
            earned = money.add(earned, positions.unrealised(position, book.instrument, mark))
        if earned and book.rate is None:
            return None
        total = money.multiply(earned, book.rate or ZERO)
        for currency, fee in position.other_fees:
            rate = self._rates(currency, self.currency)
            if rate is None:
                return None
            total = money.subtract(total, money.multiply(fee, rate))
        return total

    def _worth_of(self, book: _Book, mark: Decimal | None) -> Decimal | None:
        held = book.position.quantity
        up, down = money.add(held, book.reserved["buy"]), money.subtract(held, book.reserved["sell"])
        worst = max(up.copy_abs(), down.copy_abs())
        if not worst:
            return ZERO
        return None if mark is None or book.rate is None else _value(book.instrument, worst, mark, book.rate)


def _instrument_rules(intent: Intent, instrument: Instrument) -> tuple[str, str] | None:
    try:
        instrument.check_quantity(intent.quantity)
        for price in (intent.limit_price, intent.trigger_price):
            if price is not None:
                instrument.check_price(price)
    except InvalidOrder as error:
        return error.code, error.detail
    return None


def _value(instrument: Instrument, quantity: Decimal, price: Decimal, rate: Decimal) -> Decimal:
    return money.multiply(instrument.notional(quantity, price), rate)


def _sum(others: Decimal | None, own: Decimal | None, rate: Decimal) -> Decimal | None:
    return None if others is None or own is None else money.add(others, money.multiply(own, rate))


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / SECOND_NS:.1f}"


def _money(value: Decimal) -> str:
    return money.text(money.round_money(value, 2))
