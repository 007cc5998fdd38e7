"""Logs and metrics. JSON lines on stdout (journald keeps them), each with the request id it belongs to; Prometheus metrics
with fixed names. A service adds its own metrics here-style: module level, `smc_trading_*` or `smc_risk_*`.

    log = logging.getLogger(__name__)
    log.info("order accepted", extra={"client_order_id": coid})     # extra keys become JSON keys
"""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

HTTP_REQUESTS = Counter("http_requests_total", "HTTP requests answered", ["service", "method", "route", "status"])
HTTP_DURATION = Histogram(
    "http_request_duration_seconds",
    "Time to answer an HTTP request",
    ["service", "method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0),
)
LOOP_RETRIES = Counter("smc_trading_loop_retries_total", "Times a background loop lost a dependency", ["service", "loop"])
LOOP_RUNNING = Gauge("smc_trading_loop_running", "1 while a loop does its work (0: standing by or retrying)", ["service", "loop"])
LEADER = Gauge("smc_trading_leader", "1 while this process holds the lease", ["lease"])
LEASE_TOKEN = Gauge("smc_trading_lease_token", "Fencing token of the lease held", ["lease"])
BUS_LAG = Gauge("smc_trading_bus_lag_entries", "Entries of a stream a consumer group has not read yet", ["stream", "group"])

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName", "color_message"}


def accept_request_id(offered: str | None) -> str:
    """The caller's id when it is harmless to log, else a new one."""
    if offered and _SAFE_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, service, request_id, extra fields, exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update({key: value for key, value in record.__dict__.items() if key not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(service: str, level: str = "info") -> None:
    """Send every logger of the process to stdout as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "psycopg.pool", "pymongo", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
