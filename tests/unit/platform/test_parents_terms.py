"""Terms of held orders: exact fields, exact amounts, prices that make sense; anything else is refused with its reason."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from held_orders import INSTRUMENT, START, held
from hypothesis import given
from hypothesis import strategies as st
from trading_platform.domain import parents
from trading_platform.domain.orders import HELD_TYPES, Intent
from trading_platform.instruments import InvalidOrder

D = Decimal
LIMIT = {"limit_price": D(100)}
EXITS = {"take_profit_price": "110", "stop_price": "90"}
TWAP = {"duration_s": 40, "slices": 4}

GOOD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "trailing_stop": ({"callback_amount": "5"}, {}),
    "oco": (EXITS, {}),
    "bracket": (EXITS, {"side": "buy", **LIMIT}),
    "iceberg": ({"visible_quantity": "1"}, LIMIT),
    "twap": (TWAP, {}),
    "vwap": ({"duration_s": 40, "weights": ["1", "2"]}, {}),
}


def wish(kind: str, changes: dict[str, Any], **more: Any) -> Intent:
    given_terms, given_more = GOOD[kind]
    changed = {name: value for name, value in {**given_terms, **changes}.items() if value is not ...}
    return held(kind, changed, **{**given_more, **more})


def refusal(intent: Intent) -> str:
    with pytest.raises(InvalidOrder) as caught:
        parents.check_terms(intent, INSTRUMENT)
    return caught.value.code


@pytest.mark.parametrize("kind", sorted(HELD_TYPES))
def test_every_held_type_can_be_asked_for(kind: str) -> None:
    parents.check_terms(wish(kind, {}), INSTRUMENT)


@pytest.mark.parametrize("kind", sorted(HELD_TYPES))
def test_terms_are_needed_and_exact(kind: str) -> None:
    assert refusal(replace(wish(kind, {}), terms=None)) == "TERMS_MISSING"
    assert refusal(replace(wish(kind, {}), terms={})) == "TERM_MISSING"
    assert refusal(wish(kind, {"surprise": "1"})) == "TERM_UNKNOWN"


@pytest.mark.parametrize("kind", sorted(HELD_TYPES))
def test_what_no_held_order_can_be_is_refused(kind: str) -> None:
    assert refusal(wish(kind, {}, flatten=True)) == "FLATTEN_NOT_ALLOWED"
    assert refusal(wish(kind, {}, parent_id="t-other", role="slice")) == "HELD_ORDER_HAS_PARENT"
    assert refusal(wish(kind, {}, time_in_force="GTD")) == "EXPIRY_MISMATCH"
    assert refusal(wish(kind, {}, expire_at=START)) == "EXPIRY_MISMATCH"
    assert refusal(wish(kind, {}, quantity="0.04")) == "QUANTITY_BELOW_MINIMUM"
    assert refusal(wish(kind, {}, limit_price=D("100.3"))) == "PRICE_NOT_MULTIPLE_OF_TICK"


@pytest.mark.parametrize("kind", sorted(HELD_TYPES - {"bracket"}))
def test_what_takes_time_is_not_immediate_and_has_no_trigger_of_its_own(kind: str) -> None:
    assert refusal(wish(kind, {}, time_in_force="IOC")) == "TIME_IN_FORCE_NOT_ALLOWED"
    assert refusal(wish(kind, {}, trigger_price=D(100))) == "TRIGGER_PRICE_NOT_ALLOWED"


def test_a_working_order_has_no_terms() -> None:
    market = replace(held("twap", None), type="market")
    parents.check_terms(market, INSTRUMENT)
    assert refusal(replace(market, terms={})) == "TERMS_NOT_ALLOWED"


@pytest.mark.parametrize("value", [5, 5.0, "NaN", "Infinity", "-5", "1e3", "", " 5", "5 ", "٥", "1" * 21, "1." + "0" * 19, True, ["5"], {}])
def test_an_amount_is_plain_decimal_text(value: Any) -> None:
    assert refusal(wish("trailing_stop", {"callback_amount": value})) == "TERM_INVALID"


@given(
    st.dictionaries(
        st.sampled_from([*EXITS, *TWAP, "x", "weights", "visible_quantity", "start_at", "callback_amount"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
        ),
    ),
    st.sampled_from(sorted(HELD_TYPES)),
)
def test_whatever_the_terms_are_they_are_taken_or_refused_with_a_reason(document: dict[str, Any], kind: str) -> None:
    with suppress(InvalidOrder):
        parents.check_terms(replace(wish(kind, {}), terms=document), INSTRUMENT)


BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("trailing_stop", {"callback_percent": "1"}, {}, "TERM_MISSING"),
    ("trailing_stop", {"callback_amount": ...}, {}, "TERM_MISSING"),
    ("trailing_stop", {"callback_amount": "0"}, {}, "TERM_INVALID"),
    ("trailing_stop", {"callback_amount": "0.3"}, {}, "PRICE_NOT_MULTIPLE_OF_TICK"),
    ("trailing_stop", {"callback_amount": ..., "callback_percent": "100"}, {}, "TERM_INVALID"),
    ("trailing_stop", {"activation_price": "0"}, {}, "PRICE_NOT_POSITIVE"),
    ("trailing_stop", {"limit_offset": "0.1"}, {}, "PRICE_NOT_MULTIPLE_OF_TICK"),
    ("trailing_stop", {"trigger_by": "mark"}, {}, "TERM_INVALID"),
    ("trailing_stop", {"trigger_by": ["last"]}, {}, "TERM_INVALID"),
    ("trailing_stop", {}, LIMIT, "LIMIT_PRICE_NOT_ALLOWED"),
    ("trailing_stop", {}, {"post_only": True}, "POST_ONLY_NOT_ALLOWED"),
    ("oco", {"take_profit_price": "80"}, {}, "PRICES_NOT_IN_ORDER"),
    ("oco", {"take_profit_price": "90"}, {}, "PRICES_NOT_IN_ORDER"),
    ("oco", {}, {"side": "buy"}, "PRICES_NOT_IN_ORDER"),
    ("oco", {"stop_limit_price": "91"}, {}, "PRICES_NOT_IN_ORDER"),
    ("oco", {"stop_price": "90.1"}, {}, "PRICE_NOT_MULTIPLE_OF_TICK"),
    ("oco", {"stop_price": "1"}, {"quantity": "1"}, "NOTIONAL_BELOW_MINIMUM"),
    ("oco", {}, LIMIT, "LIMIT_PRICE_NOT_ALLOWED"),
    ("bracket", {}, {"limit_price": D(111)}, "PRICES_NOT_IN_ORDER"),
    ("bracket", {}, {"limit_price": D(90)}, "PRICES_NOT_IN_ORDER"),
    ("bracket", {}, {"side": "sell"}, "PRICES_NOT_IN_ORDER"),
    ("bracket", {}, {"trigger_price": D(120)}, "PRICES_NOT_IN_ORDER"),
    ("bracket", {}, {"reduce_only": True}, "REDUCE_ONLY_NOT_ALLOWED"),
    ("bracket", {}, {"limit_price": None, "post_only": True}, "POST_ONLY_NOT_ALLOWED"),
    ("bracket", {}, {"limit_price": None, "time_in_force": "FOK"}, "TIME_IN_FORCE_NOT_ALLOWED"),
    ("bracket", {}, {"trigger_price": D(100), "time_in_force": "IOC"}, "TIME_IN_FORCE_NOT_ALLOWED"),
    ("iceberg", {}, {"limit_price": None}, "LIMIT_PRICE_MISSING"),
    ("iceberg", {"visible_quantity": "10"}, {}, "TERM_INVALID"),
    ("iceberg", {"visible_quantity": "0.04"}, {}, "QUANTITY_BELOW_MINIMUM"),
    ("iceberg", {"visible_quantity": "1.005"}, {}, "QUANTITY_NOT_MULTIPLE_OF_LOT"),
    ("iceberg", {"visible_quantity": "0.06", "variation_percent": "50"}, {}, "QUANTITY_BELOW_MINIMUM"),
    ("iceberg", {"visible_quantity": "0.05"}, {"limit_price": D(50)}, "NOTIONAL_BELOW_MINIMUM"),
    ("iceberg", {"visible_quantity": "0.05"}, {"quantity": "60"}, "TOO_MANY_SLICES"),
    ("iceberg", {"variation_percent": "51"}, {}, "TERM_INVALID"),
    ("iceberg", {"seed": ""}, {}, "TERM_INVALID"),
    ("twap", {"duration_s": "40"}, {}, "TERM_INVALID"),
    ("twap", {"duration_s": True}, {}, "TERM_INVALID"),
    ("twap", {"duration_s": 3}, {}, "TERM_INVALID"),
    ("twap", {"duration_s": ...}, {}, "TERM_MISSING"),
    ("twap", {"slices": 1001}, {}, "TERM_INVALID"),
    ("twap", {"slices": 0}, {}, "TERM_INVALID"),
    ("twap", {"interval_s": 10}, {}, "TERM_MISSING"),
    ("twap", {"slices": ..., "interval_s": 7}, {}, "TERM_INVALID"),
    ("twap", {"slices": ..., "interval_s": 41}, {}, "TERM_INVALID"),
    ("twap", {"start_at": "2026-01-01T00:00:00"}, {}, "TERM_INVALID"),
    ("twap", {"start_at": "tomorrow"}, {}, "TERM_INVALID"),
    ("twap", {"start_at": 5}, {}, "TERM_INVALID"),
    ("twap", {"duration_s": ..., "end_at": "2026-01-01T01:00:00Z"}, {}, "TERM_MISSING"),
    ("twap", {"duration_s": ..., "start_at": "2026-01-01T01:00:00Z", "end_at": "2026-01-01T01:00:00Z"}, {}, "TERM_INVALID"),
    ("twap", {"slice_type": "limit"}, {}, "LIMIT_PRICE_MISSING"),
    ("twap", {"late": "never"}, {}, "TERM_INVALID"),
    ("twap", {"late": "skip", "max_catch_up": "1"}, {}, "TERM_INVALID"),
    ("twap", {}, {"post_only": True}, "POST_ONLY_NOT_ALLOWED"),
    ("twap", {}, {"limit_price": D("0.5"), "quantity": "9"}, "NOTIONAL_BELOW_MINIMUM"),
    ("vwap", {"weights": []}, {}, "TERM_MISSING"),
    ("vwap", {"weights": "12"}, {}, "TERM_MISSING"),
    ("vwap", {"weights": ["0", "0"]}, {}, "TERM_INVALID"),
    ("vwap", {"weights": [1]}, {}, "TERM_INVALID"),
    ("vwap", {"weights": ["1"] * 41}, {}, "TERM_INVALID"),
    ("vwap", {"weights": ["1"] * 1001, "duration_s": 2000}, {}, "TOO_MANY_SLICES"),
    ("vwap", {"slices": 4}, {}, "TERM_UNKNOWN"),
]


@pytest.mark.parametrize(("kind", "changes", "more", "code"), BAD)
def test_terms_that_make_no_sense_are_refused(kind: str, changes: dict[str, Any], more: dict[str, Any], code: str) -> None:
    assert refusal(wish(kind, changes, **more)) == code


def test_an_expiry_is_passed_with_its_time_in_force() -> None:
    parents.check_terms(wish("oco", {}, time_in_force="GTD", expire_at=START + timedelta(days=1)), INSTRUMENT)
