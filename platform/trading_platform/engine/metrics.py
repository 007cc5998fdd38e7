"""The engine's metrics."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from trading_platform.domain.orders import EventType, Step

DECISIONS = Counter("smc_risk_decisions_total", "Orders judged, held ones and each of their children", ["account", "decision", "code"])
ORDERS = Counter("smc_trading_orders_total", "Orders by what became of them first", ["account", "outcome"])
FILLS = Counter("smc_trading_fills_total", "Executions recorded", ["account", "symbol", "side"])
VOLUME = Counter("smc_trading_volume_quote_total", "Value traded, in the quote currency", ["account", "symbol"])
SIGNALS = Counter("smc_trading_signals_total", "Signals by what became of them", ["outcome"])
LATENCY = Histogram(
    "smc_trading_execution_latency_seconds",
    "From a decision to trade until the venue's answer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SLIPPAGE = Histogram(
    "smc_trading_slippage_ratio",
    "Average fill price against the price the signal saw, positive is worse",
    buckets=(-0.01, -0.001, -0.0001, 0, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05),
)
MISMATCHES = Counter("smc_trading_reconciliation_mismatches_total", "Differences between our books and the venue's", ["account", "kind"])
UNPROTECTED = Counter("smc_trading_positions_unprotected_total", "Stops that were reached and are refused again and again", ["account"])
RECONCILED = Gauge("smc_trading_reconciled_timestamp_seconds", "When the books were last compared with the venue's", ["account"])
IDENTICAL = Gauge("smc_trading_reconciliation_identical", "1 when the newest comparison found no difference", ["account"])
UNKNOWN_ORDERS = Gauge("smc_trading_unknown_orders", "Orders the venue has not answered for", ["account"])
OPEN_ORDERS = Gauge("smc_trading_open_orders", "Orders that still work", ["account"])
REPORTS = Counter("smc_trading_venue_reports_total", "Reports of the venue's stream", ["account"])
COMMIT = Histogram(
    "smc_trading_commit_seconds",
    "One group commit of the journal",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
COMMITTED = Histogram("smc_trading_commit_events", "Events of one group commit", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000))
OUTBOX = Gauge("smc_trading_outbox_entries", "Commits not yet on the bus")

_OUTCOMES = {
    EventType.DENIED: "denied",
    EventType.HELD: "held",
    EventType.ACCEPTED: "accepted",
    EventType.REJECTED: "rejected",
    EventType.SUBMIT_UNKNOWN: "unknown",
}


# Looking a label up costs more than counting; there are few of them.
_orders, _fills, _volume, _decisions = (cache(counter.labels) for counter in (ORDERS, FILLS, VOLUME, DECISIONS))


def observe(step: Step) -> None:
    """Count what happened to an order."""
    outcome = _OUTCOMES.get(step.event.type)
    intent, fill, judged = step.order.intent, step.event.fill, step.event.decision
    if judged is not None:
        _decisions(intent.account_id, "accepted" if judged["accepted"] else "denied", judged["code"]).inc()
    if outcome is not None:
        _orders(intent.account_id, outcome).inc()
    elif fill is not None:
        _fills(intent.account_id, intent.symbol, intent.side).inc()
        _volume(intent.account_id, intent.symbol).inc(float(fill.price * fill.quantity))
