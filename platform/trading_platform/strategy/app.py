"""Wiring and routes of the strategy."""

from fastapi.responses import Response

from trading_platform.answers import answer
from trading_platform.config import Settings
from trading_platform.documents import Documents
from trading_platform.service import Service
from trading_platform.strategy.service import StrategyRunner
from trading_platform.strategy.store import DecisionJournal


def create(settings: Settings) -> Service:
    """The strategy service. MongoDB is not critical: without it decisions wait for the journal and trading goes on."""
    service = Service("strategy", settings)
    documents = Documents(settings)
    service.on_stop(documents.close)
    service.dependency("mongodb", documents.ping, critical=False)
    journal = DecisionJournal(documents)
    runner = StrategyRunner(service.db, service.bus, settings, journal)
    chosen = settings.strategy
    service.loop("strategy", runner.run, lease=f"strategy:{chosen.name}:{chosen.account}")
    service.loop("journal", journal.run)

    @service.app.get("/strategies", tags=["strategy"])
    async def strategies() -> Response:
        return answer([{"name": chosen.name, "version": chosen.version, "account": chosen.account, "watches": runner.state()}])

    return service
