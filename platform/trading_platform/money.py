"""Money and quantities: scaled int64 on the wire, Decimal for products, never a float.

A price of 39432.48 at scale 2 is the integer 3943248. Products (price × quantity) overflow int64, so they are
computed as Decimal (or unbounded Python int) and stored as NUMERIC.

    to_scaled(Decimal("39432.48"), 2) == 3943248        raises PrecisionLoss when digits would be dropped
    from_scaled(3943248, 2) == Decimal("39432.48")
    notional(3943248, 2, 263, 6) == Decimal("10.37074224")
"""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation, localcontext

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
MAX_SCALE = 18

# int64 × int64 has at most 38 digits; sums of many of them stay exact well below this.
EXACT = Context(prec=76, traps=[InvalidOperation, Inexact])
_ROUNDING = Context(prec=76)


class MoneyError(ValueError):
    """A number that is not a usable amount."""


class PrecisionLoss(MoneyError):
    """The amount has more digits than its scale can hold."""


class AmountOverflow(MoneyError):
    """The amount does not fit a signed 64-bit integer at its scale."""


def _check_scale(scale: int) -> None:
    if not 0 <= scale <= MAX_SCALE:
        raise MoneyError(f"scale {scale} is outside 0..{MAX_SCALE}")


def parse(text: str | int | Decimal) -> Decimal:
    """A finite Decimal from text or an integer. Floats, NaN and infinities raise MoneyError."""
    if isinstance(text, float):
        raise MoneyError(f"{text!r} is a float; pass text, int or Decimal")
    try:
        value = Decimal(text)
    except (InvalidOperation, TypeError, ValueError):
        raise MoneyError(f"{text!r} is not a number") from None
    if not value.is_finite():
        raise MoneyError(f"{text!r} is not finite")
    return value


def to_scaled(value: str | int | Decimal, scale: int) -> int:
    """Exact integer at `scale`. Raises PrecisionLoss or AmountOverflow instead of rounding."""
    _check_scale(scale)
    amount = parse(value)
    with localcontext(EXACT):
        try:
            shifted = amount.scaleb(scale)
            whole = shifted.to_integral_value()
        except (InvalidOperation, Inexact):
            raise AmountOverflow(f"{value} at scale {scale} does not fit 64 bits") from None
    if shifted != whole:
        raise PrecisionLoss(f"{value} has more than {scale} decimal places")
    if not INT64_MIN <= whole <= INT64_MAX:
        raise AmountOverflow(f"{value} at scale {scale} does not fit 64 bits")
    return int(whole)


def from_scaled(value: int, scale: int) -> Decimal:
    """The Decimal an integer at `scale` stands for; exact."""
    _check_scale(scale)
    if not INT64_MIN <= value <= INT64_MAX:
        raise AmountOverflow(f"{value} does not fit 64 bits")
    return Decimal(value).scaleb(-scale, EXACT)


def multiply(left: Decimal, right: Decimal) -> Decimal:
    """Exact product; raises MoneyError where it would need rounding."""
    try:
        return EXACT.multiply(left, right)
    except (InvalidOperation, Inexact):
        raise MoneyError(f"{left} × {right} cannot be represented exactly") from None


def add(*values: Decimal) -> Decimal:
    """Exact sum; Python's own `+` keeps 28 digits only."""
    if not values:
        return Decimal(0)
    try:
        total = values[0]
        for value in values[1:]:
            total = EXACT.add(total, value)
        return total
    except (InvalidOperation, Inexact):
        raise MoneyError(f"the sum of {values} cannot be represented exactly") from None


def subtract(left: Decimal, right: Decimal) -> Decimal:
    """Exact difference."""
    try:
        return EXACT.subtract(left, right)
    except (InvalidOperation, Inexact):
        raise MoneyError(f"{left} - {right} cannot be represented exactly") from None


def notional(price: int, price_scale: int, size: int, size_scale: int) -> Decimal:
    """price × size, exact, from their scaled integers."""
    return multiply(from_scaled(price, price_scale), from_scaled(size, size_scale))


def round_money(value: Decimal, places: int) -> Decimal:
    """Half-even to `places`, for figures that are shares of something (fees, averages)."""
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN, context=_ROUNDING)


def floor_to_step(value: Decimal, step: Decimal) -> Decimal:
    """The largest multiple of `step` not above `value` in magnitude (towards zero)."""
    return _ROUNDING.multiply(_ROUNDING.divide(value, step).to_integral_value(ROUND_DOWN, _ROUNDING), step)


def divide(left: Decimal, right: Decimal, places: int = 18) -> Decimal:
    """Quotient rounded half-even to `places`. Raises MoneyError on division by zero."""
    if right == 0:
        raise MoneyError(f"{left} divided by zero")
    return round_money(_ROUNDING.divide(left, right), places)


def text(value: Decimal) -> str:
    """Plain decimal text without exponent or trailing zeros: what JSON carries as a string."""
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain
