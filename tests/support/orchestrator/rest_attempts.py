"""Attempts of REST calls, for tests: the calls, the service that they ask, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from orchestrator import RestCall, rest
from orchestrator.rest_calls.base import Base
from orchestrator.rest_calls.calling import RestCalls, Result
from orchestrator.rest_calls.http import Http
from orchestrator.rest_calls.kept import Found, Kept
from outbox.inbox.handling.context import CallTimes, Context
from tests.support.orchestrator.plain_service import (
    PlainService,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECONDS = timedelta(seconds=1)
PROBE = "GET /charges/by-key/{key}"
BASE = Base.parse("rest+https://pay.internal/v1")

charge = partial(rest, "payments", "POST /charges", body={"cents": 5}, reply=dict, keyed=True)
refund = partial(rest, "payments", "DELETE /charges/{reply.id}")


async def attempt(
    command: RestCall[Any],
    service: PlainService,
    *,
    kept: Any = None,
    undoes: Mapping[str, str] | None = None,
    number: int = 1,
    doubt: datetime | None = None,
    began: datetime = NOW,
) -> Result:
    """The result of an attempt of the command c-1; the last one ended in doubt at `doubt`."""
    times = CallTimes(began, doubt is not None, doubt)
    context = Context("c-1", "s-1", None, number, "orchestrator", None, undoes or {}, kept, times)
    return await RestCalls(BASE, Http(service))(command, context)


def undoing(**found: Any) -> dict[str, Any]:
    """What is kept of the undo of a-1."""
    return {"kept": Kept({"a-1": Found(**found)}).json(), "undoes": {"a-1": "ran"}}


def answering(*troubles: Any, method: str = "POST") -> PlainService:
    """A service whose next answers to requests of that method are these."""
    service = PlainService()
    service.troubles[method] = list(troubles)
    return service
