"""What the role secrets generates: everything once, nothing over what is there, and nothing weak."""

from __future__ import annotations

import base64
import datetime
import re
import sys
from types import ModuleType

import pytest
import yaml
from ansible.plugins.loader import action_loader
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from plugins import prepared
from rendered_role import RenderedRole

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The action's module, found as Ansible finds it."""
    prepared()
    return sys.modules[action_loader.get("trading.platform.generated_secrets", class_only=True).__module__]


@pytest.fixture(scope="module")
def wanted() -> dict[str, dict[str, object]]:
    return RenderedRole("secrets", groups={"all": ["lab1"]}).value("_secrets_wanted")


@pytest.fixture(scope="module")
def made(generator: ModuleType, wanted: dict[str, dict[str, object]]) -> dict[str, str]:
    return generator.missing(wanted, {}, NOW)


def test_everything_wanted_is_made(made: dict[str, str], wanted: dict[str, object]) -> None:
    assert set(made) == set(wanted)


def test_passwords_are_long_distinct_and_safe_in_a_url(made: dict[str, str]) -> None:
    passwords = [value for name, value in made.items() if name.endswith("_password")]
    assert len(set(passwords)) == len(passwords) >= 16
    assert all(re.fullmatch(r"[A-Za-z0-9]{40}", password) for password in passwords)


def test_mongodb_can_read_its_keyfile(made: dict[str, str]) -> None:
    keyfile = made["vault_mongodb_keyfile"]
    assert 6 <= len(keyfile) <= 1024
    assert len(base64.b64decode(keyfile, validate=True)) == 567


def test_public_key_belongs_to_the_private_one(made: dict[str, str]) -> None:
    private = serialization.load_pem_private_key(made["vault_jwt_private_key"].encode(), password=None)
    public = serialization.load_pem_public_key(made["vault_jwt_public_key"].encode())
    assert private.public_key() == public


def test_ca_signs_hosts_only_and_lasts_ten_years(made: dict[str, str]) -> None:
    certificate = x509.load_pem_x509_certificate(made["vault_tls_ca_certificate"].encode())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert isinstance(certificate.public_key().curve, ec.SECP384R1)
    assert certificate.not_valid_after_utc == NOW + datetime.timedelta(days=3650)


def test_what_is_there_is_kept_and_what_is_new_is_added(generator: ModuleType, wanted: dict, made: dict[str, str]) -> None:
    existing = {name: value for name, value in made.items() if name != "vault_redis_app_password"}
    assert list(generator.missing(wanted, existing, NOW)) == ["vault_redis_app_password"]


def test_ca_certificate_that_was_removed_is_made_for_the_same_key(generator: ModuleType, wanted: dict, made: dict[str, str]) -> None:
    existing = {name: value for name, value in made.items() if name != "vault_tls_ca_certificate"}
    again = generator.missing(wanted, existing, NOW)["vault_tls_ca_certificate"]
    key = serialization.load_pem_private_key(made["vault_tls_ca_key"].encode(), password=None)
    assert x509.load_pem_x509_certificate(again.encode()).public_key() == key.public_key()


def test_key_that_is_missing_beside_its_certificate_is_refused(generator: ModuleType, wanted: dict, made: dict[str, str]) -> None:
    existing = {name: value for name, value in made.items() if name != "vault_tls_ca_key"}
    with pytest.raises(generator.SecretsError, match="vault_tls_ca_certificate is there but vault_tls_ca_key"):
        generator.missing(wanted, existing, NOW)


def test_own_text_of_the_file_is_kept_byte_for_byte(generator: ModuleType) -> None:
    text = "# exchange keys, mine\nvault_exchange_key: abc"
    assert generator.appended(text, {"vault_a": "x"}).startswith(text + "\n")


def test_file_reads_back_as_what_was_made(generator: ModuleType, made: dict[str, str]) -> None:
    assert yaml.safe_load(generator.appended("", made)) == made
