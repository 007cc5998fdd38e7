"""Starts services as processes of their own, by fork, so that a life costs no imports: one line of JSON in, one out.

    {"start": "engine", "log": "/…/engine.log", "environment": {…}}  → {"pid": 4711}
    {"wait": 4711, "seconds": 0.1}                                   → {"status": -9} or {"status": null} while it runs

Only here an environment variable makes the engine kill itself at a named step: TRADING_FAIL_POINT=<name>:<how many times before>, or
stop itself there until somebody continues it: TRADING_FREEZE_POINT, of the points that come before something.
The paper venue keeps a line of each order that reaches its exchange, whatever becomes of it: TRADING_RECEIVED_LOG=<file>.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any, Literal

from trading_platform import bus, leadership, service
from trading_platform.domain.orders import EventType, Step
from trading_platform.engine import app as engine_app
from trading_platform.engine import core, journal, reconcile, session, store
from trading_platform.engine.venues import binance, ccxt_client
from trading_platform.paper_venue import app as paper_venue_app
from trading_platform.paper_venue import exchange
from trading_platform.portfolio import app as portfolio_app
from trading_platform.risk import app as risk_app

SERVICES = {"engine": engine_app, "paper-venue": paper_venue_app, "portfolio": portfolio_app, "risk": risk_app}
PR_SET_PDEATHSIG = 1
HELD_UP_S = 0.1

When = Callable[..., bool]
Moment = Literal["before", "midway", "after", "followed"]


def _always(*_: Any, **__: Any) -> bool:
    return True


def _writes(*kinds: EventType) -> When:
    return lambda _journal, steps, *_: any(step.event.type in kinds for step in steps)


def _writes_new(wanted: Callable[[Step], object]) -> When:
    return lambda _journal, steps, *_: any(step.event.type is EventType.INITIALIZED and wanted(step) for step in steps)


def _of_slice(kind: EventType) -> When:
    return lambda _journal, steps, *_: any(step.event.type is kind and step.order.intent.role == "slice" for step in steps)


def _asks(method: str) -> When:
    return lambda _venue, path, verb, *_, **__: path == "order" and verb == method


_recovering = False


def _in_recovery(*_: Any, **__: Any) -> bool:
    return _recovering


# What the engine dies at: when, of whose method, under which condition.
_JOURNAL = (journal.Journal, "_write")
POINTS: dict[str, tuple[Moment, tuple[type[Any], str], When]] = {
    "intent_before_commit": ("before", _JOURNAL, _writes(EventType.SUBMITTING)),
    "intent_during_commit": ("midway", _JOURNAL, _writes(EventType.SUBMITTING)),
    "intent_after_commit": ("after", _JOURNAL, _writes(EventType.SUBMITTING)),
    "between_two_commits": ("followed", _JOURNAL, _always),
    "before_send": ("before", (binance.BinanceVenue, "submit"), _always),
    "sent_before_answer": ("midway", (binance.BinanceVenue, "_ask"), _asks("POST")),
    "answer_before_applied": ("after", (binance.BinanceVenue, "submit"), _always),
    "answer_before_commit": ("before", _JOURNAL, _writes(EventType.ACCEPTED)),
    "answer_during_commit": ("midway", _JOURNAL, _writes(EventType.ACCEPTED)),
    "answer_after_commit": ("after", _JOURNAL, _writes(EventType.ACCEPTED)),
    "unknown_before_commit": ("before", _JOURNAL, _writes(EventType.SUBMIT_UNKNOWN)),
    "unknown_after_commit": ("after", _JOURNAL, _writes(EventType.SUBMIT_UNKNOWN)),
    "report_before_applied": ("before", (core.AccountCore, "on_report"), _always),
    "fill_before_commit": ("before", _JOURNAL, _writes(EventType.FILLED)),
    "fill_during_commit": ("midway", _JOURNAL, _writes(EventType.FILLED)),
    "fill_after_commit": ("after", _JOURNAL, _writes(EventType.FILLED)),
    "fills_fetched": ("after", (binance.BinanceVenue, "trades"), _always),
    "cancel_before_send": ("before", (binance.BinanceVenue, "cancel"), _always),
    "cancel_before_answer": ("midway", (binance.BinanceVenue, "_ask"), _asks("DELETE")),
    "cancel_before_commit": ("before", _JOURNAL, _writes(EventType.CANCELED)),
    "cancel_after_commit": ("after", _JOURNAL, _writes(EventType.CANCELED)),
    "replacement_before_commit": ("before", _JOURNAL, _writes_new(lambda step: step.order.intent.replaces)),
    "replacement_after_commit": ("after", _JOURNAL, _writes_new(lambda step: step.order.intent.replaces)),
    "child_before_commit": ("before", _JOURNAL, _writes_new(lambda step: step.order.intent.parent_id)),
    "child_after_commit": ("after", _JOURNAL, _writes_new(lambda step: step.order.intent.parent_id)),
    "slice_before_commit": ("before", _JOURNAL, _of_slice(EventType.SUBMITTING)),
    "slice_before_send": ("before", (binance.BinanceVenue, "submit"), lambda _venue, intent: intent.role == "slice"),
    "slice_filled_before_commit": ("before", _JOURNAL, _of_slice(EventType.FILLED)),
    "outbox_before_delete": ("after", (bus.Bus, "publish_many"), _always),
    "comparison_before_kept": ("before", (store.OrderStore, "record_reconciliation"), lambda *_: not _recovering),
    "recovery_books_read": ("after", (store.OrderStore, "books"), _in_recovery),
    "recovery_asks": ("midway", (binance.BinanceVenue, "_ask"), _in_recovery),
    "recovery_compared": ("after", (reconcile.Reconciler, "_compare"), _in_recovery),
    "recovery_before_commit": ("before", _JOURNAL, _in_recovery),
    "recovery_during_commit": ("midway", _JOURNAL, _in_recovery),
    "recovery_after_commit": ("after", _JOURNAL, _in_recovery),
    "recovery_before_kept": ("before", (store.OrderStore, "record_reconciliation"), _in_recovery),
    "recovery_before_resume": ("before", (core.AccountCore, "resume"), _in_recovery),
}


def _die_at(name: str, passes: int) -> None:
    """Have this process killed when it comes to that point for the (passes + 1)th time."""
    moment, (owner, method), when = POINTS[name]
    original = getattr(owner, method)
    left = passes

    def reached(*arguments: Any, **named: Any) -> bool:
        nonlocal left
        if not when(*arguments, **named):
            return False
        left -= 1
        return left < 0

    if asyncio.iscoroutinefunction(original):

        @functools.wraps(original)
        async def replaced(*arguments: Any, **named: Any) -> Any:
            dying = reached(*arguments, **named)
            if not dying:
                return await original(*arguments, **named)
            if moment == "after":
                await original(*arguments, **named)
            elif moment == "before":  # held up first: what does not wait for this step has time to go wrong
                await asyncio.sleep(HELD_UP_S)
            elif moment == "midway":
                await asyncio.wait({asyncio.ensure_future(original(*arguments, **named))}, timeout=random.uniform(0.0005, 0.006))
            elif moment == "followed":  # what is written is durable, and more waits to be
                await original(*arguments, **named)
                while not arguments[0]._waiting:
                    await asyncio.sleep(0.001)
            return _die()
    else:

        @functools.wraps(original)
        def replaced(*arguments: Any, **named: Any) -> Any:
            return _die() if reached(*arguments, **named) else original(*arguments, **named)

    setattr(owner, method, replaced)


def _freeze_after_the_gate(passes: int) -> None:
    """Have this process stopped between the last look at lease and halts and the request's first step out."""
    original, left = session.Session._gate, passes

    def gate(self: session.Session, intent: Any) -> None:
        nonlocal left
        original(self, intent)
        left -= 1
        if left == -1:
            os.kill(os.getpid(), signal.SIGSTOP)

    session.Session._gate = gate  # type: ignore[method-assign]


def _freeze_at(name: str, passes: int) -> None:
    """Have this process stopped when it comes to that point for the (passes + 1)th time; continued, it goes on with what it was at."""
    if name == "gate_passed":
        return _freeze_after_the_gate(passes)
    _, (owner, method), when = POINTS[name]
    original = getattr(owner, method)
    left = passes

    @functools.wraps(original)
    async def replaced(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        if when(*arguments, **named):
            left -= 1
            if left == -1:
                os.kill(os.getpid(), signal.SIGSTOP)
        return await original(*arguments, **named)

    setattr(owner, method, replaced)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _mark_recovery() -> None:
    original = session.Session._recover

    async def recover(self: session.Session, context: service.LoopContext) -> None:
        global _recovering
        _recovering = True
        try:
            await original(self, context)
        finally:
            _recovering = False

    session.Session._recover = recover  # type: ignore[method-assign]


def _log_received(path: str) -> None:
    """A line of each order that the exchange is asked for: when by the venue's clock, whose, and what became of it."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    original = exchange.Exchange.place

    @functools.wraps(original)
    def place(self: exchange.Exchange, request: Any, now_ms: int) -> Any:
        try:
            placed = original(self, request, now_ms)
        except Exception as error:
            os.write(file, f"{now_ms} {request.client_order_id} {request.side} refused {error}\n".encode())
            raise
        os.write(file, f"{now_ms} {request.client_order_id} {request.side} accepted\n".encode())
        return placed

    exchange.Exchange.place = place  # type: ignore[method-assign]


def _live(command: dict[str, Any]) -> None:
    """A service's whole life, in the forked process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(command["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for standard, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, standard)
    os.environ.update(command["environment"])
    holder = f"faults:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    leadership.acquire.__kwdefaults__["holder"] = holder
    _mark_recovery()
    if point := os.environ.get("TRADING_FAIL_POINT"):
        name, _, passes = point.partition(":")
        _die_at(name, int(passes))
    if point := os.environ.get("TRADING_FREEZE_POINT"):
        name, _, passes = point.partition(":")
        _freeze_at(name, int(passes))
    if received := os.environ.get("TRADING_RECEIVED_LOG"):
        _log_received(received)
    status = 1
    try:
        service.main(SERVICES[command["start"]].create)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def _waited(pid: int, seconds: float) -> int | None:
    """How that process ended (minus the signal's number), or None when it has not within that time."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)


def main() -> None:
    importlib.import_module("uvloop")
    importlib.import_module("httptools")
    ccxt_client._loaded.append(ccxt_client._client_class(*ccxt_client._load()))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            pid = os.fork()
            if pid == 0:
                _live(command)
            answer: dict[str, Any] = {"pid": pid}
        else:
            answer = {"status": _waited(command["wait"], command["seconds"])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
