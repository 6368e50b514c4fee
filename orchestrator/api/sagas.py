"""The routes to start runs, and to look at one, at its history, or at many."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response

from orchestrator.api import views
from orchestrator.api.bodies import IN_OPENAPI, json_object, read_input
from orchestrator.api.context import ApiContext
from orchestrator.api.models import MAX_NAME, Counts, HistoryPage, SagaOut, StatusCount, Summary
from orchestrator.engine.engine import IdempotencyKey
from orchestrator.machine.instance import Status
from orchestrator.retention.archive.lines import ArchivedRow
from orchestrator.store import queries
from orchestrator.store.queries import Filter
from orchestrator.store.status_counts import status_counts
from outbox.chassis.http import pages
from outbox.chassis.http.input_types import ID_PREFIX, NO_NUL, Moment, ids_that_begin
from outbox.chassis.http.problems import documented
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.database.pages import DEFAULT_LIMIT, cut
from outbox.messages import MAX_KEY_LENGTH
from outbox.wire import strict_json

MAX_WAIT = 30
"""Seconds that a start waits for the end, at most."""
_LONGEST_AGE = 10 * 365 * 24 * 3600
_WAIT = re.compile(r"\s*wait\s*=\s*(\d{1,9})\s*", re.IGNORECASE)

SagaId = Annotated[str, Path(description="The id of a saga, or of a start that was joined to it")]
GONE = {404: "There is no such saga", 410: "It is the id of a start that was refused"}


def router(desk: ApiContext) -> APIRouter:
    """The router of these addresses."""
    routes = APIRouter(tags=["sagas"], route_class=StrictRoute)

    # One name for the path's parameter, though it is a definition here and an id elsewhere: two
    # templates of one form would be one path in the OpenAPI document.
    @routes.post(
        "/sagas/{saga}",
        status_code=202,
        summary="Start a saga",
        description="The same `Idempotency-Key` with the same input gives the same saga, also with "
        "another `begin_at`. With "
        "`Prefer: wait=10` the answer comes when the saga has ended, or after that many seconds.",
        response_description="It was started, and goes on",
        responses=documented(
            {
                404: "There is no such definition",
                409: "Another one is active for the same key; it is the Location",
                415: "The body is not application/json",
                422: "The input does not fit, or the idempotency key came with another input",
            }
        )
        | {200: {"model": SagaOut, "description": "It was started, and has ended"}},
        openapi_extra=IN_OPENAPI,
    )
    async def start(
        saga: Annotated[str, Path(description="The name of a definition")],
        request: Request,
        response: Response,
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1,
                max_length=200,
                pattern=r"^[!-~]([ -~]*[!-~])?$",
                description="Makes it safe to ask again: one key begins one saga of a definition",
            ),
        ] = None,
        prefer: Annotated[
            str | None, Header(description="wait=N: wait N seconds for the end, at most 30")
        ] = None,
        begin_at: Annotated[
            Moment | None,
            Query(
                description="When it is to begin, such as 2030-01-31T12:00:00Z; until then it is "
                "SCHEDULED. A time that is past means at once"
            ),
        ] = None,
    ) -> SagaOut:
        definition = desk.registry.get(saga)
        body = await json_object(request)
        state = read_input(definition, body)
        started = await desk.engine.start(
            definition,
            state,
            key=_key(idempotency_key, definition.name, body),
            begin_at=begin_at,
        )
        wait = _wait(prefer)
        if wait:
            run = await desk.until_ended(started.instance_id, wait)
            response.headers["preference-applied"] = f"wait={wait}"
            if run.ended_at is not None:
                response.status_code = 200
        else:
            run = await desk.begun(started.instance_id)
        response.headers["location"] = f"/sagas/{run.id}"
        return run

    @routes.get("/sagas", summary="List sagas, newest first")
    async def list_sagas(
        wanted: pages.WantedPage,
        status: Annotated[
            list[Status], Query(description="Only those with one of these", max_length=20)
        ] = [],  # noqa: B006 - the framework copies it
        name: Annotated[
            str | None,
            Query(max_length=MAX_NAME, pattern=NO_NUL, description="Only those of this definition"),
        ] = None,
        key: Annotated[
            str | None,
            Query(
                max_length=MAX_KEY_LENGTH,
                pattern=NO_NUL,
                description="Only those about this entity",
            ),
        ] = None,
        older_than: Annotated[
            float | None,
            Query(
                ge=0,
                le=_LONGEST_AGE,
                allow_inf_nan=False,
                description="Only those that began so many seconds ago, or earlier",
            ),
        ] = None,
        id_prefix: Annotated[
            str | None,
            Query(
                pattern=ID_PREFIX,
                description="Only those whose id begins so, in the form that was given out",
            ),
        ] = None,
    ) -> pages.Page[Summary]:
        before = None
        if older_than is not None:
            before = desk.clock.now() - timedelta(seconds=older_than)
        rows, cursor = await queries.page(
            desk.database,
            wanted,
            Filter(
                status,
                name,
                key,
                made_before=before,
                ids=None if id_prefix is None else ids_that_begin(id_prefix),
            ),
        )
        return pages.Page(items=await desk.listed(rows), next_cursor=cursor)

    # In front of the address of one run, which would take it for an id.
    @routes.get(
        "/sagas/counts",
        summary="Count the sagas of each status",
        description="The cost does not grow with the sagas: of each status only so many are "
        "counted, and `has_more` says that there are more.",
    )
    async def count() -> Counts:
        found = await status_counts(desk.database)
        return Counts(
            items=[
                StatusCount(status=it, runs=found[it].runs, has_more=found[it].has_more)
                for it in Status
            ]
        )

    @routes.get(
        "/sagas/{saga}",
        summary="Look at a saga",
        description="The id of a start that was joined to an active saga shows that one, whose "
        "address is the Content-Location then.",
        responses=documented(GONE),
    )
    async def read(saga: SagaId, response: Response) -> SagaOut:
        return await desk.shown(await desk.find(saga, response))

    @routes.get(
        "/sagas/{saga}/history",
        summary="What happened to a saga, oldest first",
        responses=documented(GONE),
    )
    async def history(
        saga: SagaId,
        response: Response,
        after: Annotated[
            int, Query(ge=0, le=2**31 - 1, description="Only lines behind this number")
        ] = 0,
        limit: pages.Limit = DEFAULT_LIMIT,
    ) -> HistoryPage:
        row = await desk.find(saga, response)
        removed = views.history_removed(await desk.archived.removed_history(row))
        if isinstance(row, ArchivedRow):
            left = [it for it in row.history if it.number > after]
            lines, last = cut(left, limit)
            return HistoryPage(
                items=[views.entry(each) for each in lines],
                next_cursor=None if last is None else str(last.number),
                removed=removed,
            )
        rows, following = await queries.history(desk.database, row.id, after=after, limit=limit)
        return HistoryPage(
            items=[views.entry(each) for each in rows],
            next_cursor=None if following is None else str(following),
            removed=removed,
        )

    return routes


def _key(text: str | None, saga: str, body: dict[str, object]) -> IdempotencyKey | None:
    if text is None:
        return None
    # The fingerprint is of the body as sent, not as read: a later version of the state's class may
    # read the same input otherwise, and it is still the same request.
    asked = saga.encode() + b"\0" + strict_json.dumps(body, sort_keys=True)
    return IdempotencyKey(text, hashlib.sha256(asked).digest())


def _wait(prefer: str | None) -> int:
    """The seconds that the client asks to wait (RFC 7240); 0 without such a wish."""
    for preference in (prefer or "").split(","):
        found = _WAIT.fullmatch(preference.partition(";")[0])
        if found is not None:
            return min(int(found[1]), MAX_WAIT)
    return 0
