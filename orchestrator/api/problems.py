"""How the orchestrator's errors look over HTTP."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from orchestrator.errors import (
    ActiveAlready,
    IllegalSignal,
    InvalidInput,
    KeyReused,
    OrchestratorError,
    Unavailable,
    UnknownDefinition,
    UnknownRun,
)
from outbox.chassis.http.problems import HttpProblem, unexpected


def of(error: OrchestratorError) -> HttpProblem:
    """The problem that an error becomes."""
    headers: dict[str, str] = {}
    members: dict[str, object] = {}
    retry_after = None
    match error:
        case UnknownDefinition():
            status, code = 404, "unknown-saga"
        case UnknownRun():
            status, code = 404, "unknown-run"
        case InvalidInput():
            status, code = 422, "invalid-input"
        case KeyReused(instance_id=first):
            status, code, members = 422, "idempotency-key-reused", {"first": first}
        case ActiveAlready(instance_id=active):
            status, code, members = 409, "saga-active", {"active": active}
            headers = {"location": f"/sagas/{active}"}
        case IllegalSignal(status=now, allowed=allowed):
            status, code = 409, "illegal-signal"
            members = {"saga_status": now, "allowed": list(allowed)}
        case Unavailable():
            status, code, retry_after = 503, "unavailable", error.retry_after
        case _:
            # The others are found when the service starts, before there are requests.
            return unexpected()
    return HttpProblem.telling(
        error, status, code, retry_after=retry_after, headers=headers, members=members
    )


def install(app: FastAPI) -> None:
    """Answer the orchestrator's errors with their problems."""
    app.add_exception_handler(OrchestratorError, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, OrchestratorError)
    return of(error).to_response()
