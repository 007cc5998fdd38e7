"""Orders, halts and books on a deployed host: what the units do when they are killed, and what an operator types when it burns."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Life
from fleet import Fleet, until

SYMBOL = "BTCUSDT"


@pytest.fixture(scope="module")
def host(single: Life) -> Fleet:
    assert single.converge is not None
    assert single.converge.code == 0, single.converge.tail()
    single.fleet.healthy("lab1", 180)
    return single.fleet


class Desk:
    """The services of one host as its own operator reaches them: on loopback, with a token."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._token = fleet.lab("token").stdout.strip()

    def ask(self, method: str, port: int, path: str, body: object = None) -> tuple[int, Any]:
        command = f"curl -sS --max-time 20 -X {method} -H 'Authorization: Bearer {self._token}' -w '\\n%{{http_code}}'"
        if body is not None:
            command += f" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        done = self._fleet.on("lab1", f"{command} http://127.0.0.1:{port}{path}", check=False)
        text, _, status = done.stdout.strip().rpartition("\n")
        return (int(status), json.loads(text)) if done.returncode == 0 else (0, {"curl": done.stderr})

    def led(self) -> None:
        """Wait until the engine has recovered and leads the account."""
        until("the engine leads", 90, lambda: "paper" in self.ask("GET", 8010, "/health")[1].get("leads", []))

    def order(self, **more: Any) -> tuple[int, Any]:
        body = {"account": "paper", "client_request_id": uuid.uuid4().hex, "symbol": SYMBOL, "side": "buy", "type": "market"}
        return self.ask("POST", 8010, "/orders", {**body, "quantity": "0.001", **more})

    def mark(self) -> float:
        _, document = self.ask("GET", 8001, f"/market-data/{SYMBOL}")
        return float(document["mark"])

    def resting(self) -> tuple[int, Any]:
        """A limit order two per cent below the market: it rests."""
        return self.order(type="limit", limit_price=f"{self.mark() * 0.98:.2f}")

    def state(self) -> str:
        return str(self.ask("GET", 8012, "/trading/state")[1]["state"])

    def restore(self) -> None:
        if self.state() == "emergency_stopped":
            self.ask("POST", 8012, "/trading/state", {"state": "stopped", "reason": "the test is over"})
        self._fleet.on("lab1", "emergency_stop.sh --clear-latch", check=False)
        until("trading runs again", 60, lambda: self.ask("POST", 8012, "/trading/start", {"reason": "the test is over"})[0] == 200)
        self.led()

    def identical(self) -> bool:
        """Whether the books are the venue's, compared now."""
        status, outcome = self.ask("POST", 8010, "/reconciliations?account=paper")
        return status == 200 and outcome["identical"] is True


@pytest.fixture
def desk(host: Fleet) -> Iterator[Desk]:
    desk = Desk(host)
    desk.led()
    yield desk
    desk.restore()


def test_a_market_order_is_filled_by_the_paper_venue_and_the_books_agree(host: Fleet, desk: Desk) -> None:
    status, order = desk.order()
    assert status == 201, order
    path = f"/orders/{order['client_order_id']}"
    until("the order filled", 20, lambda: desk.ask("GET", 8010, path)[1]["status"] == "FILLED")
    until("identical books", 30, desk.identical)


@pytest.mark.parametrize("unit", ["trading-engine", "trading-paper-venue"])
def test_a_killed_service_comes_back_with_every_order_and_identical_books(host: Fleet, desk: Desk, unit: str) -> None:
    status, resting = desk.resting()
    assert status == 201, resting
    host.on("lab1", f"systemctl kill --signal=SIGKILL {unit}")

    def again() -> bool:
        _, order = desk.ask("GET", 8010, f"/orders/{resting['client_order_id']}")
        return order.get("status") == "NEW" and desk.identical()

    until(f"identical books after {unit} was killed", 90, again, every=2)
    status, canceled = desk.ask("POST", 8010, f"/orders/{resting['client_order_id']}/cancel")
    assert status == 200, canceled
    until("the cancel", 20, lambda: desk.ask("GET", 8010, f"/orders/{resting['client_order_id']}")[1]["status"] == "CANCELED")


def test_a_pause_refuses_orders_and_lets_cancels_pass(host: Fleet, desk: Desk) -> None:
    _, resting = desk.resting()
    status, paused = desk.ask("POST", 8012, "/trading/pause", {"reason": "looking at something"})
    assert status == 200, paused
    status, refused = desk.order()
    assert (status, refused["code"]) == (409, "TRADING_PAUSED")
    assert desk.ask("POST", 8010, f"/orders/{resting['client_order_id']}/cancel")[0] == 200


@pytest.mark.parametrize("down", ["nothing", "redis-server", "trading-gateway", "trading-risk", "trading-engine"])
def test_the_emergency_stop_ends_everything_with_a_part_down_and_outlives_a_restart(host: Fleet, desk: Desk, down: str) -> None:
    status, resting = desk.resting()
    assert status == 201, resting
    if down != "nothing":
        host.on("lab1", f"systemctl stop {down}")
    try:
        done = host.on("lab1", "emergency_stop.sh --reason 'fleet drill' --yes --json --deadline 60", check=False, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["complete"] is True
    finally:
        if down != "nothing":
            host.on("lab1", f"systemctl start {down}")
    host.on("lab1", "systemctl restart trading-engine")
    until("the engine answers", 60, lambda: desk.ask("GET", 8010, "/health/live")[0] == 200)
    status, refused = desk.order()
    assert (status, refused["code"]) in ((409, "TRADING_EMERGENCY_STOPPED"), (503, "NOT_LEADING")), refused
    assert desk.state() == "emergency_stopped"


def test_a_public_client_of_binance_trades_on_the_paper_venue(host: Fleet) -> None:
    """ccxt as it comes, with the address and the keys changed and nothing else."""
    program = """
import json, sys
import ccxt
key, secret = sys.argv[1:]
options = {"defaultType": "spot", "fetchMarkets": ["spot"], "fetchCurrencies": False}
venue = ccxt.binance({"apiKey": key, "secret": secret, "options": options})
urls = venue.urls["api"]
urls.update({name: url.replace("https://api.binance.com", "http://127.0.0.1:8021") for name, url in urls.items() if isinstance(url, str)})
ticker = venue.fetch_ticker("BTC/USDT")
order = venue.create_order("BTC/USDT", "limit", "buy", 0.001, round(ticker["bid"] * 0.98, 2))
found = venue.fetch_order(order["id"], "BTC/USDT")
venue.cancel_order(order["id"], "BTC/USDT")
print(json.dumps({"placed": found["status"], "after": venue.fetch_order(order["id"], "BTC/USDT")["status"]}))
"""
    keys = (
        "systemd-run --quiet --wait --pipe --collect --uid=trading --setenv=TRADING_CONFIG=/etc/trading-platform/platform.yaml"
        " --property=LoadCredentialEncrypted=paper-venue-secret:/etc/credstore.encrypted/trading/paper-venue-secret"
        " /opt/trading-platform/venv/bin/python -m trading_platform.paper_venue keys --account paper"
    )
    found = host.on("lab1", keys).stdout.split()
    key, secret = [word for word in found if len(word) == 64]
    host.on("lab1", f"cat > /run/client.py <<'END'\n{program}\nEND")
    done = host.on("lab1", f"/opt/trading-platform/venv/bin/python /run/client.py {key} {secret}")
    assert json.loads(done.stdout) == {"placed": "open", "after": "canceled"}
