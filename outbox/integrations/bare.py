"""An application of one service alone, for where there is no web framework, or none that runs in
an event loop."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from outbox.integrations.fastapi import Attached, attach
from outbox.integrations.operator_access import VARIABLE
from outbox.transports.http.problems import HttpProblem


def bare(
    service: Attached, *, messages: bool = True, health: bool = True, metrics: bool = True
) -> Starlette:
    """An ASGI application with the addresses of the service, which runs it from its start to its
    end. Raises InvalidService."""
    app = Starlette(exception_handlers={404: _unknown})
    attach(service, app, messages=messages, health=health, metrics=metrics)
    return app


async def _unknown(_: Request, _error: Exception) -> Response:
    return HttpProblem(
        404,
        "unknown-address",
        "There is nothing at this address.",
        next_step="A service has /messages, /livez, /readyz and /metrics, where they are not left "
        f"out, and /pending where {VARIABLE} is set.",
    ).to_response()
