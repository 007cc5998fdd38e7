"""Configuration: one YAML file, checked completely before anything starts, and secrets from systemd credentials.

The file is named by TRADING_CONFIG (default /etc/trading-platform/platform.yaml); platform.example.yaml documents each key.
Secrets never stand in it: they are files in $CREDENTIALS_DIRECTORY, read with `secret(name)`.

    settings = load()                       # raises ConfigError: key, value found, what to do
    settings.service("engine").port         # 8010
    secret("jwt-public-key")                # text, without the trailing newline
"""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trading_platform.strategies import parameters
from trading_platform.strategies.parameters import Kind, Parameters

DEFAULT_PATH = "/etc/trading-platform/platform.yaml"

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Amount = Annotated[Decimal, Field(gt=0)]
Share = Annotated[Decimal, Field(gt=0, le=1)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3,8}$")]


class ConfigError(Exception):
    """The configuration cannot be used; the text names each key, what was found and what to do."""


class Section(BaseModel):
    """A part of the file: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LiveTrading(Section):
    enabled: bool = False
    confirmed: str = ""


class DatabaseSettings(Section):
    host: str
    hostaddr: str | None = None
    port: Port = 5000
    session_port: Port = 5002
    replica_port: Port = 5001
    name: str = "trading_platform"
    user: str = "trading_app"
    migrator: str = "trading_migrator"
    owner: str = "trading_user"
    tls_ca: str | None = None
    pool_size: Annotated[int, Field(ge=1, le=100)] = 5


class MongoSettings(Section):
    hosts: Annotated[list[str], Field(min_length=1)]
    replica_set: str | None = "trading_rs"
    database: str = "trading_platform"
    auth_source: str = "admin"
    user: str | None = "trading_user"
    tls_ca: str | None = None


class RedisSettings(Section):
    hosts: Annotated[list[str], Field(min_length=1)]
    sentinels: list[str] = []
    master_name: str = "trading_redis"
    user: str | None = "trading_app"
    tls_ca: str | None = None


class Endpoint(Section):
    host: str = "127.0.0.1"
    port: Port


class LakeSettings(Section):
    """The tick lake of each platform host, below `directory` (default: `lake` in the data directory).

    Ticks reach the disk every `roll_s` seconds or `roll_rows` rows, and stay `retention_days` (null: for ever). Nothing is written
    while less than `min_free_mib` would be left to others.
    """

    enabled: bool = True
    directory: str | None = None
    roll_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    roll_rows: Annotated[int, Field(ge=1_000, le=10_000_000)] = 1_000_000
    retention_days: Annotated[int, Field(ge=1)] | None = 90
    min_free_mib: Annotated[int, Field(ge=0)] = 256


class MarketDataSettings(Section):
    """The live feed, the candles built from it, the tick lake, and where files to replay are looked for.

    Candle partitions (months) exist `candle_partitions_ahead` months ahead; months older than `candle_retention_days` are dropped.

    A symbol has one feed: what the live feed produces cannot be replayed at the same time.
    """

    feed: Literal["synthetic", "none"] = "synthetic"
    instruments: list[str] = ["BTCUSDT", "ETHUSDT"]
    seed: Annotated[int, Field(ge=0)] = 1
    prices: dict[str, Amount] = {}
    quotes_per_second: Annotated[float, Field(gt=0, le=1_000_000)] = 4.0
    trades_per_second: Annotated[float, Field(gt=0, le=1_000_000)] = 2.0
    intervals_s: Annotated[list[Annotated[int, Field(ge=1, le=86_400)]], Field(min_length=1)] = [60, 300, 900, 3600]
    history_s: Annotated[int, Field(ge=0, le=7 * 86_400)] = 7_200
    stale_after_s: Seconds = 60.0
    replay_directory: str | None = None
    lake: LakeSettings = LakeSettings()
    candle_partitions_ahead: Annotated[int, Field(ge=1, le=24)] = 3
    candle_retention_days: Annotated[int, Field(ge=31)] | None = None


class GatewaySettings(Section):
    """The public side: how long tokens live and what a caller may ask of us."""

    access_token_s: Annotated[int, Field(ge=60, le=86_400)] = 3_600
    admin_token_s: Annotated[int, Field(ge=60, le=3_600)] = 900
    max_body_bytes: Annotated[int, Field(ge=1_024, le=16 << 20)] = 256 << 10
    upstream_timeout_s: Seconds = 5.0
    websocket_clients: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class HealthSettings(Section):
    """How the health service watches: a part is down after `failures` checks in a row have failed."""

    interval_s: Seconds = 10.0
    failures: Annotated[int, Field(ge=1, le=100)] = 3


class StrategySettings(Section):
    """Which strategy trades what. `kind` is its class, `name` what its orders, its lease and the journal call it (default: after the kind).

    `parameters` are the class's own (docs/strategies.md), checked here and complete afterwards. Those that stood in the section itself
    before there was a choice of strategies are taken there, too.
    """

    kind: Kind = "donchian"
    name: Annotated[str, Field(min_length=1, max_length=64)] = "donchian-trend"
    version: str = "1"
    account: str = "paper"
    instruments: list[str] = ["BTCUSDT", "BTCUSD-PERP"]
    interval_s: Annotated[int, Field(ge=1)] = 60
    intervals_s: dict[str, Annotated[int, Field(ge=1)]] = {}
    parameters: dict[str, Any] = {}
    order_notional: Amount = Decimal(1000)

    @property
    def checked(self) -> Parameters:
        """The strategy's parameters as its class wants them."""
        return parameters.check(self.kind, self.parameters)

    def interval_of(self, symbol: str) -> int:
        """Seconds of the candles that instrument is traded on."""
        return self.intervals_s.get(symbol, self.interval_s)

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, document: Any) -> Any:
        if not isinstance(document, dict) or not isinstance(document.get("parameters", {}), dict):
            return document
        gathered = dict(document.get("parameters", {}))
        for name in _PARAMETERS_OF_THE_SECTION & document.keys():
            if name in gathered:
                raise ValueError(f"strategy.{name}: stated here and in strategy.parameters; keep the one in parameters")
            gathered[name] = document[name]
        rest = {key: value for key, value in document.items() if key not in _PARAMETERS_OF_THE_SECTION}
        named = {} if document.get("kind", "donchian") == "donchian" else {"name": str(document["kind"]).replace("_", "-")}
        return named | rest | {"parameters": gathered}

    @model_validator(mode="after")
    def _complete(self) -> StrategySettings:
        try:
            complete = self.checked.model_dump()
        except parameters.InvalidParameters as error:
            raise ValueError(f"strategy.parameters: {error}") from None
        self.parameters.update(complete)
        return self


_PARAMETERS_OF_THE_SECTION = {"channel", "exit_channel", "trend", "allow_short"}


class LimitSettings(Section):
    """The first version of a set of limits; from then on the rows of risk_limits count. Money in the account's currency, shares of
    equity as fractions; what is not stated (None) is not limited."""

    max_order_notional: Amount = Decimal(5_000)
    max_position_notional: Amount = Decimal(20_000)
    max_total_exposure: Amount = Decimal(50_000)
    max_orders_per_minute: Annotated[int, Field(ge=1)] = 60
    max_orders_per_second: Annotated[int, Field(ge=1)] | None = None
    price_collar: Annotated[Decimal, Field(gt=0, lt=1)] = Decimal("0.05")
    max_daily_loss: Amount = Decimal(1_000)
    max_data_age_s: Seconds = 30.0
    max_daily_loss_share: Share | None = Decimal("0.05")
    max_weekly_loss: Amount | None = None
    max_weekly_loss_share: Share | None = Decimal("0.10")
    max_monthly_loss: Amount | None = None
    max_monthly_loss_share: Share | None = Decimal("0.15")
    max_drawdown: Share | None = Decimal("0.20")
    max_leverage: Amount | None = Decimal(3)
    max_concentration: Share | None = None
    max_consecutive_losses: Annotated[int, Field(ge=1)] | None = None
    max_reject_share: Share | None = Decimal("0.5")
    max_var: Share | None = Decimal("0.05")


class RiskSettings(LimitSettings):
    """Limits of each account; `portfolio` are those of all accounts together, in `portfolio_currency`."""

    portfolio_currency: Currency = "USD"
    portfolio: LimitSettings | None = None
    figures_every_s: Seconds = 1.0
    figures_max_age_s: Seconds = 15.0
    warn_at: Annotated[Decimal, Field(gt=0, lt=1)] = Decimal("0.8")
    emergency_close: bool = False


class EngineSettings(Section):
    signal_max_age_s: Seconds = 60.0
    commit_batch: Annotated[int, Field(ge=1, le=5_000)] = 500
    reconcile_every_s: Seconds = 15.0
    halt_latch: str = "/var/lib/trading-platform/halt"


class VenueSettings(Section):
    """Where a venue is reached and how it wants to be treated. Without URLs, kind binance is Binance itself: live trading."""

    kind: Literal["binance"] = "binance"
    rest_url: str | None = None
    websocket_url: str | None = None
    paper: bool = False
    recv_window_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    timeout_s: Seconds = 5.0
    queue_s: Seconds = 5.0
    request_weight_per_minute: Annotated[int, Field(ge=1)] = 6_000
    orders_per_10_s: Annotated[int, Field(ge=1)] = 100


class PaperVenueSettings(Section):
    """The paper venue: its market is ours, its money is not. The backtest takes fees, slippage, depth and latency from here, too.

    Open orders are limited by account and symbol: as the account's entry says, else the symbol's, else `max_open_orders`. What is
    closed for longer than `retention_days` is forgotten. `faults` lets it be told to misbehave: never in production.
    """

    maker_fee_bps: Annotated[Decimal, Field(ge=0)] = Decimal(1)
    taker_fee_bps: Annotated[Decimal, Field(ge=0)] = Decimal(5)
    fee_asset: Literal["quote", "received"] = "quote"
    slippage_bps: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    slippage_impact: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    depth: Annotated[Decimal, Field(ge=1)] = Decimal(10)
    latency_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    latency_jitter_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    max_data_age_s: Seconds = 30.0
    request_weight_per_minute: Annotated[int, Field(ge=1)] = 6_000
    orders_per_10_s: Annotated[int, Field(ge=1)] = 100
    max_open_orders: Annotated[int, Field(ge=1)] = 200
    max_open_orders_by_symbol: dict[str, Annotated[int, Field(ge=1)]] = {}
    max_open_orders_by_account: dict[str, Annotated[int, Field(ge=1)]] = {}
    retention_days: Annotated[int, Field(ge=1)] = 90
    faults: bool = False


class AccountSettings(Section):
    """`opening_balances` is what the account has when it is first seen: paid in at a paper venue, expected to be there at a real one."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    venue: str = "paper"
    currency: Currency = "USD"
    position_mode: Literal["netting", "hedging"] = "netting"
    opening_balances: Annotated[dict[Currency, Amount], Field(min_length=1)] = {"USD": Decimal(50_000), "USDT": Decimal(50_000)}


class LeaseSettings(Section):
    ttl_s: Annotated[float, Field(ge=1, le=300)] = 10.0


class Settings(Section):
    """The whole file."""

    environment: Literal["development", "lab", "staging", "production"]
    host: str
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    data_directory: str = "/var/lib/trading-platform"
    live_trading: LiveTrading = LiveTrading()
    database: DatabaseSettings
    mongodb: MongoSettings
    redis: RedisSettings
    services: dict[str, Endpoint]
    leases: LeaseSettings = LeaseSettings()
    market_data: MarketDataSettings = MarketDataSettings()
    gateway: GatewaySettings = GatewaySettings()
    health: HealthSettings = HealthSettings()
    strategy: StrategySettings = StrategySettings()
    risk: RiskSettings = RiskSettings()
    engine: EngineSettings = EngineSettings()
    paper_venue: PaperVenueSettings = PaperVenueSettings()
    venues: dict[str, VenueSettings] = {"paper": VenueSettings(paper=True)}
    accounts: Annotated[list[AccountSettings], Field(min_length=1)] = [AccountSettings(id="paper")]
    conversion_rates: dict[str, Amount] = {"USD:USDT": Decimal(1), "USDT:USD": Decimal(1)}

    def service(self, name: str) -> Endpoint:
        """Where a service listens. Raises ConfigError when the file does not say."""
        try:
            return self.services[name]
        except KeyError:
            known = ", ".join(sorted(self.services)) or "none"
            raise ConfigError(f"services.{name}: missing (found: {known}); add its host and port") from None

    def account(self, account_id: str) -> AccountSettings | None:
        """The account of that id, or None."""
        return next((account for account in self.accounts if account.id == account_id), None)

    def conversion_rate(self, source: str, target: str) -> Decimal | None:
        """What one unit of `source` is worth in `target`; None where the file does not say: that value is unknown, not 1."""
        return Decimal(1) if source == target else self.conversion_rates.get(f"{source}:{target}")

    def url(self, name: str) -> str:
        """Base URL of a service, for calls between services."""
        endpoint = self.service(name)
        return f"http://{endpoint.host}:{endpoint.port}"

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.environment == "production":
            for key in ("database", "mongodb", "redis"):
                if getattr(self, key).tls_ca is None:
                    raise ValueError(f"{key}.tls_ca: missing in production; name the CA file, TLS is not optional there")
        if self.live_trading.enabled and not self.live_trading.confirmed:
            raise ValueError(
                "live_trading.confirmed: empty while live_trading.enabled is true; "
                "set it to the platform's domain to confirm, or set enabled to false"
            )
        ids = [account.id for account in self.accounts]
        if len(set(ids)) != len(ids):
            raise ValueError(f"accounts: {ids} has an id twice; give each account its own")
        for account in self.accounts:
            if account.venue not in self.venues:
                known = ", ".join(sorted(self.venues))
                raise ValueError(f"accounts.{account.id}.venue: '{account.venue}' is not in venues ({known}); add it there")
            if not self.venues[account.venue].paper and not self.live_trading.enabled:
                raise ValueError(
                    f"accounts.{account.id}.venue: '{account.venue}' is a real venue while live_trading.enabled is false; "
                    "name a paper venue, or enable live trading"
                )
        for account_id in self.paper_venue.max_open_orders_by_account:
            if account_id not in ids:
                raise ValueError(f"paper_venue.max_open_orders_by_account: '{account_id}' is not in accounts {ids}; name one of them")
        if self.paper_venue.faults and self.environment == "production":
            raise ValueError("paper_venue.faults: true in production; a venue there is not told to misbehave, remove it")
        if self.strategy.account not in ids:
            raise ValueError(f"strategy.account: '{self.strategy.account}' is not in accounts {ids}; name one of them")
        return self


def load(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read and check the configuration. Raises ConfigError naming every wrong key at once."""
    file = Path(path or os.environ.get("TRADING_CONFIG") or DEFAULT_PATH)
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); set TRADING_CONFIG to the platform's file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: holds {type(document).__name__}, expected a mapping of sections")
    return parse(document, source=str(file))


def parse(document: dict[str, Any], source: str = "configuration") -> Settings:
    """Check a document already read. Raises ConfigError."""
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ConfigError(f"{source}: {len(lines)} mistake(s)\n" + "\n".join(f"  {line}" for line in lines)) from None


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "file"
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key (value {problem['input']!r}); remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; add it (platform.example.yaml shows each key)"
        case "value_error":
            return str(problem["msg"]).removeprefix("Value error, ")
        case _:
            return f"{key}: found {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def secret(name: str) -> str:
    """A systemd credential of this unit. Raises ConfigError when it is not delivered or empty."""
    value = optional_secret(name)
    if value is None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "(CREDENTIALS_DIRECTORY is not set)")
        raise ConfigError(f"credential {name}: not in {directory}; the unit needs LoadCredentialEncrypted={name}")
    return value


def optional_secret(name: str) -> str | None:
    """A systemd credential, or None where it is not delivered."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    try:
        value = (Path(directory) / name).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return value or None
