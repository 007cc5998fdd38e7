"""What an emergency stop reaches the platform with: the database for the halt, this host's engine for its books, the venue itself.

None of it is needed for the rest. Redis and the gateway are not asked for anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
from psycopg.types.json import Jsonb

from trading_platform import instruments, money, telemetry
from trading_platform.config import AccountSettings, Settings
from trading_platform.db import Database
from trading_platform.domain.trading_state import State
from trading_platform.emergency.procedure import Report, VenueAccount
from trading_platform.instruments import Catalogue, Instrument
from trading_platform.trading_states import TradingStates, Waiting, Wishes, recv_windows

log = logging.getLogger(__name__)

VenueFactory = Callable[[Settings, AccountSettings, Catalogue], VenueAccount]

_CATALOGUE_WITHIN_S: Final = 2.0
_NUMBERS: Final = ("tick_size", "lot_size", "min_quantity", "max_quantity", "min_notional", "multiplier")

# Facts, not a projection: what is held is what the fills add up to, whoever has booked them.
_HELD: Final = (
    "SELECT f.account_id, i.symbol, f.position_side, sum(CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END) AS held"
    " FROM fills f JOIN instruments i ON i.id = f.instrument_id WHERE f.account_id = ANY(%s)"
    " GROUP BY 1, 2, 3 HAVING sum(CASE f.side WHEN 'buy' THEN f.quantity ELSE -f.quantity END) <> 0 ORDER BY 1, 2, 3"
)


class Unreachable(Exception):
    """It cannot be reached from here; the text says why."""


def venue_at(settings: Settings, account: AccountSettings, catalogue: Catalogue) -> VenueAccount:
    """The account's venue, with its keys. Raises ConfigError where this process has none."""
    from trading_platform.engine.venues import binance  # ccxt: seconds and megabytes that a normal day does not need

    return binance.of_account(settings, account, catalogue)


class PlatformMeans:
    """For one stop. `scope` is an account or "*"; `authorization` is what this host's engine is shown, where there is any."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        scope: str,
        reason: str,
        actor: str,
        flatten: bool,
        state: State = "emergency_stopped",
        authorization: str | None,
        venue_factory: VenueFactory = venue_at,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.windows = recv_windows(settings, scope)
        self._settings = settings
        self._db = database
        self._states = TradingStates(database)
        self._scope = scope
        self._reason = reason
        self._actor = actor
        self._flatten = flatten
        self._state = state
        self._venue_factory = venue_factory
        headers = {"Authorization": authorization} if authorization else {}
        self._http = httpx.AsyncClient(
            headers=headers, timeout=httpx.Timeout(5.0, connect=1.0), transport=transport, trust_env=False, follow_redirects=False
        )
        self._catalogue: Catalogue | None = None
        self._loading = asyncio.Lock()

    async def close(self) -> None:
        await self._http.aclose()

    # --- database -----------------------------------------------------------------------------------------------------

    async def halt(self) -> int:
        change = await self._states.tighten(self._scope, self._state, self._reason, self._actor, Wishes(flatten=self._flatten))
        return change.version

    async def waiting(self, version: int) -> list[Waiting]:
        return await self._states.waiting(version, self.windows)

    async def positions(self, account_id: str) -> list[str]:
        return [text for _, text in await held(self._db, [account_id])]

    async def record(self, what: str, report: Report) -> None:
        """The audit event of the whole."""
        await self._db.execute(
            "INSERT INTO audit_events (type, actor, subject, detail, request_id) VALUES (%s, %s, %s, %s, %s)",
            (what, self._actor, self._scope, Jsonb({"reason": self._reason, **report.document()}), telemetry.request_id.get()),
        )

    # --- engine -------------------------------------------------------------------------------------------------------

    async def cancel_by_engine(self, account_id: str) -> None:
        if "Authorization" not in self._http.headers:
            raise Unreachable("no credential to ask it with")
        response = await self._http.post(self._settings.url("engine") + "/orders/cancel-all", json={"account": account_id})
        if not response.is_success:
            raise Unreachable(f"it answered {response.status_code} {_code(response)}".rstrip())

    # --- venue --------------------------------------------------------------------------------------------------------

    async def venue(self, account_id: str) -> VenueAccount:
        account = self._settings.account(account_id)
        if account is None:
            raise Unreachable(f"account {account_id} is not in this host's configuration")
        return self._venue_factory(self._settings, account, await self.catalogue())

    def symbols(self) -> Sequence[str]:
        return [instrument.symbol for instrument in self._catalogue or ()]

    async def catalogue(self) -> Catalogue:
        """The instruments: from the database, else from market data's memory, else as this host last saw them. Raises Unreachable."""
        async with self._loading:
            if self._catalogue is None:
                self._catalogue = await self._load_catalogue()
            return self._catalogue

    async def _load_catalogue(self) -> Catalogue:
        try:
            catalogue = await asyncio.wait_for(instruments.load(self._db), _CATALOGUE_WITHIN_S)
        except Exception as error:
            log.warning("instruments not read from the database", extra={"error": repr(error)[:300]})
        else:
            with suppress(OSError):
                _keep(catalogue, self._kept)
            return catalogue
        try:
            response = await self._http.get(self._settings.url("market-data") + "/instruments", timeout=_CATALOGUE_WITHIN_S)
            return Catalogue([_instrument(row) for row in response.raise_for_status().json()])
        except Exception as error:
            log.warning("instruments not told by market data", extra={"error": repr(error)[:300]})
        try:
            return Catalogue([_instrument(row) for row in json.loads(self._kept.read_text(encoding="utf-8"))])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unreachable(
                f"the instruments are not known: neither database nor market data answers, and {self._kept} cannot be read ({error})"
            ) from None

    @property
    def _kept(self) -> Path:
        return Path(self._settings.data_directory) / "instruments.json"


async def held(db: Database, accounts: Sequence[str]) -> list[tuple[str, str]]:
    """What these accounts hold by their fills: account and a line of text for each position that is not flat."""
    rows = await db.fetch_tuples(_HELD, (list(accounts),))
    return [
        (account, f"{symbol} {money.text(quantity)}{'' if side == 'net' else f' ({side})'}") for account, symbol, side, quantity in rows
    ]


def _instrument(row: dict[str, Any]) -> Instrument:
    known: dict[str, Any] = {field.name: row[field.name] for field in fields(Instrument)}
    return Instrument(**known | {name: Decimal(known[name]) for name in _NUMBERS})


def _keep(catalogue: Catalogue, path: Path) -> None:
    """For the day the database is away; whole or not at all."""
    rows = [{name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(one).items()} for one in catalogue]
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(rows), encoding="utf-8")
    fresh.replace(path)


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return ""
