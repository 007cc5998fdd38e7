"""The paper venue's rules that need no server: parameters, filters, signatures, limits, misbehaviour, numbers on the wire."""

from __future__ import annotations

import hashlib
import hmac
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trading_platform import venue_keys
from trading_platform.domain.models import JitterLatency
from trading_platform.instruments import Instrument
from trading_platform.paper_venue import filters, shapes, signing
from trading_platform.paper_venue.errors import VenueError
from trading_platform.paper_venue.faults import Document, Faults, Rule
from trading_platform.paper_venue.keys_command import keys
from trading_platform.paper_venue.limits import BAN_AFTER, FIRST_BAN_MS, Limits
from trading_platform.paper_venue.parameters import Parameters, split
from trading_platform.paper_venue.service import Delays
from trading_platform.paper_venue.signing import Keys, Window
from trading_platform.venue_keys import ApiKey

BTC = Instrument(
    id=1, symbol="BTCUSDT", kind="spot", base_currency="BTC", quote_currency="USDT", price_scale=2, size_scale=6,
    tick_size=Decimal("0.01"), lot_size=Decimal("0.000001"), min_quantity=Decimal("0.000001"), max_quantity=Decimal(9000),
    min_notional=Decimal(5), multiplier=Decimal(1),
)  # fmt: skip
LIMIT = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.1", "price": "60000"}
STOP = {
    "symbol": "BTCUSDT",
    "side": "SELL",
    "type": "STOP_LOSS_LIMIT",
    "timeInForce": "GTC",
    "quantity": "1",
    "price": "59",
    "stopPrice": "60",
}


def request(**changes: Any) -> filters.OrderRequest:
    values = {name: value for name, value in {**LIMIT, **changes}.items() if value is not None}
    return filters.order_request("paper", BTC, Parameters.of(values))


def market(**changes: Any) -> filters.OrderRequest:
    return request(type="MARKET", timeInForce=None, price=None, **changes)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"side": "HOLD"}, -1117, "Invalid side"),
        ({"side": None}, -1102, "'side'"),
        ({"type": "TRAILING"}, -1116, "Invalid orderType"),
        ({"timeInForce": "DAY"}, -1115, "Invalid timeInForce"),
        ({"timeInForce": None}, -1102, "'timeInForce'"),
        ({"quantity": None}, -1102, "'quantity'"),
        ({"price": None}, -1102, "'price'"),
        ({"quantity": "-1"}, -1100, "quantity"),
        ({"quantity": "NaN"}, -1100, "quantity"),
        ({"quantity": "1e400"}, -1100, "quantity"),
        ({"quantity": "1" * 30}, -1100, "quantity"),
        ({"quantity": "٣"}, -1100, "quantity"),
        ({"quantity": "0"}, -1013, "Invalid quantity"),
        ({"price": "0.00"}, -1013, "Invalid price"),
        ({"quantity": "0.123456789"}, -1111, "quantity"),
        ({"quantity": "0.1234567"}, -1013, "LOT_SIZE"),
        ({"quantity": "9000.000001"}, -1013, "LOT_SIZE"),
        ({"price": "60000.001"}, -1013, "PRICE_FILTER"),
        ({"price": "99999999999"}, -1013, "PRICE_FILTER"),
        ({"quantity": "0.00001"}, -1013, "NOTIONAL"),
        ({"stopPrice": "1"}, -1106, "'stopPrice' sent when not required"),
        ({"quoteOrderQty": "1"}, -1106, "'quoteOrderQty' sent when not required"),
        ({"newClientOrderId": "with space"}, -1100, "newClientOrderId"),
        ({"newClientOrderId": "x" * 37}, -1100, "newClientOrderId"),
        ({"newOrderRespType": "SOME"}, -1130, "newOrderRespType"),
        ({"icebergQty": "0.2"}, -2010, "IcebergQty exceeds QTY"),
        ({"icebergQty": "0.0001"}, -1013, "ICEBERG_PARTS"),
        ({"icebergQty": "0.05", "timeInForce": "IOC"}, -1013, "iceberg"),
    ],
)
def test_an_order_that_cannot_be_is_refused_with_binances_code(changes: dict[str, Any], code: int, words: str) -> None:
    with pytest.raises(VenueError) as refusal:
        request(**changes)
    assert refusal.value.code == code
    assert words in refusal.value.message
    assert refusal.value.status == 400


def test_a_market_order_has_a_quantity_or_an_amount_and_nothing_else() -> None:
    assert market().quantity == Decimal("0.1")
    assert market(quantity=None, quoteOrderQty="100").quote_quantity == 100
    for wrong, code in (
        ({"quoteOrderQty": "5"}, -1106),
        ({"quantity": None}, -1102),
    ):
        with pytest.raises(VenueError) as refusal:
            market(**wrong)
        assert refusal.value.code == code
    with pytest.raises(VenueError, match="timeInForce"):
        request(type="MARKET", price=None)


def test_stops_need_their_price_and_answer_with_an_acknowledgement() -> None:
    with pytest.raises(VenueError, match="'stopPrice'"):
        filters.order_request("paper", BTC, Parameters.of({k: v for k, v in STOP.items() if k != "stopPrice"}))
    assert filters.order_request("paper", BTC, Parameters.of(STOP)).response == "ACK"
    assert request().response == "FULL"


def test_parameters_sent_twice_empty_or_unknown_are_refused() -> None:
    for text, code in (("a=1&a=2", -1101), ("a=", -1105), ("a=%zz", -1100), ("a=%ff", -1100)):
        with pytest.raises(VenueError) as refusal:
            Parameters(split(text))
        assert refusal.value.code == code
    with pytest.raises(VenueError) as refusal:
        Parameters.of({"symbol": "X", "trailingDelta": "5"}).only("symbol")
    assert (refusal.value.code, "trailingDelta" in refusal.value.message) == (-1104, True)


# --- signatures -----------------------------------------------------------------------------------------------------------

KEY = ApiKey("a" * 64, "b" * 64)
KEYS = Keys({"paper": KEY})


def test_only_the_accounts_own_signature_of_this_very_text_is_accepted() -> None:
    signature = hmac.new(KEY.secret.encode(), b"symbol=BTCUSDT&timestamp=1", hashlib.sha256).hexdigest()
    KEYS.verify("paper", "symbol=BTCUSDT&timestamp=1", signature)
    KEYS.verify("paper", "symbol=BTCUSDT&timestamp=1", signature.upper())
    for payload, given, code in (
        ("symbol=BTCUSDT&timestamp=2", signature, -1022),
        ("symbol=BTCUSDT&timestamp=1", "é", -1022),
        ("symbol=BTCUSDT&timestamp=1", None, -1102),
    ):
        with pytest.raises(VenueError) as refusal:
            KEYS.verify("paper", payload, given)
        assert refusal.value.code == code


def test_the_signature_is_taken_out_wherever_it_stands() -> None:
    assert signing.unsigned("a=1&b=2&signature=ff") == "a=1&b=2"
    assert signing.unsigned("signature=ff&a=1") == "a=1"
    assert signing.unsigned("a=1&signature=ff&b=2") == "a=1&b=2"


def test_keys_that_are_none_or_not_known_are_told_apart() -> None:
    assert KEYS.account(KEY.key) == "paper"
    for key, code in ((None, -2014), ("short", -2014), ("c" * 64, -2015)):
        with pytest.raises(VenueError) as refusal:
            KEYS.account(key)
        assert (refusal.value.status, refusal.value.code) == (401, code)


@pytest.mark.parametrize(("timestamp", "accepted"), [(100_000, True), (95_000, True), (94_999, False), (100_999, True), (101_000, False)])
def test_a_request_counts_from_a_second_early_until_its_window_is_over(timestamp: int, accepted: bool) -> None:
    window = Window(timestamp, 5_000)
    if accepted:
        window.check(100_000)
        return
    with pytest.raises(VenueError) as refusal:
        window.check(100_000)
    assert refusal.value.code == -1021


def test_timing_parameters_are_checked_themselves() -> None:
    assert signing.window(Parameters.of({"timestamp": "1700000000000"})) == Window(1_700_000_000_000, 5_000)
    assert signing.window(Parameters.of({"timestamp": "1700000000000000", "recvWindow": "60000"})) == Window(1_700_000_000_000, 60_000)
    for values, code in (({}, -1102), ({"timestamp": "now"}, -1100), ({"timestamp": "1", "recvWindow": "60001"}, -1131)):
        with pytest.raises(VenueError) as refusal:
            signing.window(Parameters.of(values))
        assert refusal.value.code == code


# --- limits ---------------------------------------------------------------------------------------------------------------


def test_weight_above_the_limit_is_refused_until_the_next_minute() -> None:
    limits = Limits(100, 10)
    assert [limits.charge("a", 40, 60_000), limits.charge("a", 60, 119_000)] == [40, 100]
    with pytest.raises(VenueError) as refusal:
        limits.charge("a", 1, 119_500)
    assert (refusal.value.status, refusal.value.code, refusal.value.headers["Retry-After"]) == (429, -1003, "1")
    assert limits.charge("b", 100, 119_500) == 100
    assert limits.charge("a", 1, 120_000) == 1


def test_who_goes_on_asking_is_banned_and_longer_the_second_time() -> None:
    limits = Limits(1, 10)
    now_ms = 60_000
    for lasts_ms in (FIRST_BAN_MS, 2 * FIRST_BAN_MS):
        limits.charge("a", 1, now_ms)
        statuses = []
        for _ in range(BAN_AFTER):
            with pytest.raises(VenueError) as refusal:
                limits.charge("a", 1, now_ms)
            statuses.append(refusal.value.status)
        assert statuses == [429] * (BAN_AFTER - 1) + [418]
        assert refusal.value.headers["Retry-After"] == str(lasts_ms // 1_000)
        with pytest.raises(VenueError) as refusal:
            limits.charge("a", 1, now_ms + lasts_ms - 1)
        assert refusal.value.status == 418
        now_ms += lasts_ms
    assert limits.charge("a", 1, now_ms) == 1


def test_orders_are_counted_in_ten_seconds() -> None:
    limits = Limits(100, 2)
    assert [limits.count_order("a", 10_000), limits.count_order("a", 19_999)] == [1, 2]
    with pytest.raises(VenueError) as refusal:
        limits.count_order("a", 19_999)
    assert (refusal.value.status, refusal.value.code) == (429, -1015)
    assert limits.count_order("a", 20_000) == 1


# --- misbehaviour ---------------------------------------------------------------------------------------------------------


def test_the_same_rules_strike_in_the_same_places() -> None:
    def run() -> list[bool]:
        faults = Faults()
        faults.arm([Rule(kind="error_after", path="/api/v3/order", probability=0.3, seed=7)])
        return ["error_after" in faults.strike(("error_after",), "POST", "/api/v3/order", "paper") for _ in range(50)]

    assert run() == run()
    assert 0 < sum(run()) < 50


def test_a_rule_strikes_only_what_it_names_and_as_often_as_it_may() -> None:
    faults = Faults()
    faults.arm([Rule(kind="no_answer", path="/api/v3/order", method="POST", account="paper", count=2)])

    def hit(method: str = "POST", path: str = "/api/v3/order", account: str = "paper") -> bool:
        return bool(faults.strike(("no_answer",), method, path, account))

    assert [hit(method="GET"), hit(path="/api/v3/account"), hit(account="other")] == [False, False, False]
    assert [hit(), hit(), hit()] == [True, True, False]
    faults.clear()
    assert not faults


def test_rules_that_make_no_sense_are_refused() -> None:
    for text in (
        '{"rules":[{"kind":"explode"}]}',
        '{"rules":[{"kind":"slow","probability":2}]}',
        '{"rules":[{"kind":"slow","sometimes":1}]}',
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Document)


# --- the wire -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [("1", "1.00000000"), ("0", "0.00000000"), ("1E+3", "1000.00000000"), ("0.123456789", "0.123456789"), ("-2.5", "-2.50000000")],
)
def test_numbers_have_eight_decimals_and_lose_none(value: str, text: str) -> None:
    assert shapes.number(Decimal(value)) == text


# --- the operator's command -----------------------------------------------------------------------------------------------

CONFIGURATION = """
environment: lab
host: node1
database: {host: 127.0.0.1}
mongodb: {hosts: ["127.0.0.1:1"]}
redis: {hosts: ["127.0.0.1:1"]}
services: {paper-venue: {port: 8020}}
"""


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "platform.yaml").write_text(CONFIGURATION)
    monkeypatch.setenv("TRADING_CONFIG", str(tmp_path / "platform.yaml"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def test_an_operator_with_the_credential_is_shown_an_accounts_keys(operator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (operator / "paper-venue-secret").write_text("the master")
    assert keys(["--account", "paper"]) == 0
    expected = venue_keys.paper("paper", "the master")
    assert capsys.readouterr().out == f"key: {expected.key}\nsecret: {expected.secret}\n"


def test_without_credential_or_account_the_command_says_what_lacks(operator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(["--account", "paper"]) == 78
    assert "paper-venue-secret" in capsys.readouterr().err
    assert keys(["--account", "nobody"]) == 78
    assert "there are: paper" in capsys.readouterr().err


# --- latency ----------------------------------------------------------------------------------------------------------------


def test_what_is_asked_of_an_order_waits_as_long_as_the_order_did() -> None:
    delays = Delays(JitterLatency(1_000_000, 50_000_000, seed=1))
    waited = {name: delays.next_s(name) for name in ("a", "b", "c", "d")}
    assert len(set(waited.values())) == 4
    assert {name: delays.next_s(name) for name in waited} == waited
    others = [delays.next_s(None) for _ in range(20)]
    assert len(set(others)) > 10
    assert all(0.001 <= delay <= 0.051 for delay in [*waited.values(), *others])
