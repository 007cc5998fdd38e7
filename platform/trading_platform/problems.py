"""Errors on the wire: RFC 9457 problem documents, the same shape for every error of every service.

raise Problem(409, "TRADING_PAUSED", "trading is paused; start it with POST /trading/start")
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from trading_platform import telemetry

log = logging.getLogger(__name__)

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "TOO_LARGE",
    422: "INVALID_REQUEST",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_ERROR",
    503: "UNAVAILABLE",
}


class Problem(Exception):
    """An answer that is an error: HTTP status, reason code, what happened and what to do."""

    def __init__(self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.members = members


def problem_response(
    request: Request, status: int, code: str, detail: str, headers: dict[str, str] | None = None, **members: Any
) -> JSONResponse:
    """The problem document as a response."""
    document = {
        "type": f"urn:trading-platform:problem:{code.lower().replace('_', '-')}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": request.url.path,
        "request_id": telemetry.request_id.get(),
        **members,
    }
    return JSONResponse(document, status, headers=headers, media_type="application/problem+json")


def install(app: FastAPI, transient: tuple[type[Exception], ...] = ()) -> None:
    """Answer every error of `app` with a problem document; `transient` ones (a dependency is away) with 503.

    What nobody foresaw is answered, with 500, by the harness (service.py), which knows the request id.
    """

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> JSONResponse:
        return problem_response(request, error.status, error.code, error.detail, error.headers, **error.members)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "ERROR")
        detail = str(error.detail)
        if error.status_code == 404 and detail == "Not Found":
            detail = f"nothing at {request.url.path}"
        elif error.status_code == 405:
            detail = f"{request.method} is not allowed at {request.url.path}"
        return problem_response(request, error.status_code, code, detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [{"at": ".".join(str(part) for part in item["loc"]), "message": item["msg"]} for item in error.errors()]
        detail = "; ".join(f"{item['at']}: {item['message']}" for item in errors[:5])
        return problem_response(request, 422, "INVALID_REQUEST", detail, errors=errors)

    async def _unavailable(request: Request, error: Exception) -> JSONResponse:
        log.warning("dependency away", extra={"error": str(error), "kind": type(error).__name__})
        detail = f"a dependency is away ({type(error).__name__}); try again"
        return problem_response(request, 503, "DEPENDENCY_UNAVAILABLE", detail, {"Retry-After": "2"})

    for kind in transient:
        app.add_exception_handler(kind, _unavailable)
