"""Asking risk before every order. No answer, a late answer or a strange one is a refusal: RISK_UNAVAILABLE."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import msgspec

from trading_platform import money, telemetry
from trading_platform.domain.orders import Intent


@dataclass(frozen=True, slots=True)
class Decision:
    """What risk said. `code` is ACCEPTED or the reason it refused."""

    accepted: bool
    code: str
    detail: str


class _DecisionAnswer(msgspec.Struct):
    client_order_id: str
    accepted: bool
    code: str
    detail: str


class _Answer(msgspec.Struct):
    decisions: list[_DecisionAnswer]


class RiskClient:
    """POST /risk/check of the risk service on this host."""

    def __init__(self, base_url: str, timeout_s: float, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(base_url=base_url, timeout=timeout_s, transport=transport, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def check(self, intent: Intent) -> Decision:
        """Risk's decision on one order; never raises."""
        body = {
            "orders": [
                {
                    "client_order_id": intent.client_order_id,
                    "account": intent.account_id,
                    "symbol": intent.symbol,
                    "side": intent.side,
                    "type": intent.type,
                    "quantity": money.text(intent.quantity),
                    "limit_price": None if intent.limit_price is None else money.text(intent.limit_price),
                }
            ]
        }
        headers = {"X-Request-Id": telemetry.request_id.get() or intent.client_order_id}
        try:
            response = await self._client.post("/risk/check", json=body, headers=headers)
        except httpx.HTTPError as error:
            return _unavailable(f"{type(error).__name__}: {error}")
        if response.status_code != 200:
            return _unavailable(f"HTTP {response.status_code}: {response.text[:200]}")
        try:
            answer = msgspec.json.decode(response.content, type=_Answer)
        except msgspec.DecodeError as error:
            return _unavailable(f"answer not understood: {error}")
        if len(answer.decisions) != 1 or answer.decisions[0].client_order_id != intent.client_order_id:
            return _unavailable("the answer is about another order")
        decision = answer.decisions[0]
        return Decision(decision.accepted, decision.code, decision.detail)


def _unavailable(detail: str) -> Decision:
    return Decision(False, "RISK_UNAVAILABLE", detail)
