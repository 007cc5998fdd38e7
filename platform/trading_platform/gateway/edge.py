"""What stands in front of the routes: bounded bodies, and a /health that tells strangers less than it tells this host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trading_platform.problems import problem_response

HEALTH_KEPT_S: Final = 2.0


class BodyLimit:
    """Refuses bodies larger than `limit`, by what is announced and by what arrives."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > self._limit:
            await self._refuse(scope, receive, send)
            return
        taken = 0
        answered = False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLarge:
            if not answered:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = problem_response(Request(scope), 413, "TOO_LARGE", f"a body has at most {self._limit} bytes")
        await response(scope, receive, send)


class _TooLarge(BaseException):
    """Not an Exception: nobody between here and there may take it for one of its own."""


class PublicHealth:
    """Answers /health for those who come through the edge: the verdict, not its parts; asked behind at most every two seconds."""

    def __init__(self, app: ASGIApp, health: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._app = app
        self._health = health
        self._verdict = ""
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outside = scope["type"] == "http" and any(key == b"x-forwarded-for" for key, _ in scope["headers"])
        if not outside or not scope["path"].startswith("/health"):
            await self._app(scope, receive, send)
            return
        verdict = await self._latest()
        status = 503 if verdict == "unhealthy" else 200
        document = {"status": verdict, "service": "gateway"}
        await JSONResponse(document, status, headers={"Cache-Control": "no-store"})(scope, receive, send)

    async def _latest(self) -> str:
        async with self._asking:
            if time.monotonic() > self._until:
                self._verdict = str((await self._health())["status"])
                self._until = time.monotonic() + HEALTH_KEPT_S
            return self._verdict
