"""Logging in, and changing one's password."""

from __future__ import annotations

import ipaddress
import logging
from typing import Annotated

from fastapi import APIRouter, Request
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field

from trading_platform import telemetry
from trading_platform.auth import Authenticator
from trading_platform.config import GatewaySettings
from trading_platform.gateway.contract import Token
from trading_platform.gateway.throttle import LoginThrottle
from trading_platform.gateway.users import LONGEST_PASSWORD, Users, WeakPassword, verify_password
from trading_platform.problems import Problem

log = logging.getLogger(__name__)

LOGINS = Counter("smc_trading_gateway_logins_total", "Attempts to log in", ["result"])


class Credentials(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    username: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}$")]
    password: Annotated[str, Field(min_length=1, max_length=LONGEST_PASSWORD)]


class PasswordChange(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    current: Annotated[str, Field(min_length=1, max_length=LONGEST_PASSWORD)]
    new: Annotated[str, Field(min_length=1, max_length=LONGEST_PASSWORD)]


def client_address(request: Request) -> str:
    """Who calls: the edge says so (it alone reaches us from outside); on this host, the caller's own address."""
    offered = request.headers.get("x-real-ip", "")
    try:
        return ipaddress.ip_address(offered).compressed
    except ValueError:
        return request.client.host if request.client else "unknown"


def router(settings: GatewaySettings, auth: Authenticator, users: Users, throttle: LoginThrottle) -> APIRouter:
    routes = APIRouter(prefix="/api/auth", tags=["identity"])

    async def attempt(name: str, address: str) -> None:
        wait = await throttle.seconds_to_wait(name, address)
        if wait:
            LOGINS.labels("throttled").inc()
            raise Problem(429, "TOO_MANY_ATTEMPTS", f"too many failed attempts; wait {wait} s", headers={"Retry-After": str(wait)})

    async def refused(name: str, address: str, event: str) -> Problem:
        await throttle.failed(name, address)
        LOGINS.labels("refused").inc()
        log.warning("login refused", extra={"user": name, "address": address})
        await users.record(event, actor=name, subject=name, request_id=telemetry.request_id.get(), address=address)
        return Problem(401, "WRONG_CREDENTIALS", "no such user with this password", headers={"WWW-Authenticate": "Bearer"})

    @routes.post("/login", response_model=Token)
    async def login(credentials: Credentials, request: Request) -> Token:
        """A token for every other path below /api: send it as `Authorization: Bearer <token>`."""
        address = client_address(request)
        await attempt(credentials.username, address)
        user = await users.find(credentials.username)
        if not await verify_password(user, credentials.password) or user is None:
            raise await refused(credentials.username, address, "login.refused")
        ttl_s = settings.admin_token_s if user.role == "admin" else settings.access_token_s
        token = auth.mint(user.name, user.role, ttl_s=ttl_s)
        await users.record("login.succeeded", actor=user.name, subject=user.name, request_id=telemetry.request_id.get(), address=address)
        LOGINS.labels("succeeded").inc()
        return Token(access_token=token, expires_in=ttl_s, role=user.role)

    @routes.post("/password", status_code=204)
    async def change_password(change: PasswordChange, request: Request) -> None:
        """Change one's own password. Tokens that are out stay good until they expire."""
        who = auth.identify(request.headers.get("authorization"))
        address = client_address(request)
        await attempt(who.subject, address)
        user = await users.find(who.subject)
        if not await verify_password(user, change.current):
            raise await refused(who.subject, address, "password.refused")
        try:
            await users.set_password(who.subject, change.new, actor=who.subject)
        except WeakPassword as error:
            raise Problem(422, "WEAK_PASSWORD", str(error)) from None

    return routes
