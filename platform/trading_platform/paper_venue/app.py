"""Wiring of the paper venue."""

import msgspec
from fastapi import Request
from fastapi.responses import Response

from trading_platform import venue_keys
from trading_platform.answers import answer
from trading_platform.config import Settings, secret
from trading_platform.paper_venue.api import Api
from trading_platform.paper_venue.faults import Document, Faults
from trading_platform.paper_venue.limits import Limits
from trading_platform.paper_venue.service import PaperVenue
from trading_platform.paper_venue.signing import Keys
from trading_platform.problems import Problem
from trading_platform.service import Service

LEASE = "paper-venue"
_LOOPBACK = ("127.0.0.1", "::1", "testclient")


def create(settings: Settings) -> Service:
    service = Service("paper-venue", settings)
    master = secret("paper-venue-secret")
    accounts = [account for account in settings.accounts if settings.venues[account.venue].paper]
    keys = Keys({account.id: venue_keys.paper(account.id, master) for account in accounts})
    faults = Faults()
    venue = PaperVenue(service.db, service.bus, settings, faults)
    limits = Limits(settings.paper_venue.request_weight_per_minute, settings.paper_venue.orders_per_10_s)
    service.loop("venue", venue.run, lease=LEASE)
    service.health_member(venue.health)

    @service.app.get("/health/leading", tags=["health"])
    async def leading() -> Response:
        return answer({"leading": venue.ready}, status=200 if venue.ready else 503)

    if settings.paper_venue.faults:

        def local(request: Request) -> None:
            if request.client is None or request.client.host not in _LOOPBACK:
                raise Problem(403, "FORBIDDEN", "misbehaviour is asked for from this host only")

        @service.app.post("/faults", tags=["faults"])
        async def arm(request: Request) -> Response:
            local(request)
            try:
                document = msgspec.json.decode(await request.body(), type=Document)
            except msgspec.DecodeError as error:
                raise Problem(422, "INVALID_REQUEST", str(error)) from None
            faults.arm(document.rules)
            return _json(faults)

        @service.app.get("/faults", tags=["faults"])
        async def armed(request: Request) -> Response:
            local(request)
            return _json(faults)

        @service.app.delete("/faults", tags=["faults"])
        async def disarm(request: Request) -> Response:
            local(request)
            faults.clear()
            return _json(faults)

    service.app.mount("/", Api(venue, keys, limits))
    return service


def _json(faults: Faults) -> Response:
    return Response(msgspec.json.encode({"rules": faults.document()}), media_type="application/json")
