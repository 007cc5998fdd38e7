"""Only a token we signed, for us, of the right kind, not expired, is somebody."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from trading_platform.auth import AUDIENCE, ISSUER, ROLES, Authenticator, InvalidToken
from trading_platform.config import ConfigError
from trading_platform.problems import Problem


def private_pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


KEY = Ed25519PrivateKey.generate()
AUTH = Authenticator(private_key=private_pem(KEY))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "role": "trader", "typ": "access", "jti": "1"}
    return {**base, "iat": now, "nbf": now, "exp": now + 60, **changes}


def test_a_minted_token_names_who_and_what_role() -> None:
    identity = AUTH.verify(AUTH.mint("alice", "trader"))
    assert (identity.subject, identity.role) == ("alice", "trader")


@pytest.mark.parametrize(
    "changes",
    [{"aud": "other"}, {"iss": "other"}, {"typ": "refresh"}, {"role": "root"}, {"exp": 1}, {"nbf": 2**33}],
    ids=["audience", "issuer", "kind", "role", "expired", "not yet"],
)
def test_a_token_with_a_wrong_claim_is_refused(changes: dict[str, Any]) -> None:
    token = jwt.encode(claims(**changes), KEY, algorithm="EdDSA", headers={"kid": AUTH.key_id})
    with pytest.raises(InvalidToken):
        AUTH.verify(token)


def test_a_token_of_another_key_is_refused_even_under_our_key_id() -> None:
    token = jwt.encode(claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": AUTH.key_id})
    with pytest.raises(InvalidToken):
        AUTH.verify(token)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_with_another_algorithm_is_refused(algorithm: str) -> None:
    key = None if algorithm == "none" else "x" * 32
    token = jwt.encode(claims(), key, algorithm=algorithm, headers={"kid": AUTH.key_id})
    with pytest.raises(InvalidToken):
        AUTH.verify(token)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer not.a.token"])
def test_a_header_without_a_usable_token_is_unauthenticated(header: str | None) -> None:
    with pytest.raises(Problem) as refusal:
        AUTH.identify(header)
    assert refusal.value.status == 401


def test_a_service_without_the_private_key_cannot_mint() -> None:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    verifier = Authenticator(public_key=public)
    assert verifier.verify(AUTH.mint("alice", "admin")).role == "admin"
    with pytest.raises(ConfigError):
        verifier.mint("alice", "admin")


ALLOWED = {
    "admin": {"trading.submit", "risk.manage", "risk.read", "portfolio.read", "market_data.read", "users.manage"},
    "trader": {"trading.submit", "risk.read", "portfolio.read", "market_data.read"},
    "analyst": {"risk.read", "portfolio.read", "market_data.read"},
    "readonly": {"risk.read", "portfolio.read", "market_data.read"},
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("permission", sorted(ALLOWED["admin"]))
def test_each_role_may_do_exactly_what_is_listed(role: Any, permission: str) -> None:
    assert AUTH.verify(AUTH.mint("x", role)).may(permission) is (permission in ALLOWED[role])
