"""One host that is a whole platform: what site.yml promises of it."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Life
from fleet import ROOT, Fleet, until

# Each unit, and a word that the failing part's name must contain. (A lab host's clock is the outer machine's: chrony is not here.)
STOPPABLE = {
    "trading-gateway": "gateway",
    "trading-market-data": "market-data",
    "trading-engine": "engine",
    "trading-paper-venue": "paper-venue",
    "trading-strategy": "strategy",
    "trading-risk": "risk",
    "trading-portfolio": "portfolio",
    "trading-health": "health",
    "patroni": "postgresql",
    "pgbouncer": "pgbouncer",
    "etcd": "etcd",
    "haproxy": "haproxy",
    "mongod": "mongodb",
    "redis-server": "redis",
    "nginx": "nginx",
}


@pytest.fixture(scope="module")
def host(single: Life) -> Fleet:
    assert single.converge is not None
    assert single.converge.code == 0, single.converge.tail()
    return single.fleet


@pytest.fixture(scope="module")
def secrets(host: Fleet) -> dict[str, str]:
    """Every password of the vault in the clear, long ones whole, multi-line ones by their longest line."""
    text = subprocess.run(
        [ROOT / ".venv/bin/ansible-vault", "view", host.inventory / "group_vars/all/vault.yml"],
        capture_output=True,
        text=True,
        env=host.environment,
        check=True,
    ).stdout
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"^(vault_\w+):\s*(.*)$", line):
            name, value = match.groups()
            value = value.strip("'\"")
            if len(value) >= 12:
                found[name] = value
        elif name and "-----" not in line and len(line.strip()) >= 12:
            found[name] = max(found.get(name, ""), line.strip(), key=len)
    public = {"vault_tls_ca_certificate", "vault_jwt_public_key"}
    return {name: value for name, value in found.items() if name not in public}


@pytest.fixture
def token(host: Fleet) -> str:
    access = (host.inventory / "access.txt").read_text()
    password = re.search(r"^password:\s*(\S+)", access, re.M)
    assert password, access.replace("\n", " | ")
    answer = call(host, "POST", "/api/auth/login", body={"username": "admin", "password": password[1]})
    return str(answer["access_token"])


def call(fleet: Fleet, method: str, path: str, token: str = "", body: object = None) -> dict[str, object]:
    """An HTTPS request through the edge, verified against the ACME server's root."""
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        "--request",
        method,
        "--cacert",
        str(fleet.state / "acme-root.pem"),
        "--resolve",
        f"trading.lab.test:443:{address(fleet)}",
        "--write-out",
        "\n%{http_code}",
        f"https://trading.lab.test{path}",
    ]
    if token:
        command += ["--header", f"Authorization: Bearer {token}"]
    if body is not None:
        command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text, _, status = done.stdout.rpartition("\n")
    answer = json.loads(text)
    return answer if isinstance(answer, dict) and status == "200" else {"status": int(status), "body": answer}


def address(fleet: Fleet, host: str = "lab1") -> str:
    found = re.search(rf"{host}:\n\s+ansible_host: (\S+)", (fleet.inventory / "hosts.yml").read_text())
    assert found
    return found[1]


def test_check_mode_on_a_virgin_host_runs_to_the_end_and_leaves_nothing(single: Life) -> None:
    assert single.virgin_check is not None
    assert single.virgin_check.code == 0, single.virgin_check.tail()
    assert single.virgin_leftovers == ""


def test_a_run_killed_at_several_points_is_finished_by_the_next(single: Life) -> None:
    assert single.converge is not None
    assert single.converge.code == 0, single.converge.tail()


def test_the_second_run_changes_nothing(single: Life, host: Fleet) -> None:
    assert single.again is not None
    assert single.again.code == 0, single.again.tail()
    assert single.again.changed["lab1"] == 0, single.again.changed_tasks()


def test_check_mode_on_a_converged_host_announces_no_change(single: Life, host: Fleet) -> None:
    assert single.check is not None
    assert single.check.code == 0, single.check.tail()
    assert single.check.changed["lab1"] == 0, single.check.changed_tasks()


def test_a_converged_host_is_healthy(host: Fleet) -> None:
    host.healthy("lab1")


@pytest.fixture
def stopped(host: Fleet, request: pytest.FixtureRequest) -> Iterator[str]:
    host.healthy("lab1")
    host.on("lab1", f"systemctl stop {request.param}")
    yield request.param
    host.on("lab1", f"systemctl start {request.param}")
    host.healthy("lab1")


@pytest.mark.parametrize("stopped", STOPPABLE, indirect=True)
def test_health_check_names_a_stopped_unit_and_turns_green_when_it_is_back(host: Fleet, stopped: str) -> None:
    def named() -> str | None:
        code, parts = host.health("lab1")
        failing = {part: state for part, state in parts.items() if state != "ok"}
        if code != 0 and any(STOPPABLE[stopped] in part for part in failing):
            return f"exit {code}: {failing}"
        raise ValueError(f"exit {code}: {failing}")

    until(f"{stopped} named", 40, named, every=2)


def test_a_rebooted_host_comes_back_by_itself(host: Fleet) -> None:
    before = host.on("lab1", "cat /proc/sys/kernel/random/boot_id; systemctl show -p ActiveEnterTimestamp trading-platform.target").stdout
    host.lab("reboot", "lab1")
    host.healthy("lab1", seconds=240)
    assert (
        host.on("lab1", "cat /proc/sys/kernel/random/boot_id; systemctl show -p ActiveEnterTimestamp trading-platform.target").stdout
        != before
    )


def test_trades_are_made_from_the_synthetic_market(host: Fleet, token: str) -> None:
    host.healthy("lab1")

    def trades() -> object:
        answer = call(host, "GET", "/api/trades/recent", token)
        return answer["body"] if answer.get("status") == 200 else None

    recent = until("a trade", 240, trades, every=3)
    assert isinstance(recent, list)
    assert {"symbol", "side", "quantity", "price"} <= set(recent[0])


def candles(path: Path, spoilt_row: int | None = None) -> Path:
    """A day of one-minute candles that swing far enough to be traded; `spoilt_row` (from 1) has no number for its close."""
    lines = ["ts_open_ns,symbol,open,high,low,close,volume"]
    before = 40_000
    for row in range(1, 1441):
        after = 40_000 + round(1_500 * math.sin(row / 45))
        close = "NaN" if row == spoilt_row else str(after)
        opened = (1_700_000_040 + 60 * row) * 10**9
        lines.append(f"{opened},BTCUSD-PERP,{before},{max(before, after) + 5},{min(before, after) - 5},{close},12")
        before = after
    path.write_text("\n".join(lines) + "\n")
    return path


def test_trades_are_made_from_a_replayed_file(host: Fleet, token: str, tmp_path: Path) -> None:
    host.healthy("lab1")
    run = host.play("replay.yml", "-e", f"replay_file={candles(tmp_path / 'swing.csv')}", "-e", "replay_speed=1200")
    assert run.code == 0, run.tail()

    def replayed() -> bool:
        answer = call(host, "GET", "/api/trades/recent?limit=200", token)
        return isinstance(answer["body"], list) and any(trade["symbol"] == "BTCUSD-PERP" for trade in answer["body"])

    until("a trade in the replayed market", 60, replayed, every=2)


def test_a_replay_file_with_a_hole_is_refused_by_row_and_column_and_stays_off_the_host(host: Fleet, tmp_path: Path) -> None:
    run = host.play("replay.yml", "-e", f"replay_file={candles(tmp_path / 'spoilt.csv', spoilt_row=77)}")
    assert run.code != 0
    assert re.search(r'row 77, column .?"close', run.output), run.tail()
    assert "spoilt" not in host.on("lab1", "find / -xdev -name '*spoilt*' -not -path '/proc/*'").stdout


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/market-data/BTCUSDT", {"symbol", "timestamp"}),
        ("/api/risk/summary", {"total_exposure", "daily_pnl", "max_drawdown", "open_positions", "risk_score"}),
        ("/api/performance/daily", {"total_trades", "win_rate", "total_pnl", "sharpe_ratio"}),
    ],
)
def test_figures_have_the_fields_operators_read(host: Fleet, token: str, path: str, fields: set[str]) -> None:
    answer = call(host, "GET", path, token)
    assert fields <= set(answer), answer
    assert None not in answer.values()


@pytest.mark.parametrize(
    "path", ["/api/trades/recent", "/api/positions", "/api/risk/summary", "/api/market-data/BTCUSDT", "/api/performance/daily"]
)
def test_a_request_without_a_token_is_refused(host: Fleet, path: str) -> None:
    assert call(host, "GET", path)["status"] == 401


@pytest.mark.parametrize(
    "port", [2379, 5432, 6379, 6432, 8000, 8001, 8008, 8010, 8011, 8012, 8013, 8020, 8021, 8100, 8443, 8444, 26379, 27017]
)
def test_no_inner_port_answers_from_outside(host: Fleet, port: int) -> None:
    with pytest.raises((ConnectionRefusedError, TimeoutError)), socket.create_connection((address(host), port), timeout=1.5):
        pass


@pytest.mark.parametrize("port", [22, 80, 443])
def test_the_outer_ports_answer(host: Fleet, port: int) -> None:
    with socket.create_connection((address(host), port), timeout=5):
        pass


def served_serial(fleet: Fleet) -> str:
    command = (
        f"openssl s_client -connect {address(fleet)}:443 -servername trading.lab.test </dev/null 2>/dev/null | openssl x509 -noout -serial"
    )
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.strip()


def test_a_renewed_certificate_is_tested_and_served_by_the_deploy_hook(host: Fleet) -> None:
    before = served_serial(host)
    assert before.startswith("serial=")
    host.on("lab1", "certbot renew --quiet --force-renewal --no-random-sleep-on-renew", timeout=120)
    until("another certificate", 20, lambda: served_serial(host) not in ("", before))
    host.healthy("lab1")


def test_no_secret_is_in_the_output_of_any_run(single: Life, host: Fleet, secrets: dict[str, str]) -> None:
    runs = [single.virgin_check, single.converge, single.again, single.check]
    text = "\n".join([run.output for run in runs if run] + list(single.interrupted.values()))
    assert len(secrets) >= 15
    assert [name for name, value in secrets.items() if value in text] == []


def test_no_secret_is_in_a_process_list_an_environment_a_journal_or_a_world_readable_file(host: Fleet, secrets: dict[str, str]) -> None:
    places = {
        "command lines": "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
        "environments": "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '",
        "journal": "journalctl --no-pager --quiet --output=cat",
        "world-readable files": "find / -xdev -type f -perm -o=r -size -2M -not -path '/proc/*' -not -path '/sys/*' "
        "-not -path '/usr/share/*' -not -path '/usr/lib/*' -not -path '/var/lib/dpkg/*' -not -path '*/site-packages/*' -print0 | "
        'while IFS= read -r -d \'\' file; do d=$file; reach=yes; while [ "$d" != / ]; do d=$(dirname "$d"); '
        'case $(stat -c %A "$d") in *[xt]) ;; *) reach=no; break;; esac; done; [ $reach = yes ] && cat "$file"; done',
    }
    found = []
    for place, command in places.items():
        done = subprocess.run(
            [ROOT / "bin/lab", "exec", "--name", host.name, "lab1", "--", "bash", "-c", command],
            capture_output=True,
            timeout=300,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        assert text, f"{place}: nothing read: {done.stderr.decode(errors='replace')[-300:]}"
        found += [f"{name} in {place}" for name, value in secrets.items() if value in text]
    assert found == []
