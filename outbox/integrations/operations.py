"""The operations of an outbox over HTTP, for persons with the operator's token:

app.mount("/operate", outbox.operator_app(service))
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp

from outbox.chassis.endpoints.overview import overview
from outbox.chassis.http import pages
from outbox.chassis.http.input_types import NO_NUL, AnyId, Moment
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.database.pages import DEFAULT_LIMIT, Page
from outbox.errors import InvalidService
from outbox.integrations.operator_access import NAME, VARIABLE, for_holders, operator_token
from outbox.operations.operations import Operations
from outbox.operations.received import ReceivedOperations, message_as_json, whole_as_json
from outbox.operations.results import as_json
from outbox.operations.selection import MAX_AT_ONCE, Selection
from outbox.tables import Tables
from outbox.transports.brokers.held.operators import Selection as HeldSelection
from outbox.transports.brokers.held.rows import State


class HasOutbox(Protocol):
    """The parts of an `outbox.Service` that these addresses need."""

    @property
    def name(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def engine(self) -> AsyncEngine: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def reached(self) -> Collection[str]: ...
    @property
    def new_id(self) -> Callable[[], str]: ...
    @property
    def bell(self) -> Bell: ...


_Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]


class _Filters(BaseModel):
    """Which messages are meant: those that fit all that is given."""

    model_config = ConfigDict(extra="forbid")

    destination: _Text | None = None
    type: _Text | None = None
    key: _Text | None = None
    older_than: Moment | None = None
    newer_than: Moment | None = None

    def selection(self) -> Selection:
        """The selection that they are."""
        return Selection(
            destination=self.destination,
            type=self.type,
            key=self.key,
            older_than=self.older_than,
            newer_than=self.newer_than,
        )


class _Purging(_Filters):
    older_than: Moment
    dry_run: bool = False


class _Chosen(_Filters):
    ids: Annotated[list[AnyId], Field(max_length=MAX_AT_ONCE)] = []
    all: bool = False
    dry_run: bool = False

    def selection(self) -> Selection:
        """The selection that they are."""
        return replace(super().selection(), ids=tuple(dict.fromkeys(self.ids)))


class _Redriving(_Chosen):
    as_new: bool = False


class _Dropping(_Chosen):
    bury: bool = False
    actor: _Text | None = None

    @property
    def by(self) -> str | None:
        """Who buries; None where the messages are deleted."""
        if not self.bury:
            return None
        return f"token {NAME}" if self.actor is None else f"token {NAME} ({self.actor})"


class _Rescheduling(_Chosen):
    due: Moment


def operator_app(service: HasOutbox) -> ASGIApp:
    """The application with the operations of the service's outbox, to be mounted where its operator
    wants it.

    Raises InvalidService where SAGABOX_OPERATOR_TOKEN has no token: it would be open to all.
    """
    token = operator_token()
    if token is None:
        raise InvalidService(
            f"the operations of {service.name} have no token, and would be open to all",
            next_step=f"set {VARIABLE}, or do not mount them",
        )
    return for_holders(_router(service), token, service.clock)


def _router(service: HasOutbox) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute)
    operations = Operations(service.engine, service.tables, service.clock, service.new_id)
    _add_looks(routes, service, operations)
    _add_changes(routes, service, operations)
    _add_received(
        routes,
        ReceivedOperations(service.engine, service.tables, service.clock, service.new_id),
    )
    return routes


def _add_looks(routes: APIRouter, service: HasOutbox, operations: Operations) -> None:
    @routes.get("/status")
    async def status() -> dict[str, Any]:
        found = await overview(
            service.engine, service.tables, service.clock, service.name, service.reached
        )
        return {"service": service.name, **found.as_json()}

    @routes.get("/dead")
    async def dead(
        asked: Annotated[_Looking, Depends()],
    ) -> dict[str, Any]:
        return _page(await operations.dead(asked.selection, limit=asked.limit, cursor=asked.cursor))

    @routes.get("/held")
    async def held(asked: Annotated[_Looking, Depends()]) -> dict[str, Any]:
        page, behind = await operations.held(
            asked.selection, limit=asked.limit, cursor=asked.cursor
        )
        found = _page(page)
        for item, count in zip(found["items"], behind, strict=True):
            item["behind"] = count
        return found

    @routes.get("/scheduled")
    async def scheduled(asked: Annotated[_Looking, Depends()]) -> dict[str, Any]:
        return _page(
            await operations.scheduled(asked.selection, limit=asked.limit, cursor=asked.cursor)
        )


class _Looking:
    """The filters of a list, and which part of it is asked for."""

    def __init__(
        self,
        destination: Annotated[_Text | None, Query()] = None,
        type: Annotated[_Text | None, Query()] = None,
        key: Annotated[_Text | None, Query()] = None,
        older_than: Annotated[Moment | None, Query()] = None,
        newer_than: Annotated[Moment | None, Query()] = None,
        limit: pages.Limit = DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
    ) -> None:
        self.limit = limit
        self.cursor = cursor
        self.selection = Selection(
            destination=destination,
            type=type,
            key=key,
            older_than=older_than,
            newer_than=newer_than,
        )


def _add_changes(routes: APIRouter, service: HasOutbox, operations: Operations) -> None:
    @routes.post("/redrive")
    async def redrive(asked: _Redriving) -> dict[str, Any]:
        done = await operations.redrive(
            asked.selection(),
            as_new=asked.as_new,
            dry_run=asked.dry_run,
            everything=asked.all,
        )
        service.bell.ring()
        return as_json(done)

    @routes.post("/drop")
    async def drop(asked: _Dropping) -> dict[str, Any]:
        done = await operations.drop(
            asked.selection(), buried_by=asked.by, dry_run=asked.dry_run, everything=asked.all
        )
        service.bell.ring()
        return as_json(done)

    @routes.post("/purge")
    async def purge(asked: _Purging) -> dict[str, Any]:
        return as_json(await operations.purge(asked.selection(), dry_run=asked.dry_run))

    @routes.post("/scheduled/move")
    async def move(asked: _Rescheduling) -> dict[str, Any]:
        done = await operations.reschedule(
            asked.selection(), asked.due, dry_run=asked.dry_run, everything=asked.all
        )
        return as_json(done)

    @routes.post("/scheduled/drop")
    async def drop_scheduled(asked: _Chosen) -> dict[str, Any]:
        done = await operations.drop_scheduled(
            asked.selection(), dry_run=asked.dry_run, everything=asked.all
        )
        return as_json(done)


class _Received(BaseModel):
    """Which received messages are meant."""

    model_config = ConfigDict(extra="forbid")

    type: _Text | None = None
    key: _Text | None = None
    source: _Text | None = None
    state: State | None = None
    older_than: Moment | None = None
    numbers: Annotated[list[int], Field(max_length=MAX_AT_ONCE)] = []
    all: bool = False
    dry_run: bool = False

    def selection(self) -> HeldSelection:
        """The selection that they are."""
        return HeldSelection(
            type=self.type,
            key=self.key,
            source=self.source,
            state=self.state,
            before=self.older_than,
            seqs=self.numbers or None,
        )


class _RedrivingReceived(_Received):
    as_new: bool = False


def _add_received(routes: APIRouter, operations: ReceivedOperations) -> None:
    @routes.get("/received")
    async def list_received(
        type: Annotated[_Text | None, Query()] = None,
        key: Annotated[_Text | None, Query()] = None,
        source: Annotated[_Text | None, Query()] = None,
        state: Annotated[State | None, Query()] = None,
        older_than: Annotated[Moment | None, Query()] = None,
        limit: pages.Limit = DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
    ) -> dict[str, Any]:
        chosen = HeldSelection(type=type, key=key, source=source, state=state, before=older_than)
        page = await operations.list(chosen, limit=limit, cursor=cursor)
        items = [message_as_json(it) for it in page.items]
        return {"items": items, "next_cursor": page.next_cursor}

    @routes.get("/received/{number}")
    async def show_received(number: int) -> dict[str, Any]:
        return whole_as_json(await operations.one(number))

    @routes.post("/received/redrive")
    async def redrive_received(asked: _RedrivingReceived) -> dict[str, Any]:
        done = await operations.redrive(
            asked.selection(), as_new=asked.as_new, dry_run=asked.dry_run, everything=asked.all
        )
        return as_json(done)

    @routes.post("/received/drop")
    async def drop_received(asked: _Received) -> dict[str, Any]:
        return as_json(
            await operations.drop(asked.selection(), dry_run=asked.dry_run, everything=asked.all)
        )


def _page(page: Page[Any]) -> dict[str, Any]:
    return {"items": [as_json(it) for it in page.items], "next_cursor": page.next_cursor}
