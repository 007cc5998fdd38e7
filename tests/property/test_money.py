"""Money: exact or refused, never approximately right."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trading_platform import money

INT64 = st.integers(money.INT64_MIN, money.INT64_MAX)
SCALES = st.integers(0, money.MAX_SCALE)


@given(INT64, SCALES)
def test_scaling_there_and_back_changes_nothing(value: int, scale: int) -> None:
    assert money.to_scaled(money.from_scaled(value, scale), scale) == value


@given(INT64, SCALES, INT64, SCALES)
def test_a_notional_is_the_exact_product(price: int, price_scale: int, size: int, size_scale: int) -> None:
    exact = Fraction(price, 10**price_scale) * Fraction(size, 10**size_scale)
    assert Fraction(money.notional(price, price_scale, size, size_scale)) == exact


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**6), max_value=10**6), st.integers(0, 11))
def test_digits_that_do_not_fit_the_scale_are_refused_not_rounded(value: Decimal, scale: int) -> None:
    fits = Fraction(value) * 10**scale
    if fits.denominator == 1:
        assert money.to_scaled(value, scale) == fits
    else:
        with pytest.raises(money.PrecisionLoss):
            money.to_scaled(value, scale)


@given(st.one_of(st.integers(min_value=money.INT64_MAX + 1), st.integers(max_value=money.INT64_MIN - 1)))
def test_what_does_not_fit_64_bits_is_refused(value: int) -> None:
    with pytest.raises(money.AmountOverflow):
        money.to_scaled(value, 0)
    with pytest.raises(money.AmountOverflow):
        money.from_scaled(value, 0)


@given(st.lists(st.tuples(INT64, SCALES), max_size=20))
def test_a_sum_is_exact_whatever_the_order(values: list[tuple[int, int]]) -> None:
    amounts = [money.from_scaled(value, scale) for value, scale in values]
    exact = sum((Fraction(amount) for amount in amounts), Fraction(0))
    assert Fraction(money.add(*amounts)) == Fraction(money.add(*reversed(amounts))) == exact


@given(st.decimals(allow_nan=False, allow_infinity=False, places=10, min_value=-(10**15), max_value=10**15))
def test_text_is_plain_and_reads_back_equal(value: Decimal) -> None:
    text = money.text(value)
    assert Decimal(text) == value
    assert "E" not in text
    assert text != "-0"


@given(st.floats())
def test_a_float_is_never_money(value: float) -> None:
    with pytest.raises(money.MoneyError):
        money.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity", "", "1,5", "0x10", "१e", "1e"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(money.MoneyError):
        money.parse(text)


@given(
    st.decimals(min_value=0, max_value=10**12, places=9, allow_nan=False),
    st.sampled_from([Decimal("0.000001"), Decimal("0.01"), Decimal(1), Decimal("0.5"), Decimal(25)]),
)
def test_flooring_gives_the_largest_multiple_that_is_not_above(value: Decimal, step: Decimal) -> None:
    floored = money.floor_to_step(value, step)
    assert Fraction(floored) / Fraction(step) == Fraction(value) // Fraction(step)
