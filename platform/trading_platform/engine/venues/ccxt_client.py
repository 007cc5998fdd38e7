"""ccxt's Binance, loaded when it is needed and as little of it as is needed, with what it keeps to itself made visible.

ccxt signs, sends, reads and sorts errors; here an error keeps its HTTP status, Binance's code and headers, headers of every answer
are shown to the rate limiter, and requests are dated by the venue's clock. Nothing is ever repeated.
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
import sys
import threading
import types
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

_lock: Final = threading.Lock()
_loaded: list[type[Any]] = []
_dated: Final[ContextVar[int | None]] = ContextVar("_dated", default=None)


class Refused(Exception):
    """An answer that is an error. `kind` is the class ccxt sorts it into, `code` is Binance's, None where the body has none."""

    def __init__(self, status: int, code: int | None, message: str, headers: Mapping[str, str], kind: str) -> None:
        super().__init__(f"HTTP {status}{'' if code is None else f', code {code}'}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = headers.get("retry-after")
        self.kind = kind


class NoAnswer(Exception):
    """The request may have arrived, but no answer came."""


class NotSent(Exception):
    """No connection was made: nothing of the request left."""


def create(
    *, rest_url: str | None, key: str, secret: str, timeout_s: float, recv_window_s: float, now_ms: Callable[[], int],
    on_headers: Callable[[Mapping[str, str]], None],
) -> Any:  # fmt: skip
    """A client of one account. Call it from a running event loop, close it with `close()`."""
    with _lock:
        if not _loaded:
            _loaded.append(_client_class(*_load()))
    client = _loaded[0](
        {
            "apiKey": key,
            "secret": secret,
            "timeout": timeout_s * 1_000,
            "enableRateLimit": False,
            "number": str,
            "timeout_on_exit": 0,
            "options": {
                "defaultType": "spot",
                "recvWindow": round(recv_window_s * 1_000),
                "fetchMarkets": {"types": ["spot"]},
                "maxRetriesOnFailure": 0,
            },
        }
    )
    client.enableLastHttpResponse = client.enableLastJsonResponse = client.enableLastResponseHeaders = False
    if rest_url is not None:
        base = rest_url.rstrip("/") + "/api/v3"
        client.urls["api"] = {"public": base, "private": base}
    client.now_ms = now_ms
    client.on_headers = on_headers
    return client


def _load() -> tuple[type[Any], Any]:
    """ccxt's class for Binance and the module of ccxt's errors.

    Importing the package imports every exchange there is, twice: two seconds and 75 MB. Where nobody has done that yet, only the
    modules Binance needs are imported, below stand-ins for the packages; they are ours alone, a later `import ccxt` has its own.
    """
    spec = None if "ccxt" in sys.modules else importlib.util.find_spec("ccxt")
    if spec is None or spec.origin is None:
        return importlib.import_module("ccxt.async_support.binance").binance, importlib.import_module("ccxt.base.errors")
    root = Path(spec.origin).parent
    for name, directory in (("ccxt", root), ("ccxt.async_support", root / "async_support")):
        package = types.ModuleType(name)
        package.__path__ = [str(directory)]
        sys.modules[name] = package
    try:
        errors = importlib.import_module("ccxt.base.errors")
        names = {name: one for name, one in vars(errors).items() if isinstance(one, type)}
        names["Exchange"] = importlib.import_module("ccxt.base.exchange").Exchange
        vars(sys.modules["ccxt"]).update(names)
        return importlib.import_module("ccxt.async_support.binance").binance, errors
    finally:
        for name in [name for name in sys.modules if name == "ccxt" or name.startswith("ccxt.")]:
            del sys.modules[name]


def _client_class(binance: type[Any], errors: Any) -> type[Any]:
    import aiohttp

    class Client(binance):  # type: ignore[misc]
        """Binance as ccxt has it, one account."""

        now_ms: Callable[[], int]
        on_headers: Callable[[Mapping[str, str]], None]

        def nonce(self) -> int:
            dated = _dated.get()
            return self.now_ms() if dated is None else dated

        def get_exceptions_by_url(self, url: str, exactOrBroad: str) -> Any:  # noqa: N803
            """Spot's, wherever it is; ccxt looks at the host's name."""
            return self.exceptions["spot"].get(exactOrBroad, {})

        def on_rest_response(
            self, code: int, reason: str, url: str, method: str, response_headers: dict[str, str], response_body: str,
            request_headers: Any, request_body: Any,
        ) -> str:  # fmt: skip
            self.on_headers(response_headers)
            return response_body.strip()

        def handle_errors(
            self, code: int, reason: str, url: str, method: str, headers: dict[str, str], body: str, response: Any,
            requestHeaders: Any, requestBody: Any,  # noqa: N803
        ) -> None:  # fmt: skip
            try:
                super().handle_errors(code, reason, url, method, headers, body, response, requestHeaders, requestBody)
                self.handle_http_status_code(code, reason, url, method, body)
            except errors.BaseError as error:
                kind = type(error).__name__
            else:
                if 200 <= code < 300:
                    return
                kind = errors.ExchangeError.__name__
            document = response if isinstance(response, dict) else {}
            number, message = document.get("code"), document.get("msg")
            lower = {name.lower(): value for name, value in headers.items()}
            known = number if isinstance(number, int) and isinstance(message, str) else None
            raise Refused(code, known, str(message) if message is not None else body[:200] or str(reason), lower, kind)

        async def ask(
            self, path: str, method: str, params: Mapping[str, Any], *, signed: bool = True, dated: int | None = None
        ) -> Any:  # fmt: skip
            """One request, sent at most once, as of `dated` by the venue's clock or as of now. Raises Refused, NotSent, NoAnswer."""
            _dated.set(dated)
            try:
                return await self.request(path, ["private" if signed else "public"], method, dict(params))
            except Refused:
                raise
            except (errors.BaseError, aiohttp.ClientError, OSError, TimeoutError) as error:
                cause = error.__cause__ or error
                text = f"{method} {path}: {type(cause).__name__} {cause}".rstrip()
                if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | socket.gaierror):
                    raise NotSent(text) from error
                raise NoAnswer(text) from error

        def order_request(self, symbol: str, kind: str, side: str, quantity: str, price: str | None, params: Mapping[str, Any]) -> Any:
            """The parameters of a new order. Raises Refused for what the symbol's market does not take."""
            try:
                return self.create_order_request(symbol, kind, side, quantity, price, dict(params))
            except errors.BaseError as error:
                raise Refused(400, None, str(error), {}, type(error).__name__) from error

    return Client
