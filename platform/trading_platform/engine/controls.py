"""What others decide about an account, as its engine reads it every 100 ms: the state of trading, limits, published figures.

All of it goes into `risk`, which judges orders in this process. One query a look; limits are read again when their version changed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from trading_platform.config import AccountSettings, Settings
from trading_platform.db import Database
from trading_platform.domain import trading_state
from trading_platform.domain.figures import PublishedFigures
from trading_platform.domain.risk import AccountRisk, Limits
from trading_platform.domain.trading_state import State
from trading_platform.instruments import Catalogue
from trading_platform.messages import Quote

_LOOK = """
SELECT (SELECT json_agg(json_build_array(state, version, safe_mode, flatten)) FROM trading_state WHERE account_id IN ('*', %(account)s)),
       (SELECT max(version) FROM risk_limits WHERE account_id = %(account)s),
       (SELECT max(version) FROM risk_limits WHERE account_id = '*'),
       (SELECT published FROM risk_figures WHERE account_id = %(account)s)
"""

_LIMITS = f"SELECT {', '.join(field.name for field in fields(Limits))} FROM risk_limits WHERE version = %s"


@dataclass(frozen=True, slots=True)
class Control:
    """The stricter of the platform's and the account's row counts. `version` is the newest of both; `flatten`: whoever leads closes
    what is held."""

    state: State
    version: int
    safe_mode: bool
    flatten: bool


class Controls:
    """Of one account; `risk` is the account's judge, kept up to date here."""

    def __init__(self, database: Database, settings: Settings, account: AccountSettings, catalogue: Catalogue) -> None:
        self.risk = AccountRisk(
            account.id,
            account.currency,
            settings.conversion_rate,
            catalogue,
            account.position_mode,
            figures_max_age_s=settings.risk.figures_max_age_s,
            warn_at=settings.risk.warn_at,
        )
        self.reconcile_every_s = settings.engine.reconcile_every_s
        self.account_since = datetime.max.replace(tzinfo=UTC)
        self._db = database
        self._account_id = account.id
        self._catalogue = catalogue
        self._versions: tuple[int | None, int | None] = (None, None)
        self._figures: Any = None

    async def open(self) -> None:
        """What never changes."""
        self.account_since = await self._db.fetch_value("SELECT created_at FROM accounts WHERE id = %s", (self._account_id,))

    async def read(self) -> Control:
        """Look, and let risk know what changed."""
        ((rows, own, platform, published),) = await self._db.fetch_tuples(_LOOK, {"account": self._account_id})
        if (own, platform) != self._versions:
            self.risk.set_limits(await self._limits(own), await self._limits(platform))
            self._versions = (own, platform)
        if published != self._figures:
            self.risk.set_figures(None if published is None else PublishedFigures.from_data(published))
            self._figures = published
        states = rows or []
        return Control(
            state=trading_state.effective(row[0] for row in states),
            version=max((row[1] for row in states), default=0),
            safe_mode=any(row[2] for row in states),
            flatten=any(row[3] for row in states),
        )

    @property
    def limits_version(self) -> int | None:
        """Of the account's limits; None: there are none, nothing new passes."""
        return self._versions[0]

    @property
    def figures_at(self) -> str | None:
        """When the figures orders are judged by were computed; None: there are none, nothing passes that adds risk."""
        return None if self._figures is None else str(self._figures["computed_at"])

    async def _limits(self, version: int | None) -> Limits | None:
        return None if version is None else await self._db.fetch_one(_LIMITS, (version,), as_=Limits)

    def on_quote(self, symbol: str, quote: Quote) -> None:
        """The newest price."""
        if quote.mark is not None:
            self.risk.on_quote(symbol, self._catalogue.symbol(symbol).price(quote.mark), quote.ts_recv_ns)
