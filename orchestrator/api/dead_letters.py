"""The routes to the orchestrator's dead letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from orchestrator.api.context import ApiContext
from orchestrator.api.models import DeadLetterOut, Redriven, Redriving
from outbox import dead_letters
from outbox.chassis.http import pages
from outbox.chassis.http.input_types import ID_PREFIX, NO_NUL, ids_that_begin
from outbox.chassis.http.problems import HttpProblem, documented
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.database.pages import DEFAULT_LIMIT
from outbox.errors import BelongsToSaga, ForgottenByReceiver


def router(desk: ApiContext) -> APIRouter:
    """The router of these addresses."""
    routes = APIRouter(prefix="/dead-letters", tags=["dead letters"], route_class=StrictRoute)

    @routes.get("", summary="List the messages that were given up, the last one first")
    async def list_dead(
        destination: Annotated[
            str | None,
            Query(max_length=100, pattern=NO_NUL, description="Only those for this service"),
        ] = None,
        id_prefix: Annotated[
            str | None,
            Query(
                pattern=ID_PREFIX,
                description="Only those whose id begins so, in the form that was given out",
            ),
        ] = None,
        limit: pages.Limit = DEFAULT_LIMIT,
        cursor: pages.Cursor = None,
    ) -> pages.Page[DeadLetterOut]:
        async with desk.database.reading.connect() as connection:
            found = await dead_letters.list_dead(
                connection,
                destination=destination,
                ids=None if id_prefix is None else ids_that_begin(id_prefix),
                limit=limit,
                cursor=cursor,
                tables=desk.database.tables,
            )
        items = [DeadLetterOut(**asdict(letter)) for letter in found.items]
        return pages.Page(items=items, next_cursor=found.next_cursor)

    @routes.post(
        "/redrive",
        summary="Send dead letters again, all of them or none",
        responses=documented(
            {
                404: "One of them is no dead letter",
                409: "One of them is a saga's command, or too-old and not to be sent as new",
            }
        ),
    )
    async def redrive(asked: Redriving) -> Redriven:
        try:
            done = await _redriven(desk, asked)
        except BelongsToSaga as error:
            raise HttpProblem(
                409,
                "belongs-to-saga",
                error.problem,
                next_step=f"{error.next_step}: sagabox retry SAGA --reason REASON",
            ) from error
        except ForgottenByReceiver as error:
            raise HttpProblem(
                409,
                "forgotten-by-receiver",
                error.problem,
                next_step="Find out whether it took effect there; where it did not, send it as a "
                "new message: sagabox dead-letters redrive ID --as-new (as_new over HTTP).",
            ) from error
        desk.bell.ring()
        return done

    return routes


async def _redriven(desk: ApiContext, asked: Redriving) -> Redriven:
    tables = desk.database.tables
    async with desk.database.engine.begin() as connection:
        if not asked.as_new:
            count = await dead_letters.redrive(
                connection, asked.ids, destination=asked.destination, tables=tables
            )
            return Redriven(redriven=count)
        renamed = await dead_letters.redrive_as_new(
            connection,
            asked.ids,
            destination=asked.destination,
            new_id=desk.ids,
            now=desk.clock.now(),
            tables=tables,
        )
        return Redriven(redriven=len(renamed), new_ids=dict(renamed))
