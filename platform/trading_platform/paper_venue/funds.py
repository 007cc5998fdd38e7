"""What an account owns at the venue: free and locked amounts by asset, positions of perpetuals, and what orders hold. Pure.

Spot needs funds: an order locks what it can cost, a trade never takes more than that and what is free, so no spot balance
goes below zero. A perpetual is settled in its quote currency: profit, loss and fees change the quote balance, which losses
can take below zero; no order that adds risk passes then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from trading_platform import money
from trading_platform.instruments import Instrument

ZERO = Decimal(0)
LEVERAGE = Decimal(10)
FEE_QUANTUM = Decimal("0.00000001")
Side = Literal["BUY", "SELL"]


class InsufficientFunds(Exception):
    """The account does not have what the order can cost."""


@dataclass(slots=True)
class Balance:
    """`free` of a perpetual is the position; `cost` what it was entered at, signed like it."""

    free: Decimal = ZERO
    locked: Decimal = ZERO
    cost: Decimal = ZERO


@dataclass(slots=True)
class Hold:
    """What one order keeps locked. `bound` is the worst price of a purchase."""

    asset: str
    amount: Decimal
    bound: Decimal


def venue_symbol(symbol: str) -> str:
    """The platform's symbol without its dash."""
    return symbol.replace("-", "")


def base_asset(instrument: Instrument) -> str:
    """What a purchase brings: the base currency, or the contract, named like its symbol."""
    return instrument.base_currency if instrument.settles_base else venue_symbol(instrument.symbol)


@dataclass(slots=True)
class Wallet:
    """One account's balances. `changed` collects the assets that must be written."""

    balances: dict[str, Balance] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def of(self, asset: str) -> Balance:
        balance = self.balances.get(asset)
        if balance is None:
            balance = self.balances[asset] = Balance()
        return balance

    def pay_in(self, asset: str, amount: Decimal) -> None:
        balance = self._touch(asset)
        balance.free = money.add(balance.free, amount)

    def _touch(self, asset: str) -> Balance:
        self.changed.add(asset)
        return self.of(asset)

    # --- holds ------------------------------------------------------------------------------------------------------------

    def hold(
        self, instrument: Instrument, side: Side, quantity: Decimal, bound: Decimal, fee_rate: Decimal, usable: Decimal | None
    ) -> Hold:
        """Lock what an order can cost. `fee_rate` is the share of a purchase charged on top of it; `usable` caps what may be
        taken of the quote currency, where perpetuals need some of it. Raises InsufficientFunds; changes nothing then."""
        if not instrument.settles_base:
            return Hold(instrument.quote_currency, ZERO, bound)
        if side == "SELL":
            asset, amount = instrument.base_currency, quantity
            available = self.of(asset).free
        else:
            asset, amount = instrument.quote_currency, cost_bound(instrument, quantity, bound, fee_rate)
            available = self.of(asset).free
            if usable is not None:
                available = min(available, usable)
        if amount > available:
            raise InsufficientFunds(f"{money.text(amount)} {asset} needed, {money.text(available)} free")
        balance = self._touch(asset)
        balance.free = money.subtract(balance.free, amount)
        balance.locked = money.add(balance.locked, amount)
        return Hold(asset, amount, bound)

    def release(self, hold: Hold, keep: Decimal = ZERO) -> Decimal:
        """Unlock all of it but `keep`; how much came free."""
        freed = money.subtract(hold.amount, keep)
        if freed:
            balance = self._touch(hold.asset)
            balance.locked = money.subtract(balance.locked, freed)
            balance.free = money.add(balance.free, freed)
            hold.amount = keep
        return freed

    # --- trades -----------------------------------------------------------------------------------------------------------

    def affordable(self, instrument: Instrument, side: Side, quantity: Decimal, price: Decimal, fee_rate: Decimal, hold: Hold) -> Decimal:
        """How much of a trade the account can pay for: all of it unless a market order met a price beyond its bound."""
        if not instrument.settles_base or side == "SELL" or price <= hold.bound:
            return quantity
        budget = money.add(hold.amount, max(ZERO, self.of(instrument.quote_currency).free))
        if cost_bound(instrument, quantity, price, fee_rate) <= budget:
            return quantity
        unit = cost_bound(instrument, Decimal(1), price, fee_rate)
        return min(quantity, money.floor_to_step(money.divide(budget, unit, 18), instrument.lot_size))

    def trade(
        self,
        instrument: Instrument,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        fee: Decimal,
        fee_asset: str,
        hold: Hold,
        keep: Decimal,
    ) -> Decimal:
        """Book an execution; what is left of the order keeps `keep` locked. The fee really charged: a fee rounded up may not
        take more than was held."""
        freed = self.release(hold, min(keep, hold.amount))
        if not instrument.settles_base:
            self._settle(instrument, side, quantity, price)
            self._add(fee_asset, -fee)
            return fee
        notional = instrument.notional(quantity, price)
        quote, base = instrument.quote_currency, instrument.base_currency
        if side == "BUY":
            if fee_asset == quote:
                room = max(freed, self.of(quote).free)
                if money.add(notional, fee) > room:
                    fee = max(ZERO, money.floor_to_step(money.subtract(room, notional), FEE_QUANTUM))
            self._add(quote, -notional)
            self._add(base, quantity)
        else:
            self._add(base, -quantity)
            self._add(quote, notional)
        self._add(fee_asset, -fee)
        return fee

    def _add(self, asset: str, amount: Decimal) -> None:
        if amount:
            balance = self._touch(asset)
            balance.free = money.add(balance.free, amount)

    def _settle(self, instrument: Instrument, side: Side, quantity: Decimal, price: Decimal) -> None:
        """A trade of a perpetual: what closes the position is paid out, what is left adds to it at its price."""
        contract = self._touch(base_asset(instrument))
        signed = quantity if side == "BUY" else -quantity
        closing = min(quantity, abs(contract.free)) if contract.free * signed < 0 else ZERO
        if closing:
            direction = 1 if contract.free > 0 else -1
            if closing == abs(contract.free):
                entered = contract.cost
            else:
                entered = money.divide(money.multiply(contract.cost, closing), abs(contract.free))
            proceeds = instrument.notional(closing, price) * direction
            self._add(instrument.quote_currency, money.subtract(proceeds, entered))
            contract.cost = money.subtract(contract.cost, entered)
            contract.free = money.subtract(contract.free, closing * direction)
        opening = (quantity - closing) * (1 if signed > 0 else -1)
        if opening:
            contract.cost = money.add(contract.cost, instrument.notional(opening, price))
            contract.free = money.add(contract.free, opening)


def cost_bound(instrument: Instrument, quantity: Decimal, price: Decimal, fee_rate: Decimal) -> Decimal:
    """The most a purchase of this quantity costs at this price, fee included; exact."""
    notional = instrument.notional(quantity, price)
    return money.add(notional, money.multiply(notional, fee_rate)) if fee_rate else notional
