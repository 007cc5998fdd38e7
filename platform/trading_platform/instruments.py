"""Instruments: identity, scales and order rules, as read from the table `instruments`.

The u32 `id` is what tick batches carry; the symbol is what people and venues say. Prices and sizes on the wire are
int64 at `price_scale` / `size_scale`; orders must also be multiples of `tick_size` and `lot_size`.

    catalogue = await load(db)
    btc = catalogue.symbol("BTCUSDT")       # raises UnknownInstrument
    btc.price(3943248) == Decimal("39432.48")
    btc.check_quantity(Decimal("0.5"))      # raises InvalidOrder("QUANTITY_NOT_MULTIPLE_OF_LOT: …")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from trading_platform import money

if TYPE_CHECKING:
    from trading_platform.db import Database

Kind = Literal["spot", "fx", "metal", "equity", "perpetual"]


class UnknownInstrument(LookupError):
    """No instrument of that symbol or id."""


class InvalidOrder(ValueError):
    """An order the instrument does not allow; `code` is the reason code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Instrument:
    """One tradable thing. `multiplier` is 1 except for contracts; perpetuals here are linear, settled in `quote_currency`."""

    id: int
    symbol: str
    kind: Kind
    base_currency: str
    quote_currency: str
    price_scale: int
    size_scale: int
    tick_size: Decimal
    lot_size: Decimal
    min_quantity: Decimal
    max_quantity: Decimal
    min_notional: Decimal
    multiplier: Decimal

    @property
    def settles_base(self) -> bool:
        """Whether a trade exchanges the base asset (spot) rather than a contract."""
        return self.kind != "perpetual"

    def price(self, scaled: int) -> Decimal:
        return money.from_scaled(scaled, self.price_scale)

    def size(self, scaled: int) -> Decimal:
        return money.from_scaled(scaled, self.size_scale)

    def scaled_price(self, price: Decimal) -> int:
        return money.to_scaled(price, self.price_scale)

    def scaled_size(self, size: Decimal) -> int:
        return money.to_scaled(size, self.size_scale)

    def notional(self, quantity: Decimal, price: Decimal) -> Decimal:
        """Value in the quote currency; exact, same sign as the quantity."""
        return money.multiply(money.multiply(quantity, price), self.multiplier)

    def round_quantity(self, quantity: Decimal) -> Decimal:
        """Down to the lot."""
        return money.floor_to_step(quantity, self.lot_size)

    def check_quantity(self, quantity: Decimal) -> None:
        if not quantity.is_finite() or quantity <= 0:
            raise InvalidOrder("QUANTITY_NOT_POSITIVE", f"quantity is {quantity}")
        if quantity < self.min_quantity:
            raise InvalidOrder("QUANTITY_BELOW_MINIMUM", f"{quantity} {self.symbol} is below {self.min_quantity}")
        if quantity > self.max_quantity:
            raise InvalidOrder("QUANTITY_EXCEEDS_MAXIMUM", f"{quantity} {self.symbol} is above {self.max_quantity}")
        if money.floor_to_step(quantity, self.lot_size) != quantity:
            raise InvalidOrder("QUANTITY_NOT_MULTIPLE_OF_LOT", f"{quantity} is no multiple of {self.lot_size}")

    def check_price(self, price: Decimal) -> None:
        if not price.is_finite() or price <= 0:
            raise InvalidOrder("PRICE_NOT_POSITIVE", f"price is {price}")
        if money.floor_to_step(price, self.tick_size) != price:
            raise InvalidOrder("PRICE_NOT_MULTIPLE_OF_TICK", f"{price} is no multiple of {self.tick_size}")


class Catalogue:
    """All instruments, by symbol and by id."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._by_symbol = {instrument.symbol: instrument for instrument in instruments}
        self._by_id = {instrument.id: instrument for instrument in self._by_symbol.values()}

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._by_symbol.values())

    def __len__(self) -> int:
        return len(self._by_symbol)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._by_symbol

    def symbol(self, symbol: str) -> Instrument:
        try:
            return self._by_symbol[symbol]
        except KeyError:
            raise UnknownInstrument(f"no instrument {symbol!r}; known: {', '.join(sorted(self._by_symbol))}") from None

    def id(self, instrument_id: int) -> Instrument:
        try:
            return self._by_id[instrument_id]
        except KeyError:
            raise UnknownInstrument(f"no instrument with id {instrument_id}") from None


COLUMNS = (
    "id, symbol, kind, base_currency, quote_currency, price_scale, size_scale, tick_size, lot_size, "
    "min_quantity, max_quantity, min_notional, multiplier"
)


async def load(db: Database) -> Catalogue:
    """Every instrument that is not retired."""
    rows = await db.fetch_all(f"SELECT {COLUMNS} FROM instruments WHERE active ORDER BY id", as_=Instrument)
    return Catalogue(rows)
