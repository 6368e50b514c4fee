"""The stream of a run's history, as it happens: a server-sent event for each line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.sse import format_sse_event
from sqlalchemy import Row
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from orchestrator.api import views
from orchestrator.api.context import LOOK_AGAIN, ApiContext
from orchestrator.api.models import EntryOut
from orchestrator.api.sagas import GONE, SagaId
from orchestrator.machine.instance import Status
from orchestrator.retention.archive.lines import ArchivedLine, ArchivedRow
from orchestrator.store import queries
from outbox.chassis.access.middleware import caller_in, key_in
from outbox.chassis.access.routes import Access
from outbox.chassis.http.problems import HttpProblem, documented

MAX_STREAMS = 100
"""Streams of one process that are open at once."""
HEARTBEAT = 10.0
"""Seconds of silence after which a comment says that the stream is alive."""
_PAGE = 100
_ALIVE = b": alive\n\n"
_EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "The line's number"},
        "event": {"type": "string", "description": "What happened"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}


class EventOut(EntryOut):
    """A line of the history, and the saga's status when it was told."""

    status: Status


def router(desk: ApiContext) -> APIRouter:
    """The router of this address."""
    routes = APIRouter(tags=["sagas"])
    places = Places(MAX_STREAMS)

    @routes.get(
        "/sagas/{saga}/events",
        summary="Follow a saga",
        description="One event for each line of the history: `id` is its number, `event` what "
        "happened, `data` the line with the saga's `status`. The stream ends with the saga, "
        "and with the key that opened it. With `Last-Event-ID` it begins behind that line.",
        status_code=200,
        response_class=_Stream,
        responses=documented(GONE | {503: "Too many streams are open"})
        | {200: {"content": {"text/event-stream": {"schema": _EVENT}}}},
    )
    async def follow(
        saga: SagaId,
        request: Request,
        last_event_id: Annotated[
            int | None,
            Header(ge=0, le=2**31 - 1, description="The number of the last line that was seen"),
        ] = None,
    ) -> StreamingResponse:
        row = await desk.find(saga)
        places.take()
        may_look = _lasting(desk, request)
        after = last_event_id or 0
        if isinstance(row, ArchivedRow):
            told = archived_entries(row, after)
        else:
            told = entries(desk, row.id, after, may_look=may_look)
        answer = _Stream(told, release=places.give_back)
        if row.id != saga:
            answer.headers["content-location"] = f"/sagas/{row.id}/events"
        return answer

    return routes


MayLook = Callable[[], Awaitable[bool]]
"""Whether the caller that opened a stream may still look."""


def _lasting(desk: ApiContext, request: Request) -> MayLook:
    """A check that lets the caller look for as long as the key of its request is valid, or for good
    where the request needed none."""
    credential = None if key_in(request.scope) is None else caller_in(request.scope).credential

    async def may_look() -> bool:
        if credential is None:
            return True
        key = await desk.keys.key(credential)
        return key is not None and Access.VIEWER in key.opens

    return may_look


async def archived_entries(run: ArchivedRow, after: int) -> AsyncGenerator[bytes, None]:
    """The events behind number `after` of a run in the archive, to which nothing happens."""
    for line in run.history:
        if line.number > after:
            yield _event(line, Status(run.status))


async def entries(
    desk: ApiContext, id: str, after: int, *, may_look: MayLook, heartbeat: float = HEARTBEAT
) -> AsyncGenerator[bytes, None]:
    """The events behind number `after`, as bytes for the wire, until the run has ended, the service
    stops, or the caller may look no longer."""
    loop = asyncio.get_running_loop()
    with desk.engine.watchers.watching(id) as watch:
        spoke = loop.time()
        while await may_look():
            now = await queries.standing(desk.database, id)
            if now is None:
                return
            if now.entries > after:
                rows, _ = await queries.history(desk.database, id, after=after, limit=_PAGE)
                for row in rows:
                    yield _event(row, now.status)
                spoke = loop.time()
                # Where lines are missing, there is nothing to wait for.
                after = rows[-1].number if rows else now.entries
            elif now.has_ended or desk.stopping.is_set():
                return
            elif not await watch.changed(LOOK_AGAIN) and loop.time() - spoke >= heartbeat:
                yield _ALIVE
                spoke = loop.time()


class Places:
    """The places for streams, of which only so many may be open at once."""

    def __init__(self, count: int) -> None:
        self._free = count

    def take(self) -> None:
        """Take a place. Raises HttpProblem (503) where none is free."""
        if self._free == 0:
            raise HttpProblem(
                503,
                "too-many-streams",
                "As many event streams are open as this service allows.",
                next_step="Close one, or read GET /sagas/{id}/history from time to time instead.",
                retry_after=5,
            )
        self._free -= 1

    def give_back(self) -> None:
        """Give the place of an ended stream back."""
        self._free += 1


class _Stream(StreamingResponse):
    """A response that calls `release` however it ends."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], *, release: Callable[[], None]) -> None:
        super().__init__(content)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


def _event(row: Row[Any] | ArchivedLine, status: Status) -> bytes:
    told = EventOut(**views.entry(row).model_dump(), status=status)
    return format_sse_event(
        id=str(told.number), event=told.happening, data_str=told.model_dump_json()
    )
