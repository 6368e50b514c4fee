"""A plain HTTP service as a participant of a world."""

from __future__ import annotations

from typing import Any

import httpx

from orchestrator.definition.saga import Saga
from orchestrator.rest_calls.base import Base
from orchestrator.rest_calls.http import Http
from orchestrator.rest_calls.participant import handlers_for
from outbox.inbox.handlers import Handlers

_BASE = "rest+http://rest.test"


def rest_participant(saga: Saga[Any], name: str, service: Any, *, address: str = _BASE) -> Handlers:
    """The participant of that name, for `participants=`: what the saga's REST calls ask of it goes
    to `service`, an ASGI application or a transport of httpx. `address` is the one at which it
    would be registered.

    The calls are the real ones, with their time being virtual. Raises ValueError where the saga
    has no REST call to it.
    """
    calls = [it for it in saga.rest_calls.values() if it.message_type.owner == name]
    if not calls:
        raise ValueError(f"{saga} has no REST call to {name!r}: see orchestrator.rest")
    is_transport = isinstance(service, httpx.AsyncBaseTransport)
    http = Http(service if is_transport else httpx.ASGITransport(service))
    return handlers_for(name, Base.parse(address), calls, http)
