"""An event stream ends with the key that opened it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from orchestrator.access import sessions, token_keys, tokens
from orchestrator.machine.transition import Entry, Happening
from orchestrator.tables import PLAIN, saga
from outbox.chassis.access.routes import Role
from tests.support.blog.blog import START, Running, running
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import HERE, calling, clock_of, give_token
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    noted_app,
    orchestrator_schema,
    put,
    put_history,
)
from tests.support.processes.waiting import until

OURS = {"origin": "http://127.0.0.1"}
BEGUN = Entry(START, Happening.STARTED, "begin")
ENDED = Entry(START, Happening.ENDED, "COMPLETED")

pytestmark = pytest.mark.databases("sqlite")


@asynccontextmanager
async def listening(
    service: Running, client: httpx.AsyncClient
) -> AsyncIterator[tuple[str, asyncio.Task[httpx.Response]]]:
    """A stream of a run that goes on, once it is open: the run's id, and the whole answer."""
    run = await put(service.chassis.database, begun())
    await put_history(service.chassis.database, run.id, BEGUN)
    watchers = engine_of(service).watchers
    answer = asyncio.create_task(client.get(f"/sagas/{run.id}/events"))
    try:
        await until(lambda: run.id in watchers._watches, what="the stream is open")
        yield run.id, answer
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)


async def over(answer: asyncio.Task[httpx.Response]) -> httpx.Response:
    """The answer, which has to end by itself: the service's clock, which counts, stands still."""
    return await asyncio.wait_for(asyncio.shield(answer), 30)


async def end(service: Running, id: str) -> None:
    """The run ends."""
    database = service.chassis.database
    await put_history(database, id, ENDED, first=2)
    async with database.engine.begin() as connection:
        await connection.execute(
            saga.update().where(saga.c.id == id).values(status="COMPLETED", ended_at=START)
        )
    engine_of(service).watchers.tell([id])


@pytest.mark.parametrize("how", ["bearer", "cookie"])
async def test_a_stream_ends_soon_after_its_token_was_revoked(
    database_factory: DatabaseFactory, how: str
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        database = service.chassis.database
        token = await give_token(database, "ann", Role.VIEWER)
        async with calling(service.app, token=token if how == "bearer" else None) as client:
            if how == "cookie":
                await client.post("/session", json={"token": token}, headers=OURS)
            async with listening(service, client) as (id, answer):
                async with database.engine.begin() as connection:
                    await tokens.revoke(connection, PLAIN, "ann", now=START)
                clock_of(service).advance(token_keys.TRUSTED)
                told = await over(answer)
                assert (told.status_code, told.text.count("event: ")) == (200, 1)
                assert (await client.get(f"/sagas/{id}/events")).status_code == 401


async def test_a_stream_ends_when_its_token_expires(database_factory: DatabaseFactory) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        ends = START + timedelta(seconds=2)
        token = await give_token(service.chassis.database, "ann", Role.VIEWER, expires_at=ends)
        async with (
            calling(service.app, token=token) as client,
            listening(service, client) as (_, answer),
        ):
            clock_of(service).advance(2)
            assert (await over(answer)).status_code == 200


@pytest.mark.parametrize("by", ["time", "sign-out"])
async def test_a_stream_ends_with_its_session_on_this_machine_too(
    database_factory: DatabaseFactory, by: str
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        token = await give_token(service.chassis.database, "ann", Role.VIEWER)
        async with calling(service.app, HERE) as client:
            await client.post("/session", json={"token": token}, headers=OURS)
            async with listening(service, client) as (_, answer):
                if by == "time":
                    clock_of(service).advance(sessions.SESSION_LASTS.total_seconds())
                else:
                    await client.delete("/session", headers=OURS)
                assert (await over(answer)).status_code == 200


@pytest.mark.parametrize("how", ["bearer", "nothing", "stale cookie"])
async def test_a_stream_goes_on_as_long_as_its_key_or_without_one_on_this_machine(
    database_factory: DatabaseFactory, how: str
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        token = await give_token(service.chassis.database, "ann", Role.VIEWER)
        async with calling(service.app, HERE, token if how == "bearer" else None) as client:
            if how == "stale cookie":
                client.cookies.set("sagabox-session", "stale")
            async with listening(service, client) as (id, answer):
                for _ in range(3):
                    clock_of(service).advance(token_keys.TRUSTED)
                    engine_of(service).watchers.tell([id])
                    await asyncio.sleep(0)
                await end(service, id)
                assert (await over(answer)).text.count("event: ") == 2
