"""Calls to the services behind the gateway, on this host's loopback: bounded in time, reads tried twice, answers checked.

Not reached is 502 (the edge then asks another host), too slow is 504, and a service's own problem document is passed on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final, Literal

import httpx
from fastapi.responses import Response
from prometheus_client import Counter
from pydantic import BaseModel, ValidationError

from trading_platform import telemetry
from trading_platform.answers import answer
from trading_platform.config import Settings
from trading_platform.gateway import contract
from trading_platform.problems import Problem

log = logging.getLogger(__name__)

FAILURES: Final = Counter("smc_trading_gateway_upstream_failures_total", "Calls to a service behind that failed", ["upstream", "kind"])
SERVICES: Final = ("market-data", "engine", "risk", "portfolio")
LARGEST_ANSWER: Final = 8 << 20
# What a service says about the request or about itself; any other error of it is its defect and told as ours.
PASSED_ON: Final = frozenset({400, 401, 403, 404, 409, 422, 429, 503})


class Upstreams:
    """One pooled client for each service."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        timeout = httpx.Timeout(settings.gateway.upstream_timeout_s, connect=1.0, pool=1.0)
        limits = httpx.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=30.0)
        self._clients = {
            name: httpx.AsyncClient(base_url=settings.url(name), timeout=timeout, limits=limits, transport=transport, trust_env=False)
            for name in SERVICES
        }

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def ready(self, name: str) -> None:
        """Raises when the service says it is not ready, or says nothing."""
        response = await self._clients[name].get("/health/ready", timeout=2.5)
        if response.status_code != HTTPStatus.OK:
            reasons = _document_of(response).get("reasons")
            raise RuntimeError(", ".join(map(str, reasons))[:300] if isinstance(reasons, list) else "not ready")

    async def read(
        self,
        name: str,
        path: str,
        shape: type[BaseModel],
        authorization: str,
        params: Mapping[str, str | int | None] | None = None,
        *,
        leave_out_unknown: bool = False,
    ) -> Response:
        """GET, checked against `shape`, digits as the service wrote them. Raises Problem.

        A null makes the answer useless, unless `leave_out_unknown`: then a field that is not known is left out.
        """
        wanted = {k: v for k, v in (params or {}).items() if v is not None}
        response = await self._ask("GET", name, path, authorization, params=wanted)
        if response.status_code != HTTPStatus.OK:
            raise self._refused(name, response)
        return self._checked(name, path, response, shape, leave_out_unknown=leave_out_unknown)

    async def act(
        self, name: str, path: str, shape: type[BaseModel], authorization: str, body: Mapping[str, Any], *, timeout_s: float
    ) -> Response:
        """POST what may be asked for twice with the effect of once, checked like a read. Raises Problem.

        A service's problem is passed on whole: what was not done is as much an answer as what was.
        """
        response = await self._ask("POST", name, path, authorization, body=body, timeout_s=timeout_s)
        if response.status_code != HTTPStatus.OK:
            raise self._refused(name, response, whole=True)
        return self._checked(name, path, response, shape)

    def _checked(
        self, name: str, path: str, response: httpx.Response, shape: type[BaseModel], *, leave_out_unknown: bool = False
    ) -> Response:
        try:
            document = json.loads(response.content, parse_float=Decimal, parse_constant=_no_constant)
            if leave_out_unknown:
                document = _without_null(document)
            shape.model_validate(document)
            _refuse_null(document, "")
        except (ValueError, RecursionError) as error:
            FAILURES.labels(name, "invalid").inc()
            log.error("answer of a service is not as agreed", extra={"upstream": name, "path": path, "error": _brief(error)})
            raise Problem(502, "UPSTREAM_INVALID", f"{name} answered something else than agreed; it is not passed on") from None
        return answer(document, numbers=True)

    async def _ask(
        self,
        method: Literal["GET", "POST"],
        name: str,
        path: str,
        authorization: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        headers = {"Authorization": authorization, "X-Request-Id": telemetry.request_id.get() or ""}
        for attempt in (1, 2):
            try:
                return await self._send(method, name, path, headers, params, body, timeout_s)
            except httpx.TimeoutException:
                FAILURES.labels(name, "timeout").inc()
                raise Problem(504, "UPSTREAM_TIMEOUT", f"{name} did not answer in time; try again") from None
            except httpx.TransportError as error:
                # A kept connection that the service closed fails at once: the second attempt takes a new one.
                if attempt == 2:
                    FAILURES.labels(name, "unreachable").inc()
                    log.warning("service not reached", extra={"upstream": name, "error": _brief(error)})
                    raise Problem(502, "UPSTREAM_UNREACHABLE", f"{name} is not running on this host; try again") from None
        raise AssertionError("unreachable")

    async def _send(
        self,
        method: str,
        name: str,
        path: str,
        headers: dict[str, str],
        params: Mapping[str, str | int] | None,
        body: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> httpx.Response:
        client = self._clients[name]
        timeout = client.timeout if timeout_s is None else httpx.Timeout(timeout_s, connect=1.0, pool=1.0)
        async with client.stream(method, path, params=params, headers=headers, json=body, timeout=timeout) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > LARGEST_ANSWER:
                    FAILURES.labels(name, "invalid").inc()
                    raise Problem(502, "UPSTREAM_INVALID", f"{name} answered more than {LARGEST_ANSWER >> 20} MiB")
        return httpx.Response(
            response.status_code, content=bytes(content), headers={"Retry-After": response.headers.get("Retry-After", "")}
        )

    def _refused(self, name: str, response: httpx.Response, *, whole: bool = False) -> Problem:
        problem = _document_of(response)
        code, detail = problem.get("code"), problem.get("detail")
        passed_on = PASSED_ON | {HTTPStatus.GATEWAY_TIMEOUT} if whole else PASSED_ON
        if response.status_code in passed_on and isinstance(code, str) and isinstance(detail, str):
            retry_after = response.headers.get("Retry-After")
            members = {key: value for key, value in problem.items() if key not in contract.Problem.model_fields} if whole else {}
            headers = {"Retry-After": retry_after} if retry_after else None
            return Problem(response.status_code, code, detail, headers=headers, **members)
        FAILURES.labels(name, "error").inc()
        log.error("service failed", extra={"upstream": name, "status": response.status_code, "code": code})
        return Problem(502, "UPSTREAM_FAILED", f"{name} failed to answer; the request_id is in its log too")


def _document_of(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _refuse_null(value: Any, at: str) -> None:
    """A figure that is not known is an error, not a null: `null > 1000` is false, and reads as no loss."""
    if value is None:
        raise ValueError(f"null at {at or 'the top'}")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_null(item, f"{at}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_null(item, f"{at}[{number}]")


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
    return f"{type(error).__name__}: {error}"[:300]
