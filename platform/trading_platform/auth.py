"""Identity: EdDSA bearer tokens and what a role may do.

The gateway mints with `jwt-private-key`; every service verifies with `jwt-public-key` (PEM, Ed25519). Permissions are
`area.action`; a role holds patterns: admin `*`, trader, analyst, readonly `*.read`.

    auth = Authenticator()                               # keys from credentials; a service without them answers 503
    token = auth.mint("alice", "trader", ttl_s=900)
    @app.post("/trading/start")
    async def start(who: Annotated[Identity, Depends(auth.require("trading.control"))]): ...

A module with such routes must not import annotations from __future__: FastAPI could not see its local `auth`.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, cast, get_args

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from fastapi import Request

from trading_platform.config import ConfigError, optional_secret
from trading_platform.problems import Problem

ISSUER = "trading-platform"
AUDIENCE = "trading-platform"
TOKEN_TYPE = "access"  # noqa: S105 - the name of a kind of token

Role = Literal["admin", "trader", "analyst", "readonly"]
ROLES: tuple[Role, ...] = get_args(Role)

PERMISSIONS: dict[Role, tuple[str, ...]] = {
    "admin": ("*",),
    "trader": ("trading.*", "portfolio.*", "market_data.*", "risk.read"),
    "analyst": ("analytics.*", "market_data.*", "portfolio.read", "risk.read"),
    "readonly": ("*.read",),
}


class InvalidToken(Exception):
    """The token is not ours, not for this, or no longer valid."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls."""

    subject: str
    role: Role
    token_id: str
    expires_at: int

    def may(self, permission: str) -> bool:
        """Whether the role holds `area.action`."""
        return any(fnmatchcase(permission, pattern) for pattern in PERMISSIONS[self.role])


class Authenticator:
    """Mints and verifies tokens. Keys are PEM text; by default the unit's credentials."""

    def __init__(self, public_key: str | None = None, private_key: str | None = None) -> None:
        private_pem = private_key or optional_secret("jwt-private-key")
        public_pem = public_key or optional_secret("jwt-public-key")
        self._private = _private_key(private_pem) if private_pem else None
        self._public = _public_key(public_pem) if public_pem else (self._private.public_key() if self._private else None)
        self.key_id = _key_id(self._public) if self._public else None

    def mint(self, subject: str, role: Role, *, ttl_s: int = 900, now: float | None = None) -> str:
        """A signed token. Raises ConfigError in a process without the private key."""
        if self._private is None:
            raise ConfigError("credential jwt-private-key: not delivered to this unit; only the gateway mints tokens")
        issued = int(time.time() if now is None else now)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "role": role,
            "typ": TOKEN_TYPE,
            "jti": uuid.uuid4().hex,
            "iat": issued,
            "nbf": issued,
            "exp": issued + ttl_s,
        }
        return jwt.encode(claims, self._private, algorithm="EdDSA", headers={"kid": self.key_id})

    def verify(self, token: str) -> Identity:
        """Who the token names. Raises InvalidToken, or Problem 503 in a process without the public key."""
        if self._public is None:
            raise Problem(503, "AUTH_NOT_CONFIGURED", "this service has no jwt-public-key credential")
        try:
            if jwt.get_unverified_header(token).get("kid") != self.key_id:
                raise InvalidToken("signed with an unknown key")
            claims = jwt.decode(
                token,
                self._public,
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=5,
                options={"require": ["exp", "iat", "nbf", "sub", "aud", "iss", "jti"]},
            )
        except jwt.PyJWTError as error:
            raise InvalidToken(str(error)) from None
        role = claims.get("role")
        if claims.get("typ") != TOKEN_TYPE:
            raise InvalidToken("not an access token")
        if role not in ROLES:
            raise InvalidToken(f"unknown role {role!r}")
        return Identity(str(claims["sub"]), cast(Role, role), str(claims["jti"]), int(claims["exp"]))

    def require(self, permission: str) -> Callable[[Request], Awaitable[Identity]]:
        """A FastAPI dependency: the caller's identity, or a 401 or 403 problem."""

        async def identity(request: Request) -> Identity:
            who = self.identify(request.headers.get("authorization"))
            if not who.may(permission):
                raise Problem(403, "FORBIDDEN", f"role {who.role} lacks {permission}")
            return who

        return identity

    def identify(self, authorization: str | None) -> Identity:
        """Who an Authorization header names. Raises Problem 401."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthenticated("send Authorization: Bearer <token>")
        try:
            return self.verify(token.strip())
        except InvalidToken as error:
            raise _unauthenticated(str(error)) from None


def _unauthenticated(detail: str) -> Problem:
    return Problem(401, "UNAUTHENTICATED", detail, headers={"WWW-Authenticate": "Bearer"})


def _private_key(pem: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"credential jwt-private-key: not a PEM private key ({error})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("credential jwt-private-key: not an Ed25519 key; make it with openssl genpkey -algorithm ed25519")
    return key


def _public_key(pem: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"credential jwt-public-key: not a PEM public key ({error})") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("credential jwt-public-key: not an Ed25519 key")
    return key


def _key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]
