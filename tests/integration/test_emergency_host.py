"""The host's own emergency stop against a real database, or none: latch, halt, cancel, verdict, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from conftest import free_port
from trading_platform.config import Settings
from trading_platform.emergency import __main__ as program
from trading_platform.emergency import latch

Superuser = psycopg.Connection[Any]


@dataclass(frozen=True)
class Order:
    symbol: str
    client_order_id: str


@dataclass
class Venue:
    orders: list[Order] = field(default_factory=list)
    armed: list[str] = field(default_factory=list)
    seen_latch: bool | None = None
    latch: Path = Path("/nonexistent")
    has_dead_man = True

    async def open(self) -> None:
        self.seen_latch = self.latch.exists()

    async def close(self) -> None:
        pass

    async def open_orders(self) -> Sequence[Order]:
        return list(self.orders)

    async def cancel_all(self, symbols: Sequence[str]) -> None:
        self.orders = [order for order in self.orders if order.symbol not in symbols]

    async def arm_dead_man(self, symbols: Sequence[str], timeout_s: float) -> None:
        self.armed = list(symbols)


@dataclass
class Host:
    """A host's configuration, its latch file, its venue, and the program run on it."""

    settings: Settings
    directory: Path
    venue: Venue
    capsys: pytest.CaptureFixture[str]

    @property
    def latch(self) -> Path:
        return self.directory / "halt"

    def write(self, **changes: Any) -> None:
        document = self.settings.model_dump(mode="json") | {
            "data_directory": str(self.directory),
            "engine": {"halt_latch": str(self.latch)},
            "venues": {"paper": {"paper": True, "recv_window_s": 0.1}},
        }
        (self.directory / "platform.yaml").write_text(yaml.safe_dump(document | changes))

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit status and the JSON document."""
        status = program.main([*arguments, "--json", "--yes"], venue_factory=lambda *_: self.venue)
        return status, json.loads(self.capsys.readouterr().out)

    def say(self, *arguments: str) -> tuple[int, str]:
        """Exit status and everything said."""
        status = program.main(list(arguments), venue_factory=lambda *_: self.venue)
        said = self.capsys.readouterr()
        return status, said.out + said.err


@pytest.fixture
def host(settings: Settings, tmp_path: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch, superuser: Superuser, capsys: Any) -> Host:
    superuser.execute("INSERT INTO accounts (id, venue, currency) VALUES ('paper', 'paper', 'USD')")
    made = Host(settings, tmp_path, Venue([Order("BTCUSDT", "a")], latch=tmp_path / "halt"), capsys)
    made.write()
    monkeypatch.setenv("TRADING_CONFIG", str(tmp_path / "platform.yaml"))
    monkeypatch.setenv("TRADING_OPERATOR", "alice")
    return made


@pytest.fixture
def without_database(host: Host) -> Callable[[], None]:
    """From now on nothing answers where the database was."""

    def cut() -> None:
        database = host.settings.database.model_dump(mode="json") | {"port": free_port()}
        host.write(database=database)

    return cut


def state(superuser: Superuser) -> tuple[Any, ...]:
    row = superuser.execute("SELECT state, changed_by, flatten FROM trading_state WHERE account_id = '*'").fetchone()
    assert row is not None
    return row


def release(superuser: Superuser) -> None:
    superuser.execute(
        "UPDATE trading_state SET state = 'stopped', changed_by = 'user:root', released_by = 'user:root', released_role = 'admin'"
    )
    superuser.execute(
        "INSERT INTO audit_events (type, actor, subject, detail)"
        " VALUES ('trading_state_change', 'user:root', '*', '{\"released_in_role\": \"admin\"}')"
    )


def test_it_lays_the_latch_first_then_halts_cancels_and_says_so(host: Host, superuser: Superuser) -> None:
    """INC-07, API-15."""
    status, document = host.run("--reason", "a runaway strategy")
    assert (status, document["complete"], document["left"], document["unseen"]) == (0, True, [], [])
    assert host.venue.seen_latch
    assert (host.venue.orders, "BTCUSDT" in host.venue.armed) == ([], True)
    assert state(superuser) == ("emergency_stopped", "host:test:alice", False)
    [laid] = latch.read(host.latch) or []
    assert (laid.by, laid.reason) == ("host:test:alice", "a runaway strategy")
    audit = superuser.execute("SELECT actor, detail->>'complete' FROM audit_events WHERE type = 'emergency_stop'").fetchall()
    assert audit == [("host:test:alice", "true")]


def test_doing_it_again_is_safe_and_keeps_the_first_latch(host: Host) -> None:
    host.run("--reason", "the first time")
    status, document = host.run("--reason", "the second time")
    assert (status, document["accounts"]["paper"]["cancelled"]) == (0, 0)
    assert [laid.reason for laid in latch.read(host.latch) or []] == ["the first time", "the second time"]


def test_without_a_database_it_cancels_at_the_venue_and_says_what_it_could_not_do(
    host: Host, without_database: Callable[[], None], superuser: Superuser
) -> None:
    host.run("--reason", "so that the instruments are known")
    host.venue.orders = [Order("ETHUSDT", "b")]
    without_database()
    status, document = host.run("--reason", "everything is on fire", "--deadline", "3")
    assert (status, host.venue.orders, document["left"]) == (3, [], [])
    assert "the halt is not in the database" in document["unseen"][0]
    assert "no audit event could be written" in document["trouble"]
    assert document["latch"] == str(host.latch)


def test_without_database_and_instruments_the_latch_is_laid_all_the_same(host: Host, without_database: Callable[[], None]) -> None:
    without_database()
    status, document = host.run("--reason", "everything is on fire", "--deadline", "3")
    assert (status, host.latch.exists()) == (3, True)
    assert any("the instruments are not known" in line for line in document["unseen"])


def test_without_a_configuration_the_latch_is_all_that_is_left(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.directory / "platform.yaml").write_text("nonsense")
    monkeypatch.setattr(program, "EngineSettings", lambda: host.settings.engine.model_copy(update={"halt_latch": str(host.latch)}))
    status, said = host.say("--reason", "a test", "--yes")
    assert (status, host.latch.exists()) == (3, True)
    assert "systemctl stop trading-engine" in said


def test_without_the_databases_password_the_latch_is_all_that_is_left(host: Host) -> None:
    host.write(database=host.settings.database.model_dump(mode="json") | {"tls_ca": "/etc/trading-tls/ca.pem"})
    status, said = host.say("--reason", "a test", "--yes")
    assert (status, host.latch.exists()) == (3, True)
    assert "postgresql-app-password" in said


def test_closing_what_one_account_holds_leaves_a_latch_of_before_alone(host: Host) -> None:
    host.run("--reason", "the whole host")
    host.run("--reason", "one account", "--account", "paper", "--flatten")
    assert [laid.reason for laid in latch.read(host.latch) or []] == ["the whole host"]


def test_of_one_account_only_that_is_stopped_and_no_latch_is_laid(host: Host, superuser: Superuser) -> None:
    status, _ = host.run("--reason", "a test", "--account", "paper")
    assert (status, host.latch.exists(), state(superuser)[0]) == (0, False, "running")
    assert superuser.execute("SELECT state FROM trading_state WHERE account_id = 'paper'").fetchone() == ("emergency_stopped",)


def test_of_one_account_without_a_database_the_whole_host_is_latched(host: Host, without_database: Callable[[], None]) -> None:
    without_database()
    status, document = host.run("--reason", "a test", "--account", "paper", "--deadline", "3")
    assert (status, host.latch.exists()) == (3, True)
    assert "now stops every account of this host" in document["trouble"]


def test_to_close_what_is_held_the_latch_gives_way_once_the_halt_holds(host: Host, superuser: Superuser) -> None:
    """Behind the latch no engine of this host could send the closing orders; the database lets nothing else pass."""
    status, document = host.run("--reason", "a test", "--flatten")
    assert (status, document["flatten"], host.latch.exists()) == (0, True, False)
    assert state(superuser) == ("emergency_stopped", "host:test:alice", True)


def test_an_unknown_account_and_a_missing_reason_are_wrong_use(host: Host, superuser: Superuser) -> None:
    for arguments in (["--reason", "a test", "--account", "nobody", "--yes"], ["--reason", "", "--yes"], ["--yes"]):
        with pytest.raises(SystemExit) as ended:
            host.say(*arguments)
        assert ended.value.code == 2
    assert (state(superuser)[0], host.latch.exists()) == ("running", False)


def test_the_latch_is_cleared_only_after_the_release(host: Host, superuser: Superuser) -> None:
    host.run("--reason", "a test")
    status, said = host.say("--clear-latch")
    assert (status, host.latch.exists()) == (1, True)
    assert "was not released by an admin yet" in said
    release(superuser)
    assert host.say("--clear-latch")[0] == 0
    assert not host.latch.exists()
    assert host.say("--clear-latch")[0] == 0


def test_a_latch_whose_halt_never_reached_the_database_stays(host: Host, without_database: Callable[[], None]) -> None:
    without_database()
    host.run("--reason", "a test", "--deadline", "3")
    assert host.say("--clear-latch")[0] == 3
    host.write()
    status, said = host.say("--clear-latch")
    assert (status, host.latch.exists()) == (1, True)
    assert "no emergency was released since" in said
