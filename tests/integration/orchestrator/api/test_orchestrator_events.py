"""The stream of what happens to a saga."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.api import events
from orchestrator.api.context import ApiContext
from orchestrator.api.events import Places, entries
from orchestrator.cli.terminal.sse import Event
from orchestrator.cli.terminal.sse import events as read_events
from orchestrator.machine.instance import Instance, Status
from orchestrator.machine.transition import Entry, Happening
from orchestrator.retention.lookup import ArchivedRuns
from orchestrator.tables import saga, saga_history
from outbox.chassis.http.problems import HttpProblem
from tests.support.blog.blog import START, Running, new_id, running
from tests.support.databases.databases import Database
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    noted_app,
    problem,
    put,
    put_alias,
    put_history,
)

BEGUN = Entry(START, Happening.STARTED, "begin")
SENT = Entry(START, Happening.SENT, "articles.hide-article.v1", "hide article")
ENDED = Entry(START, Happening.ENDED, "COMPLETED")


async def _run(orchestrator: Running, *lines: Entry, ended: bool = False) -> Instance[Any]:
    run = replace(begun(), ended=Status.COMPLETED) if ended else begun()
    await put(orchestrator.chassis.database, run)
    if lines:
        await put_history(orchestrator.chassis.database, run.id, *lines)
    return run


def _desk(orchestrator: Running) -> ApiContext:
    chassis = orchestrator.chassis
    service = chassis.service
    return ApiContext(
        engine_of(orchestrator),
        service.database,
        service.clock,
        service.bell,
        chassis._blueprint.keys,
        chassis._kit.stopping,
        service.new_id,
        lambda: service.addresses,
        ArchivedRuns(service.database, None),
    )


def _stream(
    orchestrator: Running, id: str, after: int, *, heartbeat: float = events.HEARTBEAT
) -> AsyncGenerator[bytes, None]:
    """What anybody hears who may listen for good."""

    async def may_look() -> bool:
        return True

    return entries(_desk(orchestrator), id, after, may_look=may_look, heartbeat=heartbeat)


def _told(chunk: bytes) -> Event:
    (event,) = read_events(chunk.decode().split("\n"))
    return event


async def test_an_ended_saga_is_told_from_its_beginning_to_its_end(orchestrator: Running) -> None:
    run = await _run(orchestrator, BEGUN, SENT, ENDED, ended=True)
    answer = await orchestrator.http.get(f"/sagas/{run.id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = list(read_events(answer.text.split("\n")))
    assert [(it.id, it.name) for it in found] == [("1", "started"), ("2", "sent"), ("3", "ended")]
    assert json.loads(found[1].data) == {
        "number": 2,
        "at": "2030-01-01T12:00:00Z",
        "happening": "sent",
        "detail": "articles.hide-article.v1",
        "step": "hide article",
        "command_id": None,
        "actor": None,
        "status": "COMPLETED",
    }
    assert engine_of(orchestrator).watchers._watches == {}


@pytest.mark.parametrize(("last", "ids"), [("1", ["2", "3"]), ("3", []), ("99", [])])
async def test_a_stream_goes_on_behind_the_last_event_that_was_seen(
    orchestrator: Running, last: str, ids: list[str]
) -> None:
    run = await _run(orchestrator, BEGUN, SENT, ENDED, ended=True)
    answer = await orchestrator.http.get(f"/sagas/{run.id}/events", headers={"last-event-id": last})
    assert [it.id for it in read_events(answer.text.split("\n"))] == ids


async def test_a_last_event_that_is_no_number_is_refused(orchestrator: Running) -> None:
    run = await _run(orchestrator, BEGUN)
    answer = await orchestrator.http.get(f"/sagas/{run.id}/events", headers={"last-event-id": "x"})
    problem(answer, 422, "invalid-request")


async def test_the_stream_of_a_joined_start_is_that_of_the_active_saga(
    orchestrator: Running,
) -> None:
    run, alias = await _run(orchestrator, BEGUN, ENDED, ended=True), new_id()
    await put_alias(orchestrator.chassis.database, alias, of=run.id)
    answer = await orchestrator.http.get(f"/sagas/{alias}/events")
    assert answer.headers["content-location"] == f"/sagas/{run.id}/events"
    assert answer.text.count("event: ") == 2


async def test_a_long_history_is_read_in_parts(
    orchestrator: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_PAGE", 2)
    run = await _run(orchestrator, BEGUN, SENT, SENT, SENT, ENDED, ended=True)
    answer = await orchestrator.http.get(f"/sagas/{run.id}/events")
    assert [it.id for it in read_events(answer.text.split("\n"))] == ["1", "2", "3", "4", "5"]


async def test_lines_that_have_gone_do_not_hold_up_the_stream(orchestrator: Running) -> None:
    run = await _run(orchestrator, BEGUN, SENT, ENDED, ended=True)
    async with orchestrator.chassis.database.engine.begin() as connection:
        await connection.execute(saga_history.delete().where(saga_history.c.number > 1))
    answer = await asyncio.wait_for(orchestrator.http.get(f"/sagas/{run.id}/events"), 10)
    assert answer.text.count("event: ") == 1


async def _next(stream: AsyncGenerator[bytes, None]) -> bytes:
    return await asyncio.wait_for(anext(stream), 10)


@pytest.mark.parametrize("told", [True, False], ids=["told", "found"])
async def test_what_is_committed_while_a_client_watches_is_told(
    orchestrator: Running, told: bool
) -> None:
    run = await _run(orchestrator, BEGUN)
    stream = _stream(orchestrator, run.id, 0)
    assert _told(await _next(stream)).name == "started"
    upcoming = asyncio.create_task(_next(stream))
    await asyncio.sleep(0)
    database = orchestrator.chassis.database
    await put_history(database, run.id, ENDED, first=2)
    async with database.engine.begin() as connection:
        await connection.execute(
            saga.update().where(saga.c.id == run.id).values(status="COMPLETED", ended_at=START)
        )
    if told:
        engine_of(orchestrator).watchers.tell([run.id])
    event = _told(await upcoming)
    assert (event.id, event.name) == ("2", "ended")
    with pytest.raises(StopAsyncIteration):
        await _next(stream)


async def test_a_silent_stream_says_that_it_is_alive(orchestrator: Running) -> None:
    run = await _run(orchestrator, BEGUN)
    stream = _stream(orchestrator, run.id, 1, heartbeat=0.1)
    assert (await _next(stream)).startswith(b":")
    await stream.aclose()


async def test_a_stream_ends_when_the_service_stops(orchestrator: Running) -> None:
    run = await _run(orchestrator, BEGUN)
    stream = _stream(orchestrator, run.id, 1)
    upcoming = asyncio.create_task(_next(stream))
    await asyncio.sleep(0)
    orchestrator.chassis._kit.stopping.set()
    with pytest.raises(StopAsyncIteration):
        await upcoming


def test_there_are_so_many_places_and_they_are_given_back() -> None:
    places = Places(2)
    places.take()
    places.take()
    with pytest.raises(HttpProblem) as refused:
        places.take()
    assert (refused.value.status, refused.value.code) == (503, "too-many-streams")
    places.give_back()
    places.take()


async def test_streams_give_their_places_back(database: Database) -> None:
    async with running(noted_app(database)) as orchestrator:
        run = await _run(orchestrator, BEGUN, ENDED, ended=True)
        for _ in range(events.MAX_STREAMS + 1):
            answer = await orchestrator.http.get(f"/sagas/{run.id}/events")
            assert answer.status_code == 200


async def test_more_streams_than_allowed_are_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 0)
    async with running(noted_app(database)) as orchestrator:
        run = await _run(orchestrator, BEGUN)
        answer = await orchestrator.http.get(f"/sagas/{run.id}/events")
        assert problem(answer, 503, "too-many-streams")
        assert "retry-after" in answer.headers
