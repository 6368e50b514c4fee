"""Whom the whole service tells of a step that is STUCK: its function, and the services named."""

from __future__ import annotations

import pytest

import orchestrator
from outbox.chassis.settings import InvalidSettings
from outbox.contract import SagaStuck
from outbox.wire.codec import decode
from tests.support.blog.blog import running
from tests.support.databases.databases import Database
from tests.support.orchestrator.engines import Scripted
from tests.support.orchestrator.orchestrating import noted_app, orchestrator_settings
from tests.support.orchestrator.trips import NAMES, TICKET, UNMAKEABLE_ROOM, trip
from tests.support.processes.waiting import until

SAGA = trip(UNMAKEABLE_ROOM, TICKET)


async def test_the_function_and_the_services_that_were_named_are_told(database: Database) -> None:
    called: list[SagaStuck] = []
    desk = Scripted()
    names = [*NAMES, "desk"]
    app = orchestrator.create_app(
        orchestrator_settings(database, stuck_to="desk", poll_interval=0.2),
        sagas=[SAGA],
        participants=dict.fromkeys(names, "http://127.0.0.1:1"),
        transports={**dict.fromkeys(NAMES, Scripted()), "desk": desk},
        on_stuck=called.append,
    )
    async with running(app) as service, app.router.lifespan_context(app):

        async def is_started() -> bool:
            answer = await service.http.post(f"/sagas/{SAGA.name}", json={"trip": "one"})
            return answer.status_code == 202

        await until(is_started, what="the engine has its shards")
        await until(lambda: desk.seen, what="the desk is told")
    (event,) = called
    assert (event.name, event.step) == (SAGA.name, "reserve room")
    assert [decode(SagaStuck, it.data) for it in desk.seen] == called


def test_a_service_that_is_no_participant_keeps_the_orchestrator_from_starting(
    database: Database,
) -> None:
    with pytest.raises(InvalidSettings, match="SAGABOX_STUCK_TO names 'desk'"):
        noted_app(database, stuck_to="desk")
