"""Real processes on real servers, to be killed: venue, risk, portfolio, engine, a moving market, a driver, and what must be true after.

    with Launcher(directory) as launcher, Stage(launcher, settings, credentials, directory) as stage:
        stage.up()                                   # venue, risk and portfolio
        outcome = stage.life(Kill(point="before_send"), seed=7)
        assert outcome.problems == []

A life: the engine starts, is driven under faults of the venue, dies, starts again; then nothing may be lost, double or invented.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlencode

import httpx
import psycopg
import yaml
from servers import Market, PostgresServer, RedisServer, free_port, key_pair, settings_for
from trading_platform import auth, migrate, rebuild, venue_keys
from trading_platform.bus import Bus
from trading_platform.config import Endpoint, Settings
from trading_platform.db import Database

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret of these tests"
AGREED_WITHIN_S = 15.0
READY_WITHIN_S = 60.0
POINT_WITHIN_S = 30.0
AWAY_S = 0.5
TERMINAL = frozenset({"FILLED", "CANCELED", "REJECTED", "EXPIRED"})
PLENTY = "1000000000"

SUBMIT = {"path": "/api/v3/order", "method": "POST"}
CANCEL = {"path": "/api/v3/order", "method": "DELETE"}
# How the venue misbehaves, by name; probabilities are low enough that most requests are answered.
FAULTS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "submits_unanswered": [{"kind": "no_answer", "probability": 0.15, **SUBMIT}],
    "silence": [{"kind": "no_answer", "probability": 0.3, **SUBMIT}, {"kind": "lose_reports"}],
    "cancels_unanswered": [{"kind": "no_answer", "probability": 0.3, **CANCEL}],
    "error_before": [{"kind": "error_before", "probability": 0.15, **SUBMIT}],
    "error_after": [{"kind": "error_after", "probability": 0.15, **SUBMIT}],
    "slow": [{"kind": "slow", "probability": 0.15, "seconds": 0.7, **SUBMIT}],
    "slow_answer": [{"kind": "slow_answer", "probability": 0.15, "seconds": 1.5, **SUBMIT}],
    "rate_limit": [{"kind": "rate_limit", "probability": 0.03, "status": 429, "seconds": 1, **SUBMIT}],
    "clock_ahead": [{"kind": "clock_drift", "milliseconds": 4000}],
    "clock_behind": [{"kind": "clock_drift", "milliseconds": -4000}],
    "duplicate_reports": [{"kind": "duplicate_reports", "probability": 0.5}],
    "reorder_reports": [{"kind": "reorder_reports", "probability": 0.3}],
    "delay_reports": [{"kind": "delay_reports", "probability": 0.3, "seconds": 0.4}],
    "lose_reports": [{"kind": "lose_reports", "probability": 0.4}],
    "drop_streams": [{"kind": "drop_streams", "probability": 0.03}],
    "everything": [
        {"kind": "no_answer", "probability": 0.05, **SUBMIT},
        {"kind": "error_after", "probability": 0.05, "path": "/api/v3/order"},
        {"kind": "error_before", "probability": 0.05, "path": "/api/*"},
        {"kind": "duplicate_reports", "probability": 0.2},
        {"kind": "reorder_reports", "probability": 0.1},
        {"kind": "lose_reports", "probability": 0.1},
        {"kind": "drop_streams", "probability": 0.01},
    ],
}


def matrix_settings(postgres: PostgresServer, redis_server: RedisServer, database: str, directory: Path) -> Settings:
    """Quick leases, a venue that may misbehave, limits that do not get in the way."""
    rates = {"request_weight_per_minute": 100_000_000, "orders_per_10_s": 10_000_000}
    return settings_for(
        postgres,
        redis_server,
        database,
        leases={"ttl_s": 1},
        data_directory=str(directory),
        engine={"halt_latch": str(directory / "halt"), "reconcile_every_s": 1},
        venues={"paper": {"paper": True, "recv_window_s": 0.5, "timeout_s": 1, "queue_s": 2, **rates}},
        paper_venue={"faults": True, "max_data_age_s": 3600, **rates},
        accounts=[{"id": "paper", "opening_balances": {"USD": "10000000", "USDT": "10000000"}}],
        risk={
            "max_order_notional": PLENTY, "max_position_notional": PLENTY, "max_total_exposure": PLENTY, "max_daily_loss": PLENTY,
            "max_orders_per_minute": 100_000_000, "price_collar": "0.5", "max_data_age_s": 3600, "max_daily_loss_share": None,
            "max_weekly_loss_share": None, "max_monthly_loss_share": None, "max_drawdown": None, "max_leverage": None,
            "max_reject_share": None, "max_var": None, "figures_max_age_s": 60,
        },
    )  # fmt: skip


# --- processes ------------------------------------------------------------------------------------------------------------


class Launcher:
    """tests/faults/launcher.py, for the time of a `with`."""

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("TRADING_FAIL_POINT", None)
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/faults/launcher.py")],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, service: str, log: Path, environment: Mapping[str, str]) -> int:
        return int(self._ask({"start": service, "log": str(log), "environment": dict(environment)})["pid"])

    def wait(self, pid: int, seconds: float = 0.0) -> int | None:
        """Exit status, or None when it still runs after that time."""
        status = self._ask({"wait": pid, "seconds": seconds})["status"]
        return None if status is None else int(status)

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the launcher ended with {self._process.wait()}")
        return dict(json.loads(line))


@dataclass
class Process:
    """A service that was started, with the file of its output."""

    name: str
    pid: int
    log: Path
    launcher: Launcher
    status: int | None = None

    @property
    def alive(self) -> bool:
        if self.status is None:
            self.status = self.launcher.wait(self.pid)
        return self.status is None

    @property
    def stopped(self) -> bool:
        """By SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.status is None:
            self.status = self.launcher.wait(self.pid, 10)

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(line[:400] for line in [line for line in lines if '"level": "info"' not in line][-15:])


# --- the market -----------------------------------------------------------------------------------------------------------


class Feed:
    """Two markets that wander. Sizes are small, so that orders fill in parts."""

    SYMBOLS: Mapping[str, tuple[str, str]] = {"BTCUSDT": ("60000", "0.01"), "BTCUSD-PERP": ("60000", "0.5")}

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.mid = {symbol: Decimal(start) for symbol, (start, _) in self.SYMBOLS.items()}
        self.moving = True
        self.deep = False  # enough for any order, or so little that they fill in parts

    async def run(self, settings: Settings) -> None:
        """Publish until cancelled; what Redis does not take is dropped, as market data does."""
        database, stream = Database(settings), Bus(settings)
        await database.open()
        market = Market(stream)
        await market.open(database)
        try:
            while True:
                if self.moving:
                    for symbol in self.SYMBOLS:
                        with contextlib.suppress(Exception):
                            await self._tick(market, symbol)
                await asyncio.sleep(0.03)
        finally:
            await stream.close()
            await database.close()

    async def _tick(self, market: Market, symbol: str) -> None:
        start = Decimal(self.SYMBOLS[symbol][0])
        pull = (start - self.mid[symbol]) / 20
        self.mid[symbol] += (pull + Decimal(self._random.randrange(-40, 41))).quantize(Decimal(1))
        sizes = ["50", "50"] if self.deep else [str(Decimal(self._random.randrange(1, 30)) / 1000) for _ in range(2)]
        bid, ask = self.mid[symbol] - 1, self.mid[symbol] + 1
        await market.quote(symbol, str(bid), str(ask), bid_size=sizes[0], ask_size=sizes[1])
        if self._random.random() < 0.3:
            await market.trade(symbol, str(self._random.choice((bid, ask))), sizes[0])


async def ended(*tasks: asyncio.Task[None]) -> None:
    """Cancel, again where a library has swallowed it."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0)
    await asyncio.gather(*tasks, return_exceptions=True)


# --- the driver -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Acknowledged:
    """What the engine said of an order last."""

    status: str
    filled: Decimal


class Driver:
    """Clients of the engine's HTTP interface. `acknowledged` is what was answered, `open_questions` what was not."""

    def __init__(self, url: str, headers: Callable[[], dict[str, str]], raw: Path, name: str, seed: int, feed: Feed) -> None:
        self._random = random.Random(seed)
        self._url, self._headers, self._name, self._feed = url, headers, name, feed
        self._raw = raw.open("a")
        self._numbers = itertools.count(1)
        self.acknowledged: dict[str, Acknowledged] = {}
        self.placed: list[tuple[dict[str, Any], str]] = []
        self.open_questions: list[dict[str, Any]] = []
        self._resting: list[str] = []
        self.requests = 0
        self.defects: list[str] = []  # answers that no request may get
        self.refused = 0

    async def run(self, workers: int = 6) -> None:
        """Ask without a pause, until cancelled."""
        async with httpx.AsyncClient(base_url=self._url, timeout=20) as http:
            await asyncio.gather(*(self._worker(http) for _ in range(workers)))

    async def _worker(self, http: httpx.AsyncClient) -> None:
        while True:
            draw = self._random.random()
            if draw < 0.02:
                await self._ask(http, "/orders/cancel-all", {"account": "paper"})
            elif draw < 0.22 and self._resting:
                await self._ask(http, f"/orders/{self._pick()}/cancel", None)
            elif draw < 0.30 and self._resting:
                body = {"client_request_id": self._number(), "quantity": self._quantity()}
                await self._ask(http, f"/orders/{self._pick()}/replace", body)
            else:
                await self.place(http, self._order())
            await asyncio.sleep(0.005)

    def _number(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _pick(self) -> str:
        return self._resting.pop(self._random.randrange(len(self._resting)))

    def _quantity(self) -> str:
        return str(Decimal(self._random.randrange(1, 20)) / 1000)

    def _order(self) -> dict[str, Any]:
        symbol = self._random.choice(("BTCUSDT", "BTCUSDT", "BTCUSD-PERP"))
        side = self._random.choice(("buy", "buy", "sell"))
        mid, up = self._feed.mid[symbol], 1 if side == "buy" else -1
        body = {"account": "paper", "client_request_id": self._number(), "symbol": symbol, "side": side, "quantity": self._quantity()}

        def near(distance: int) -> str:
            """Away from the market in the direction that does not trade at once."""
            return str(mid - up * distance)

        piece = Decimal(self._random.randrange(1, 7)) / 1000
        late = {"late": self._random.choice(("catch_up", "skip"))}
        exits = {"take_profit_price": str(mid + up * 120), "stop_price": str(mid - up * 120)}
        match self._random.randrange(15):
            case 0 | 1 | 2:
                more: dict[str, Any] = {"type": "market"}
            case 3 | 4 | 5:
                more = {"type": "limit", "limit_price": near(self._random.randrange(5, 60))}
            case 6:
                more = {"type": "limit", "limit_price": near(-20), "time_in_force": "IOC"}
            case 7:
                more = {"type": "stop", "trigger_price": near(-60)}
            case 8:
                more = {"type": "stop_limit", "trigger_price": near(-60), "limit_price": near(-90)}
            case 9:
                more = {"type": "bracket", "terms": exits}
            case 10:
                opposite = {"take_profit_price": near(120), "stop_price": near(-120)}
                more = {"type": "oco", "terms": opposite}
            case 11:
                more = {"type": "trailing_stop", "terms": {"callback_amount": "40"}}
            case 12:
                shown = {"visible_quantity": str(piece), "variation_percent": "20"}
                more = {"type": "iceberg", "quantity": str(piece * 4), "limit_price": near(-20), "terms": shown}
            case 13:
                more = {"type": "twap", "quantity": str(piece * 3), "terms": {"duration_s": 3, "slices": 3, **late}}
            case _:
                curve = {"duration_s": 2, "weights": ["1", "2"], "slice_type": "limit", **late}
                more = {"type": "vwap", "quantity": str(piece * 3), "limit_price": near(-20), "terms": curve}
        return {**body, **more}

    async def place(self, http: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response | None:
        answer = await self._ask(http, "/orders", body)
        if answer is None or answer.status_code >= 500:
            self.open_questions.append(body)
        elif answer.status_code in (200, 201):
            self.placed.append((body, answer.json()["client_order_id"]))
        return answer

    async def _ask(self, http: httpx.AsyncClient, path: str, body: dict[str, Any] | None) -> httpx.Response | None:
        asked = time.time()
        self.requests += 1
        try:
            answer = await http.post(path, json=body, headers=self._headers())
        except httpx.TransportError as error:
            self._keep(asked, path, body, type(error).__name__)
            await asyncio.sleep(0.05)
            return None
        try:
            document = answer.json()
        except ValueError:
            document = {"said": answer.text[:200]}
        self._keep(asked, path, body, answer.status_code, document)
        if answer.is_success:
            for order in (document, document.get("replaced"), document.get("order"), *document.get("orders", ())):
                self._note(order)
        elif answer.status_code < 500:
            self.refused += 1
            self._note(document.get("order"))
        else:
            if answer.status_code == 500:
                self.defects.append(f"{path} {body} was answered 500: {answer.text[:200]}")
            await asyncio.sleep(0.05)
        return answer

    def _note(self, order: Any) -> None:
        if not isinstance(order, dict) or "client_order_id" not in order:
            return
        said = Acknowledged(order["status"], Decimal(order.get("filled_quantity", 0)))
        self.acknowledged[order["client_order_id"]] = said
        if said.status not in TERMINAL and len(self._resting) < 200:
            self._resting.append(order["client_order_id"])

    def _keep(self, asked: float, path: str, body: Any, *said: Any) -> None:
        self._raw.write(json.dumps([round(asked, 4), round(time.time(), 4), path, body, *said]) + "\n")

    async def repeat(self) -> list[str]:
        """Ask again what was not answered, and some of what was: every answer must be about the one order."""
        wrong = []
        again, self.open_questions = self.open_questions[-10:], []
        async with httpx.AsyncClient(base_url=self._url, timeout=20) as http:
            for body in again:
                await self.place(http, body)
            for body, order_id in self.placed[-5:]:
                answer = await self._ask(http, "/orders", body)
                if answer is None or answer.status_code != 200 or answer.json()["client_order_id"] != order_id:
                    wrong.append(f"repeated request {body['client_request_id']}: {answer and answer.text[:200]}, not the order {order_id}")
        return wrong

    def close(self) -> None:
        self._raw.close()


# --- what must be true ------------------------------------------------------------------------------------------------------

_OVER = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
_MAY_FILL = f"CASE WHEN c.status IN ({_OVER}) THEN c.filled_quantity ELSE c.quantity END"

# Never true, not for a moment: what we do not know at the venue, what the venue does not know in our books, a history with holes.
NEVER: Mapping[str, str] = {
    "orphaned: an order at the venue that we do not know": (
        "SELECT v.client_order_id FROM paper_venue.orders v LEFT JOIN orders o ON o.client_order_id = v.client_order_id"
        " AND o.account_id = v.account_id AND o.instrument_id = v.instrument_id WHERE o.client_order_id IS NULL"
    ),
    "double: a client id twice at the venue": (
        "SELECT client_order_id FROM paper_venue.orders GROUP BY account_id, client_order_id HAVING count(*) > 1"
    ),
    "invented: a fill that the venue does not have": (
        "SELECT f.venue_trade_id FROM fills f JOIN instruments i ON i.id = f.instrument_id LEFT JOIN paper_venue.trades t"
        " ON t.instrument_id = f.instrument_id AND i.symbol || ':' || t.trade_id = f.venue_trade_id AND t.account_id = f.account_id"
        " AND t.quantity = f.quantity AND t.price = f.price AND t.fee = f.fee AND t.fee_asset = f.fee_currency"
        " AND t.buyer = (f.side = 'buy') LEFT JOIN paper_venue.orders v ON v.order_id = t.order_id"
        " WHERE v.client_order_id IS DISTINCT FROM f.client_order_id"
    ),
    "double: a trade recorded twice": ("SELECT venue_trade_id FROM fills GROUP BY venue, account_id, venue_trade_id HAVING count(*) > 1"),
    "sent without a committed intent": (
        "SELECT v.client_order_id FROM paper_venue.orders v WHERE NOT EXISTS"
        " (SELECT FROM order_events e WHERE e.client_order_id = v.client_order_id AND e.type = 'submitting')"
    ),
    "history with holes": (
        "SELECT client_order_id FROM order_events GROUP BY client_order_id HAVING count(*) <> max(order_seq) OR min(order_seq) <> 1"
    ),
    "an order that is not where its history ends": (
        "SELECT o.client_order_id FROM orders o WHERE NOT EXISTS (SELECT FROM order_events e WHERE e.client_order_id = o.client_order_id"
        " AND e.order_seq = o.last_order_seq AND e.to_status = o.status)"
    ),
    "an order's fills do not add up": (
        "SELECT o.client_order_id FROM orders o LEFT JOIN (SELECT client_order_id, sum(quantity) AS total FROM fills GROUP BY 1) f"
        " USING (client_order_id) WHERE o.type IN ('market', 'limit', 'stop', 'stop_limit')"
        " AND o.filled_quantity <> coalesce(f.total, 0)"
    ),
    "children that may fill more than their parent": (
        "SELECT p.client_order_id FROM orders p JOIN orders c ON c.parent_id = p.client_order_id GROUP BY 1, p.type, p.quantity"
        f" HAVING sum({_MAY_FILL}) FILTER (WHERE p.type <> 'bracket' OR c.role = 'entry') > p.quantity"
        f" OR sum({_MAY_FILL}) FILTER (WHERE p.type = 'bracket' AND c.role <> 'entry')"
        " > coalesce(sum(c.filled_quantity) FILTER (WHERE c.role = 'entry'), 0)"
    ),
    "a moment of a schedule that has two slices": (
        "SELECT c.parent_id FROM orders c JOIN orders p ON p.client_order_id = c.parent_id WHERE p.type IN ('twap', 'vwap') GROUP BY 1,"
        " floor(extract(epoch FROM c.created_at - p.created_at) / (p.terms->>'duration_s')::numeric"
        " * coalesce((p.terms->>'slices')::int, jsonb_array_length(p.terms->'weights'))) HAVING count(*) > 1"
    ),
    "a parent that is over while a child is not": (
        f"SELECT c.client_order_id FROM orders c JOIN orders p ON p.client_order_id = c.parent_id"
        f" WHERE p.status IN ({_OVER}) AND c.status NOT IN ({_OVER})"
    ),
    "a parent that ended with another amount than its children filled": (
        "SELECT p.client_order_id FROM orders p LEFT JOIN orders c ON c.parent_id = p.client_order_id AND c.role <> ALL (CASE p.type"
        " WHEN 'bracket' THEN ARRAY['take_profit', 'stop_loss', 'exit'] ELSE ARRAY[]::text[] END)"
        " WHERE p.type IN ('trailing_stop', 'oco', 'bracket', 'iceberg', 'twap', 'vwap')"
        f" AND p.status IN ({_OVER}) GROUP BY 1, p.filled_quantity HAVING p.filled_quantity <> coalesce(sum(c.filled_quantity), 0)"
    ),
    "a real difference was claimed": "SELECT detail FROM audit_events WHERE type = 'reconciliation_mismatch'",
    "ledger does not balance": "SELECT currency || ' ' || total FROM ledger_totals WHERE total <> 0",
}

# True at last: what was on its way has arrived.
AT_LAST: Mapping[str, str] = {
    "lost: a trade of the venue without a fill": (
        "SELECT i.symbol || ':' || t.trade_id FROM paper_venue.trades t JOIN instruments i ON i.id = t.instrument_id WHERE NOT EXISTS"
        " (SELECT FROM fills f WHERE f.account_id = t.account_id AND f.venue_trade_id = i.symbol || ':' || t.trade_id)"
    ),
    "open at the venue, not here": (
        "SELECT v.client_order_id || ' ' || o.status FROM paper_venue.orders v JOIN orders o USING (client_order_id)"
        " WHERE v.status IN ('NEW', 'PARTIALLY_FILLED') AND o.status <> v.status"
    ),
    "open here, not at the venue": (
        "SELECT o.client_order_id || ' ' || o.status FROM orders o LEFT JOIN paper_venue.orders v USING (client_order_id)"
        f" WHERE o.type IN ('market', 'limit', 'stop', 'stop_limit') AND o.status NOT IN ({_OVER}, 'SUSPENDED')"
        " AND v.status IS DISTINCT FROM o.status"
    ),
    "executed otherwise than here": (
        "SELECT v.client_order_id FROM paper_venue.orders v JOIN orders o USING (client_order_id) WHERE v.executed <> o.filled_quantity"
        " OR (v.status = 'FILLED') <> (o.status = 'FILLED') OR o.status = 'REJECTED'"
    ),
    "projection is behind": (
        "SELECT a.id FROM accounts a WHERE coalesce((SELECT last_fill_seq FROM portfolio_cursor c WHERE c.account_id = a.id), 0)"
        " <> coalesce((SELECT max(seq) FROM fills f WHERE f.account_id = a.id), 0)"
    ),
    "a position is not the sum of its fills": (
        "SELECT instrument_id || ' ' || coalesce(p.quantity, 0) || ' ' || coalesce(f.total, 0) FROM (SELECT account_id, instrument_id,"
        " position_side, sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END) AS total FROM fills GROUP BY 1, 2, 3) f"
        " FULL JOIN positions p USING (account_id, instrument_id, position_side) WHERE coalesce(p.quantity, 0) <> coalesce(f.total, 0)"
    ),
    "the venue holds another position": (
        "SELECT b.asset || ' ' || b.free || ' ' || coalesce(p.quantity, 0) FROM paper_venue.balances b"
        " JOIN instruments i ON replace(i.symbol, '-', '') = b.asset"
        " LEFT JOIN positions p ON p.instrument_id = i.id AND p.account_id = b.account_id WHERE b.free <> coalesce(p.quantity, 0)"
    ),
    # A fill that was learnt late realises profit of a perpetual at another time than the venue did, until nothing is held: compared
    # is what would be there if what is held were paid for. Beyond that nothing differs but the venue's rounding.
    "ledger and the venue's balances differ": (
        "SELECT currency || ' ' || coalesce(ours, 0) || ' ' || coalesce(theirs, 0) FROM"
        " (SELECT currency, sum(amount) AS ours FROM (SELECT currency, amount FROM ledger_balances WHERE book = 'holdings'"
        "   UNION ALL SELECT i.quote_currency, -p.quantity * p.average_price FROM positions p JOIN instruments i ON i.id = p.instrument_id"
        "   WHERE i.kind = 'perpetual') o GROUP BY 1) l FULL JOIN"
        " (SELECT currency, sum(amount) AS theirs FROM (SELECT asset AS currency, free + locked AS amount FROM paper_venue.balances"
        "   WHERE asset NOT IN (SELECT replace(symbol, '-', '') FROM instruments)"
        "   UNION ALL SELECT i.quote_currency, -b.cost FROM paper_venue.balances b"
        "   JOIN instruments i ON replace(i.symbol, '-', '') = b.asset) v GROUP BY 1) b"
        " USING (currency) WHERE abs(coalesce(ours, 0) - coalesce(theirs, 0)) > 0.00000001"
    ),
    "events that were not published": "SELECT id FROM outbox",
}


def wrong(connection: psycopg.Connection[Any], questions: Mapping[str, str]) -> list[str]:
    """What is not as it must be, all seen at one moment: the venue's books and ours are in one database here."""
    found = []
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for name, question in questions.items():
            rows = connection.execute(question.encode()).fetchmany(4)
            if rows:
                found.append(f"{name}: {', '.join(str(row[0]) for row in rows[:3])}{', …' if len(rows) > 3 else ''}")
    return found


def forgotten(connection: psycopg.Connection[Any], acknowledged: Mapping[str, Acknowledged]) -> list[str]:
    """Acknowledged orders that are not there, or went back behind what was said of them."""
    rows = connection.execute(
        "SELECT client_order_id, status, filled_quantity FROM orders WHERE client_order_id = ANY(%s)", (list(acknowledged),)
    ).fetchall()
    kept = {row[0]: Acknowledged(row[1], row[2]) for row in rows}
    found = [f"lost: acknowledged {order_id} is not there" for order_id in acknowledged if order_id not in kept]
    for order_id, now in kept.items():
        said = acknowledged[order_id]
        if now.filled < said.filled or (said.status in TERMINAL and now.status not in TERMINAL):
            found.append(f"{order_id} was acknowledged as {said}, and is {now}")
    return found[:5]


def sent_twice(received: Path) -> list[str]:
    """Client ids that reached the venue's exchange more than once."""
    counts: dict[str, int] = {}
    for line in received.read_text().splitlines() if received.exists() else ():
        counts[line.split()[1]] = counts.get(line.split()[1], 0) + 1
    return [f"sent {number} times: {order_id}" for order_id, number in counts.items() if number > 1][:5]


# --- the stage ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """Who dies, and when. The engine: at a fail point, or after some seconds of load; `early`: counted from its start, ready or not.
    A server: after some seconds of load, which goes on while it is away and when it is back."""

    who: Literal["engine", "postgresql", "paper-venue"] = "engine"
    point: str | None = None
    after_s: float = 0.0
    early: bool = False
    passes: int = 0

    @property
    def name(self) -> str:
        if self.who != "engine":
            return f"{self.who} under load"
        return self.point or ("any moment, from the start" if self.early else "any moment")


@dataclass
class Outcome:
    """One life and what was there after it."""

    kill: Kill
    faults: str
    orders: int = 0
    requests: int = 0
    ready_s: float = 0.0
    agreed_s: float = 0.0
    problems: list[str] = field(default_factory=list)


class NotReached(Exception):
    """The engine lived on; the fail point was not come by."""


class Stage:
    """One platform of processes on one database."""

    def __init__(self, launcher: Launcher, postgres: PostgresServer, settings: Settings, credentials: Path, directory: Path) -> None:
        self.settings, self.directory, self.credentials = settings, directory, credentials
        self._launcher, self._postgres = launcher, postgres
        self._configuration = directory / "platform.yaml"
        self._configuration.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        self.received = directory / "received.log"
        self.processes: dict[str, Process] = {}
        self.lives = itertools.count(1)
        self.connection = postgres.connect(settings.database.name)
        self.feed = Feed(1)
        self._tokens: dict[str, tuple[float, dict[str, str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.signal(signal.SIGCONT)
            process.kill()
        self.connection.close()

    def reconnect(self) -> None:
        """After PostgreSQL was away."""
        self.connection.close()
        self.connection = self._postgres.connect(self.settings.database.name)

    def headers(self, role: Any = "trader") -> dict[str, str]:
        """The Authorization header of somebody with that role."""
        minted, headers = self._tokens.get(role, (0.0, {}))
        if time.monotonic() - minted > 300 or not headers:
            os.environ["CREDENTIALS_DIRECTORY"] = str(self.credentials)
            headers = {"Authorization": f"Bearer {auth.Authenticator().mint('somebody', role)}"}
            self._tokens[role] = (time.monotonic(), headers)
        return headers

    @property
    def environment(self) -> dict[str, str]:
        return {"TRADING_CONFIG": str(self._configuration), "CREDENTIALS_DIRECTORY": str(self.credentials)}

    def start(self, service: str, **more: str) -> Process:
        log = self.directory / f"{service}.log"
        pid = self._launcher.start(service, log, {**self.environment, **more})
        self.processes[service] = Process(service, pid, log, self._launcher)
        return self.processes[service]

    @property
    def engine(self) -> Process:
        return self.processes["engine"]

    def url(self, service: str) -> str:
        return self.settings.url(service)

    async def until(self, what: str, condition: Callable[[], Any], within_s: float) -> float:
        """Poll an async condition; how long it took. Raises TimeoutError."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(httpx.TransportError, json.JSONDecodeError):
                if await condition():
                    return time.monotonic() - began
            if time.monotonic() - began > within_s:
                tails = "\n".join(f"--- {name}\n{process.tail()}" for name, process in self.processes.items())
                raise TimeoutError(f"{what}: not within {within_s} s\n{tails}")
            await asyncio.sleep(0.03)

    async def up(self) -> None:
        """Venue, risk and portfolio at work, with prices."""
        self._start_venue()
        self.start("risk")
        self.start("portfolio")

        async def figures() -> bool:
            row = self.connection.execute("SELECT count(*) FROM risk_figures JOIN risk_limits USING (account_id)").fetchone()
            return bool(row and row[0])

        await self.venue_leads()
        await self.until("risk's figures", figures, READY_WITHIN_S)

    def _start_venue(self) -> None:
        self.start("paper-venue", TRADING_RECEIVED_LOG=str(self.received))

    async def venue_leads(self) -> None:
        async with httpx.AsyncClient(timeout=5) as http:

            async def leading() -> bool:
                return (await http.get(self.url("paper-venue") + "/health/leading")).status_code == 200

            await self.until("the venue's lead", leading, READY_WITHIN_S)

    @asynccontextmanager
    async def market(self) -> AsyncIterator[Feed]:
        """Prices move inside."""
        self.feed.moving = True
        task = asyncio.create_task(self.feed.run(self.settings))
        try:
            yield self.feed
        finally:
            await ended(task)

    async def faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        async with httpx.AsyncClient(timeout=10) as http:
            answer = await http.post(self.url("paper-venue") + "/faults", json={"rules": list(rules)})
            answer.raise_for_status()

    async def ready(self, within_s: float = READY_WITHIN_S, *, seconds: float = 0.0) -> float:
        """Until the engine leads and has what it judges by. `seconds`: give up earlier when the process ended."""
        async with httpx.AsyncClient(timeout=5) as http:

            async def leads() -> bool:
                if not self.engine.alive:
                    return True
                document = (await http.get(self.url("engine") + "/health")).json()
                standing = document["accounts"].get("paper")
                return bool(standing and standing["limits_version"] and standing["figures_at"])

            return await self.until("the engine's lead", leads, within_s)

    async def account(self) -> dict[str, Decimal]:
        """Balances as the venue's API tells them, without positions."""
        key = venue_keys.paper("paper", SECRET)
        query = urlencode({"timestamp": time.time_ns() // 1_000_000})
        query += "&signature=" + hmac.new(key.secret.encode(), query.encode(), hashlib.sha256).hexdigest()
        async with httpx.AsyncClient(base_url=self.url("paper-venue"), timeout=10) as http:
            answer = await http.get(f"/api/v3/account?{query}", headers={"X-MBX-APIKEY": key.key})
        answer.raise_for_status()
        symbols = {row[0] for row in self.connection.execute("SELECT replace(symbol, '-', '') FROM instruments").fetchall()}
        totals = {row["asset"]: Decimal(row["free"]) + Decimal(row["locked"]) for row in answer.json()["balances"]}
        return {asset: total for asset, total in totals.items() if asset not in symbols and total}

    # --- a life -------------------------------------------------------------------------------------------------------------

    def live(self, kill: Kill, faults: str = "none", seed: int = 0) -> Outcome:
        """One life of the engine, its death, the next one, and what is wrong then."""
        return asyncio.run(self._life(kill, faults, seed))

    async def _life(self, kill: Kill, faults: str, seed: int) -> Outcome:
        number = next(self.lives)
        outcome = Outcome(kill, faults)
        driver = Driver(
            self.url("engine"), self.headers, self.directory / "requests.log", f"life-{seed}-{number}", seed * 100_003 + number, self.feed
        )
        async with self.market():
            await self.faults([{**rule, "seed": seed + number} for rule in FAULTS[faults]])
            try:
                if kill.who == "engine":
                    await self._until_death(kill, driver)
                    if kill.point is not None and kill.point.startswith("recovery"):
                        await self._die_in_recovery(kill)
                    self.start("engine")
                else:
                    await self._through_an_outage(kill, driver)
                outcome.ready_s = await self.ready()
                if not self.engine.alive:
                    outcome.problems.append(f"the engine ended with {self.engine.status}\n{self.engine.tail()}")
                    return outcome
                await self.faults([])
                self.feed.moving = False
                outcome.problems += await driver.repeat()
                outcome.agreed_s = await self._agreed(outcome)
                outcome.problems += forgotten(self.connection, driver.acknowledged) + driver.defects[:3]
                outcome.problems += await self._api_agrees()
            finally:
                outcome.orders, outcome.requests = len(driver.acknowledged), driver.requests
                driver.close()
                if "engine" in self.processes:
                    self.engine.kill()
        return outcome

    async def _until_death(self, kill: Kill, driver: Driver) -> None:
        """Start it under load; it kills itself at the point, or is killed."""
        first = "answer_before_commit" if kill.point is not None and kill.point.startswith("recovery") else kill.point
        more = {"TRADING_FAIL_POINT": f"{first}:{kill.passes}"} if first else {}
        engine = self.start("engine", **more)
        began = time.monotonic()
        if not kill.early:
            await self.ready()
            began = time.monotonic()
        load = asyncio.create_task(driver.run())
        try:
            while engine.alive:
                waited = time.monotonic() - began
                if first is None and waited >= kill.after_s:
                    engine.kill()
                    break
                if first is not None and waited > POINT_WITHIN_S:
                    raise NotReached(f"{first} was not reached within {POINT_WITHIN_S} s of load ({driver.requests} requests)")
                if load.done():
                    load.result()
                await asyncio.sleep(0.01)
        finally:
            await ended(load)
        if engine.status != -signal.SIGKILL:
            raise RuntimeError(f"the engine ended by itself with {engine.status}\n{engine.tail()}")

    async def _through_an_outage(self, kill: Kill, driver: Driver) -> None:
        """A server dies under load and comes back; the engine lives on."""
        self.start("engine")
        await self.ready()
        load = asyncio.create_task(driver.run())
        try:
            await asyncio.sleep(kill.after_s)
            if kill.who == "postgresql":
                await asyncio.to_thread(self._postgres.stop, "immediate")
                await asyncio.sleep(AWAY_S)
                await asyncio.to_thread(self._postgres.start)
                self.reconnect()
            else:
                self.processes[kill.who].kill()
                await asyncio.sleep(AWAY_S)
                self._start_venue()
            await self.venue_leads()
            before = len(driver.placed)

            async def goes_on() -> bool:
                if load.done():
                    load.result()
                return len(driver.placed) > before

            await self.until("orders after the outage", goes_on, READY_WITHIN_S)
        finally:
            await ended(load)

    async def _die_in_recovery(self, kill: Kill) -> None:
        engine = self.start("engine", TRADING_FAIL_POINT=f"{kill.point}:0")
        await self.ready()
        if engine.alive:
            raise NotReached(f"{kill.point}: the recovery ended without coming by")

    async def _agreed(self, outcome: Outcome) -> float:
        """How long until all books agree; what does not in time is a problem."""
        began = time.monotonic()
        while True:
            found = wrong(self.connection, NEVER) + self._state()
            late = wrong(self.connection, AT_LAST)
            waited = time.monotonic() - began
            if found or not late or waited > AGREED_WITHIN_S:
                outcome.problems += found + late + sent_twice(self.received)
                return waited
            await asyncio.sleep(0.1)

    def _state(self) -> list[str]:
        rows = self.connection.execute("SELECT account_id, state, reason FROM trading_state WHERE state <> 'running'").fetchall()
        return [f"trading is {row[1]} for {row[0]}: {row[2]}" for row in rows]

    async def _api_agrees(self) -> list[str]:
        """What the venue's API tells of spot currencies is what the ledger has, to the last digit; schedules go on meanwhile."""
        settled = {row[0] for row in self.connection.execute("SELECT quote_currency FROM instruments WHERE kind = 'perpetual'").fetchall()}
        until = time.monotonic() + AGREED_WITHIN_S
        while True:
            theirs = await self.account()
            rows = self.connection.execute(
                "SELECT currency, amount FROM ledger_balances WHERE book = 'holdings' AND amount <> 0"
            ).fetchall()
            ours = {row[0]: row[1] for row in rows}
            if {name: ours[name] for name in ours.keys() - settled} == {name: theirs[name] for name in theirs.keys() - settled}:
                return []
            if time.monotonic() > until:
                return [f"ledger has {ours}, the venue's account {theirs}"]
            await asyncio.sleep(0.1)

    # --- a sleeper ------------------------------------------------------------------------------------------------------------

    def wake_after_the_heir(self, point: str, passes: int, seed: int = 0) -> list[str]:
        """An engine freezes at that point, another one takes its lease and settles everything; the first wakes. What is wrong then."""
        return asyncio.run(self._wake_after_the_heir(point, passes, seed))

    async def _wake_after_the_heir(self, point: str, passes: int, seed: int) -> list[str]:
        elsewhere = self.settings.model_copy(update={"services": {**self.settings.services, "engine": Endpoint(port=free_port())}})
        configuration = self.directory / "heir.yaml"
        configuration.write_text(yaml.safe_dump(elsewhere.model_dump(mode="json")))
        driver = Driver(self.url("engine"), self.headers, self.directory / "requests.log", f"sleeper-{point}", seed, self.feed)
        async with self.market():
            sleeper = self.start("engine", TRADING_FREEZE_POINT=f"{point}:{passes}")
            try:
                await self.ready()
                load = asyncio.create_task(driver.run())

                async def frozen() -> bool:
                    return sleeper.stopped

                try:
                    await self.until("a frozen engine", frozen, POINT_WITHIN_S)
                finally:
                    await ended(load)
                self.start("engine", TRADING_CONFIG=str(configuration))
                await self.until("the heir's lead", lambda: self._stands(elsewhere.url("engine"), "running"), READY_WITHIN_S)
                self.feed.moving = False
                outcome = Outcome(Kill(point=point), "none")
                await self._agreed(outcome)
                before = self.received.read_text()
                sleeper.signal(signal.SIGCONT)
                await self.until("the sleeper standing by", lambda: self._stands(self.url("engine"), "standby"), READY_WITHIN_S)
                lines = self.received.read_text().removeprefix(before).splitlines()
                outcome.problems += [f"sent by the one that woke: {line}" for line in lines if not self._of_the_leader(line.split()[1])]
                await self._agreed(outcome)
                return outcome.problems + forgotten(self.connection, driver.acknowledged) + driver.defects[:3]
            finally:
                driver.close()
                sleeper.signal(signal.SIGCONT)
                sleeper.kill()
                self.engine.kill()

    def _of_the_leader(self, order_id: str) -> bool:
        """Whether who leads now made the order: slices of a schedule go on."""
        row = self.connection.execute(
            "SELECT fencing_token = (SELECT token FROM leases WHERE name = 'engine:paper') FROM order_events"
            " WHERE client_order_id = %s AND type = 'submitting'",
            (order_id,),
        ).fetchone()
        return row is not None and bool(row[0])

    async def _stands(self, url: str, how: str) -> bool:
        async with httpx.AsyncClient(timeout=5) as http:
            document = (await http.get(url + "/health")).json()
        leads = bool(document["accounts"].get("paper"))
        return document["loops"]["account:paper"]["status"] == how and leads == (how == "running")

    # --- the end --------------------------------------------------------------------------------------------------------------

    async def closed(self) -> list[str]:
        """Close everything that is held; then what is wrong, with the ledger compared to the last digit the venue keeps."""
        self.feed.deep = True
        await self.faults([])
        async with self.market():
            self.start("engine")
            await self.ready()
            async with httpx.AsyncClient(base_url=self.url("engine"), timeout=30) as http:

                async def flat() -> bool:
                    asked = {"account": "paper", "client_request_id": f"close-{time.time_ns()}"}
                    await http.post("/positions/close", json=asked, headers=self.headers())
                    await asyncio.sleep(0.5)
                    row = self.connection.execute(
                        "SELECT (SELECT count(*) FROM positions WHERE quantity <> 0) + (SELECT count(*) FROM paper_venue.balances"
                        " WHERE asset IN ('BTC', 'BTCUSDPERP') AND free + locked <> 0)"
                    ).fetchone()
                    return row is not None and row[0] == 0

                await self.until("nothing held", flat, 30)
            outcome = Outcome(Kill(), "none")
            await self._agreed(outcome)
        theirs = await self.account()
        ours = dict(self.connection.execute("SELECT currency, amount FROM ledger_balances WHERE book = 'holdings'").fetchall())
        for currency in sorted({*ours, *theirs}):
            mine, yours = ours.get(currency, Decimal(0)), theirs.get(currency, Decimal(0))
            if abs(mine - yours) > Decimal("0.00000001"):
                outcome.problems.append(f"{currency}: the ledger has {mine}, the venue's account {yours}")
        return outcome.problems + [f"rebuilt otherwise: {line}" for line in await rebuild.rebuild(self.settings)]

    def counts(self) -> dict[str, int]:
        """How much there is of what."""
        names = {"orders": "orders", "events": "order_events", "fills": "fills", "orders at the venue": "paper_venue.orders"}
        found = {}
        for name, table in names.items():
            row = self.connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            found[name] = int(row[0]) if row else 0
        return found


# --- the ground ------------------------------------------------------------------------------------------------------------


@contextmanager
def scene() -> Iterator[tuple[PostgresServer, RedisServer, Path]]:
    """PostgreSQL, Redis and a directory, for as long as it is open."""
    directory = Path(tempfile.mkdtemp(prefix="trading-faults-", dir="/tmp"))
    (directory / "postgres").mkdir()
    (directory / "redis").mkdir()
    directory.chmod(0o755)
    postgres, redis_server = PostgresServer(directory / "postgres"), RedisServer(directory / "redis")
    postgres.initialise()
    redis_server.start()
    try:
        yield postgres, redis_server, directory
    finally:
        redis_server.stop()
        postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def staged(launcher: Launcher, postgres: PostgresServer, redis_server: RedisServer, directory: Path) -> Iterator[Stage]:
    """Venue, risk and portfolio at work on a database of their own; the engine is the matrix's to start."""
    directory.mkdir()
    credentials = directory / "credentials"
    credentials.mkdir()
    private, public = key_pair()
    for name, text in (("jwt-private-key", private), ("jwt-public-key", public), ("paper-venue-secret", SECRET)):
        (credentials / name).write_text(text)
    redis_server.client().flushall()
    settings = matrix_settings(postgres, redis_server, postgres.create_database(), directory)
    migrate.migrate(settings)
    with Stage(launcher, postgres, settings, credentials, directory) as stage:

        async def up() -> None:
            async with stage.market():
                await stage.up()

        asyncio.run(up())
        yield stage
