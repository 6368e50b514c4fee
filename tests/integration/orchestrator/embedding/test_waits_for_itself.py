"""Code within a transaction that would wait for a run which waits for that transaction: it is told
so at once, and not when a database has lost its patience."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from orchestrator.errors import WaitsForItself
from outbox import sqlite
from outbox.sqlite import READ_ONLY
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.orchestrator.embedded import TRANSFER, Bank, Transfer
from tests.support.outbox.inboxes import envelope, ledger_schema, write_entry
from tests.support.processes.waiting import until

A_RUN = "0190a000-0000-7000-8000-000000000001"
A_MESSAGE = "0190a000-0000-7000-8000-000000000002"


@dataclass(frozen=True)
class Poke(outbox.Command[None], type="bank.poke.v1", key="account"):
    account: str


async def starts(it: Bank, _session: AsyncSession) -> None:
    await it.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))


async def waits(it: Bank, _session: AsyncSession) -> None:
    await it.orchestrator.client.run(A_RUN).wait(20)


async def cancels(it: Bank, _session: AsyncSession) -> None:
    await it.orchestrator.client.run(A_RUN).cancel("why not")


async def waits_beside(it: Bank, session: AsyncSession) -> None:
    """The task is another one, and the transaction waits for it."""
    await asyncio.gather(waits(it, session))


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("does", [starts, waits, cancels, waits_beside])
async def test_code_within_a_write_transaction_of_the_same_file_is_refused_at_once(
    one: Bank, does: Callable[[Bank, AsyncSession], Awaitable[None]]
) -> None:
    async with one.running(), one.service.sessions() as session:
        await write_entry(session, "written before", A_RUN)
        with pytest.raises(WaitsForItself, match=r"within a transaction that writes to .*sqlite"):
            await does(one, session)
        await session.rollback()


@pytest.mark.databases("sqlite")
async def test_a_handler_that_starts_a_run_and_waits_for_it_is_refused_at_once(
    one: Bank,
) -> None:
    told: list[Exception] = []

    @one.service.on(Poke)
    async def poke(session: AsyncSession, command: Poke, _: outbox.Context) -> None:
        try:
            await starts(one, session)
        except WaitsForItself as error:
            told.append(error)
            raise

    async with one.running():
        poked = envelope(A_MESSAGE, Poke("ada"))
        (reply,) = await asyncio.wait_for(one.service.inbox.receive([poked]), 30)
    assert reply.outcome is outbox.Outcome.FAILED
    assert "start it by service.start(session, ...)" in str(told[0])


@pytest.mark.databases("sqlite")
async def test_after_the_transaction_and_in_one_that_only_reads_the_same_code_is_let_through(
    one: Bank,
) -> None:
    async with one.running():
        async with one.service.sessions.begin() as session:
            await write_entry(session, "written before", A_RUN)
        async with one.service.sessions(execution_options=READ_ONLY) as session:
            await session.execute(outbox.tables.inbox.select())
            run = await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        assert (await run.wait(20)).status == "COMPLETED"


@pytest.mark.databases("sqlite")
async def test_a_write_to_another_file_is_in_nothings_way(
    one: Bank, database_factory: DatabaseFactory, make_engine: MakeEngine
) -> None:
    other = make_engine(database_factory(ledger_schema))
    sqlite.configure(other)
    async with one.running(), AsyncSession(other) as session, session.begin():
        await write_entry(session, "written before", A_RUN)
        run = await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
    assert run.id


@pytest.mark.databases("postgresql")
async def test_a_wait_for_a_run_that_this_very_transaction_asks_for_is_refused(one: Bank) -> None:
    client = one.orchestrator.client
    async with one.running():
        async with one.service.sessions.begin() as session:
            run = one.service.start(session, TRANSFER, Transfer("ada", "one"))
            with pytest.raises(WaitsForItself, match="by a transaction that has not committed"):
                await client.run(run).wait(20)
        await until(lambda: run in one.ends.told, what="it ends once the transaction has")
        assert (await client.run(run).wait(20)).status == "COMPLETED"
        async with one.service.sessions() as session:
            await session.begin()
            run = one.service.start(session, TRANSFER, Transfer("bob", "one"))
            await session.rollback()
        with pytest.raises(TimeoutError):
            await client.run(run).wait(0)
