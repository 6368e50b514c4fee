"""/pending: what waits for its answer, for persons with the operator's token. It is there where a
token is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, StringConstraints
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from starlette.types import ASGIApp

from outbox.chassis.http import pages
from outbox.chassis.http.input_types import NO_NUL, id_in_path
from outbox.chassis.http.problems import HttpProblem
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.clock import Clock
from outbox.database.engines import reading
from outbox.database.pages import DEFAULT_LIMIT
from outbox.database.within import in_transaction
from outbox.errors import NotPendingYet, Unrouted
from outbox.inbox.pending.persons import PendingCommands
from outbox.inbox.runners import Sessions
from outbox.integrations.operator_access import NAME, for_holders
from outbox.safe_text import MAX_REASON_LENGTH

PATHS = ("/pending", "/pending/{id}/complete", "/pending/{id}/refuse", "/pending/{id}/drop")

_LONGEST = 200

T = TypeVar("T")


class HasPending(Protocol):
    """The parts of an `outbox.Service` that these addresses need."""

    @property
    def clock(self) -> Clock: ...
    @property
    def engine(self) -> AsyncEngine: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def pending(self) -> PendingCommands: ...


class _Act(BaseModel):
    reason: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_REASON_LENGTH, pattern=NO_NUL)
    ]
    actor: Annotated[
        str | None, StringConstraints(min_length=1, max_length=_LONGEST, pattern=NO_NUL)
    ] = None

    @property
    def by(self) -> str:
        """Who asks: the token, and the name that its holder gives."""
        return f"token {NAME}" if self.actor is None else f"token {NAME} ({self.actor})"


class _Completion(_Act):
    value: Any


class _Refusal(_Act):
    code: Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST, pattern=NO_NUL)]


def application(service: HasPending, token: str) -> ASGIApp:
    """The application with these addresses alone."""
    return for_holders(_router(service), token, service.clock)


def _router(service: HasPending) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute)
    pending = service.pending

    @routes.get(PATHS[0])
    async def list_pending(
        limit: pages.Limit = DEFAULT_LIMIT, cursor: pages.Cursor = None
    ) -> dict[str, Any]:
        async with AsyncSession(reading(service.engine)) as session:
            page = await pending.list(session, limit=limit, cursor=cursor)
        return {"items": [it.as_json() for it in page.items], "next_cursor": page.next_cursor}

    @routes.post("/pending/{id}/complete")
    async def complete(id: str, asked: _Completion) -> dict[str, str]:
        return await act(
            id,
            "done",
            lambda session, id: pending.complete(
                session, id, asked.value, actor=asked.by, reason=asked.reason
            ),
        )

    @routes.post("/pending/{id}/refuse")
    async def refuse(id: str, asked: _Refusal) -> dict[str, str]:
        return await act(
            id,
            "refused",
            lambda session, id: pending.refuse(
                session, id, asked.code, actor=asked.by, reason=asked.reason
            ),
        )

    @routes.post("/pending/{id}/drop")
    async def drop(id: str, asked: _Act) -> dict[str, str]:
        return await act(
            id,
            "unknown",
            lambda session, id: pending.drop(session, id, actor=asked.by, reason=asked.reason),
        )

    async def act(id: str, outcome: str, does: Callable[[Session, str], None]) -> dict[str, str]:
        found = id_in_path(id)
        if found is None:
            raise HttpProblem.telling(NotPendingYet(id), 404, "not-pending")
        try:
            await in_transaction(service.sessions, lambda session: does(session, found))
        except Unrouted as error:
            raise HttpProblem.telling(error, 409, "no-way-to-the-sender") from error
        return {"id": found, "outcome": outcome}

    return routes
