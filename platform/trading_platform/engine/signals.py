"""Strategies' signals from the bus: each becomes an order, or a reason why not, and is acknowledged when that is committed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from trading_platform import bus, messages, money
from trading_platform.bus import Bus, Entry
from trading_platform.domain.orders import Order
from trading_platform.engine import metrics
from trading_platform.engine.core import OrderRequest
from trading_platform.instruments import InvalidOrder, UnknownInstrument
from trading_platform.messages import InvalidMessage, Signal
from trading_platform.service import LoopContext

if TYPE_CHECKING:
    from trading_platform.engine.session import Session

log = logging.getLogger(__name__)

AT_ONCE = 50


class SignalReader:
    """Reads while the session leads; without the bus there are no signals, and everything else goes on."""

    def __init__(self, session: Session, stream: Bus, max_age_s: float) -> None:
        self._session = session
        self._group = stream.group(messages.SIGNALS, f"engine:{session.account.id}", exclusive=True)
        self._max_age_s = max_age_s

    async def run(self, context: LoopContext) -> None:
        while not context.stopping:
            context.beat()
            try:
                entries = await self._group.read(count=AT_ONCE, block_ms=500)
                if entries:
                    await asyncio.gather(*(self._on_entry(entry) for entry in entries))
                    await self._group.ack(*entries)
            except bus.TRANSIENT as error:
                log.warning("no signals: the bus is away", extra={"account": self._session.account.id, "error": str(error)})
                await context.sleep(1.0)

    async def _on_entry(self, entry: Entry) -> None:
        try:
            signal = messages.decode(entry.fields, Signal)
        except InvalidMessage as error:
            log.error("signal refused", extra={"error": str(error), "entry": entry.id.decode()})
            metrics.SIGNALS.labels("invalid").inc()
            return
        if signal.account == self._session.account.id and self._counts(signal):
            await self._trade(signal)

    def _counts(self, signal: Signal) -> bool:
        age_s = time.time() - signal.ts_ns / 1e9
        if age_s > self._max_age_s:
            log.warning("signal too old to trade", extra={"signal": signal.id, "age_s": round(age_s, 1)})
            metrics.SIGNALS.labels("too_old").inc()
            return False
        if self._session.safe_mode:
            log.warning("signal ignored in safe mode", extra={"signal": signal.id})
            metrics.SIGNALS.labels("safe_mode").inc()
            return False
        return True

    async def _trade(self, signal: Signal) -> None:
        try:
            request = OrderRequest(
                origin=signal.id,
                symbol=signal.symbol,
                side=signal.side,
                type="market",
                quantity=money.parse(signal.quantity),
                strategy=f"{signal.strategy}@{signal.version}",
                signal_id=signal.id,
            )
            order, created = await self._session.place(request, f"strategy:{signal.strategy}")
        except (InvalidOrder, UnknownInstrument, money.MoneyError) as error:
            log.error("signal refused", extra={"signal": signal.id, "error": str(error)})
            metrics.SIGNALS.labels("invalid").inc()
            return
        metrics.SIGNALS.labels("traded" if created else "duplicate").inc()
        if created:
            self._observe_slippage(order, signal)
        log.info("signal handled", extra={"signal": signal.id, "client_order_id": order.id, "status": order.status, "new": created})

    def _observe_slippage(self, order: Order, signal: Signal) -> None:
        """How much worse the order traded than the price its decision saw, as far as it filled at once."""
        seen = self._session.catalogue.symbol(signal.symbol).price(signal.price)
        if order.filled_quantity == 0 or seen <= 0:
            return
        average = money.divide(order.filled_notional, order.filled_quantity)
        worse = average - seen if signal.side == "buy" else seen - average
        metrics.SLIPPAGE.observe(float(worse / seen))
