"""Wiring and routes of the strategy."""

from datetime import UTC, datetime
from typing import Any

from fastapi.responses import Response

from trading_platform.answers import answer
from trading_platform.config import ConfigError, Settings
from trading_platform.documents import Documents
from trading_platform.messages import Candle
from trading_platform.service import Service
from trading_platform.strategies import catalogue as strategies
from trading_platform.strategies.identity import identity
from trading_platform.strategy.service import StrategyRunner
from trading_platform.strategy.store import DecisionJournal


def create(settings: Settings) -> Service:
    """The strategy service. MongoDB is not critical: without it decisions wait for the journal and trading goes on."""
    chosen, known_as = settings.strategy, _identity(settings)
    service = Service("strategy", settings)
    documents = Documents(settings)
    service.on_stop(documents.close)
    service.dependency("mongodb", documents.ping, critical=False)
    journal = DecisionJournal(documents, known_as | {"created_at": datetime.now(UTC), "by": f"strategy@{settings.host}"})
    runner = StrategyRunner(service.db, service.bus, settings, journal, known_as["_id"])
    service.loop("strategy", runner.run, lease=f"strategy:{chosen.name}:{chosen.account}")
    service.loop("journal", journal.run)

    @service.app.get("/strategies", tags=["strategy"])
    async def listed() -> Response:
        known = {key: value for key, value in known_as.items() if key != "_id"}
        return answer([{"id": known_as["_id"], **known, "account": chosen.account, "watches": runner.state()}])

    return service


def _identity(settings: Settings) -> dict[str, Any]:
    """What the strategy is called in documents. One candle is rehearsed: what compiles at its first use must not do so on a live one."""
    chosen = settings.strategy
    try:
        rehearsed = strategies.create(chosen.checked, chosen.kind, "REHEARSAL", 60)
        rehearsed.learn(Candle(symbol="REHEARSAL", interval_s=60, ts_open_ns=0, open=1, high=1, low=1, close=1, volume=0, source=""))
        return identity(chosen.name, chosen.version, chosen.kind, chosen.checked)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"strategy.kind: {chosen.kind} cannot run in this process: {error}; see to that, or choose another kind"
        ) from error
