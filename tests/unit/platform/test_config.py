"""Configuration is accepted whole or refused with every mistake named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from trading_platform import config
from trading_platform.config import ConfigError

EXAMPLE = Path(__file__).parents[3] / "platform" / "platform.example.yaml"


@pytest.fixture
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return loaded


def test_the_documented_example_is_accepted() -> None:
    assert config.load(EXAMPLE).service("engine").port == 8010


def test_every_mistake_is_named_at_once_with_its_key_and_value(document: dict[str, Any]) -> None:
    document["database"]["port"] = 70000
    document["risk"]["max_daily_lost"] = "5"
    del document["redis"]["hosts"]
    with pytest.raises(ConfigError) as refusal:
        config.parse(document, source="platform.yaml")
    text = str(refusal.value)
    assert "platform.yaml: 3 mistake(s)" in text
    assert "database.port: found 70000" in text
    assert "risk.max_daily_lost: unknown key" in text
    assert "redis.hosts: missing" in text


@pytest.mark.parametrize("section", ["database", "mongodb", "redis"])
def test_production_refuses_to_go_without_tls(document: dict[str, Any], section: str) -> None:
    document["environment"] = "production"
    del document[section]["tls_ca"]
    with pytest.raises(ConfigError, match=f"{section}.tls_ca: missing in production"):
        config.parse(document)


def test_live_trading_needs_its_second_switch(document: dict[str, Any]) -> None:
    document["live_trading"] = {"enabled": True, "confirmed": ""}
    with pytest.raises(ConfigError, match=r"live_trading.confirmed"):
        config.parse(document)


def test_a_strategy_on_an_account_that_does_not_exist_is_refused(document: dict[str, Any]) -> None:
    document["strategy"]["account"] = "nobody"
    with pytest.raises(ConfigError, match=r"strategy.account: 'nobody' is not in accounts"):
        config.parse(document)


def test_a_limit_of_an_account_that_is_not_there_is_refused(document: dict[str, Any]) -> None:
    document["paper_venue"]["max_open_orders_by_account"] = {"nobody": 5}
    with pytest.raises(ConfigError, match=r"max_open_orders_by_account: 'nobody' is not in accounts"):
        config.parse(document)


def test_an_unknown_conversion_rate_is_unknown_and_not_one(document: dict[str, Any]) -> None:
    settings = config.parse(document)
    assert settings.conversion_rate("EUR", "EUR") == 1
    assert settings.conversion_rate("USDT", "USD") == 1
    assert settings.conversion_rate("EUR", "USD") is None


def test_a_missing_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set TRADING_CONFIG"):
        config.load(tmp_path / "absent.yaml")


def test_a_secret_that_was_not_delivered_names_the_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match="LoadCredentialEncrypted=jwt-public-key"):
        config.secret("jwt-public-key")


def test_a_secret_is_read_without_its_trailing_newline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "admin-password").write_text("pass word\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert config.secret("admin-password") == "pass word"
