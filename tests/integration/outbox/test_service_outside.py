"""`Service.outside` between two services: a command, the call that answers it, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

import outbox
from outbox.tables import outbox as outbox_table
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.http.servers import serving
from tests.support.outbox.calls import Lost, Provider
from tests.support.outbox.inboxes import Book, Booked, ledger, ledger_schema, plainly
from tests.support.outbox.services import client_of, make_service
from tests.support.processes.waiting import until


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


def write(session: Session, entry: str, by: str) -> None:
    session.execute(insert(ledger).values(entry=entry, by=by))


def before(session: Session, command: Book, context: outbox.Context) -> object:
    write(session, "before", context.id)
    return {"limit": 100}


def after(
    session: Session, command: Book, reply: Booked | outbox.Refused, context: outbox.Context
) -> None:
    write(session, f"after {context.before['limit']}", context.id)


@pytest.mark.parametrize("ground", ["on the loop", "in threads"])
async def test_a_command_of_no_run_is_asked_for_until_its_call_has_an_answer(
    database_factory: DatabaseFactory,
    make_engine: MakeEngine,
    make_sync_engine: MakeSyncEngine,
    ground: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("outbox.inbox.inbox.PATIENCE", 0.1)
    is_async = ground == "on the loop"
    make: Any = make_engine if is_async else make_sync_engine
    bank, app = make_service(make(database_factory(ledger_schema)), "bank"), FastAPI()
    bank.attach(app)
    provider = Provider(script=[Lost("reset")], is_async=is_async)
    gates = [provider.held(), provider.held()]
    around: Any = plainly if is_async else lambda it: it
    bank.outside(Book, timeout=20, keyed=True, before=around(before), after=around(after))(
        provider.function
    )
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(app))
        await stack.enter_async_context(app.router.lifespan_context(app))
        till = make_service(make_engine(database_factory(ledger_schema)), peers={"bank": address})
        await stack.enter_async_context(till.running())
        async with till.sessions.begin() as session:
            id = outbox.add(session, Book("a"))
        for gate in gates:
            await gate.is_entered()
            async with client_of(app) as client:
                figures = (await client.get("/metrics")).text
            assert "sagabox_outside_calls 1.0" in figures
            gate.open()

        async def has_left() -> bool:
            return not await unsent(till)

        await until(has_left, what="the command is answered", deadline=20)

        async def are_counted() -> bool:
            async with client_of(app) as client:
                figures = (await client.get("/metrics")).text
            counts = [
                f'sagabox_outside_call_seconds_count{{result="{result}"}} 1.0'
                for result in ("no-answer", "done")
            ]
            return all(it in figures for it in (*counts, "sagabox_outside_calls 0.0"))

        await until(are_counted, what="the calls are counted, and none is made")
    assert [(it.id, it.attempt) for it in provider.asked] == [(id, 1), (id, 2)]
    assert provider.effects == [id]
    assert await entries(bank) == ["before", "after 100"]


async def unsent(service: outbox.Service) -> Sequence[str]:
    async with service.sessions() as session:
        return (await session.execute(select(outbox_table.c.id))).scalars().all()


async def entries(service: Any) -> list[str]:
    async with service.engine.connect() as connection:
        found = list(await connection.scalars(select(ledger.c.entry)))
    await service.engine.dispose()  # of a synchronous service it is a twin
    return found
