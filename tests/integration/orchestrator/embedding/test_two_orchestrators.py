"""Two orchestrators at one participant: each has a name, tables and ends of its own."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

import orchestrator
import outbox
from outbox.tables import Tables, inbox
from tests.support.databases.databases import Schema
from tests.support.orchestrator.embedded import (
    REFUSED,
    TRANSFER,
    Bank,
    Transfer,
    bank,
    bank_schema,
    transfer,
)
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.processes.waiting import until

OFFICE = Tables(prefix="office_")


@pytest.fixture
def database_schema() -> Schema:
    def both(connection: Connection) -> None:
        bank_schema(connection)
        orchestrator_schema(connection, OFFICE)

    return both


@pytest.fixture
def two(engine: AsyncEngine) -> tuple[Bank, Bank]:
    """The bank with each of its two orchestrators, in one application."""
    one = bank(engine)
    office = orchestrator.attach(
        one.app,
        engine,
        sagas=[transfer],
        peers={"bank": one.service},
        name="office",
        prefix="/office",
        tables=OFFICE,
    )
    return one, Bank(one.app, one.service, office, one.ends)


async def test_the_runs_of_both_end_and_each_end_is_told(two: tuple[Bank, Bank]) -> None:
    async with two[0].running():
        asked = {
            it.orchestrator.name: await it.ask(it.orchestrator.name, entry)
            for it, entry in zip(two, ("one", REFUSED), strict=True)
        }
        await until(lambda: set(asked.values()) <= set(two[0].ends.told), what="both ends are told")
        assert two[0].ends.told[asked["orchestrator"]] == "COMPLETED"
        assert two[0].ends.told[asked["office"]] == "COMPENSATED"
        for it in two:
            other = asked["office" if it.orchestrator.name == "orchestrator" else "orchestrator"]
            with pytest.raises(orchestrator.OrchestratorError, match="there is no saga"):
                await it.orchestrator.client.run(other).get()
    assert await two[0].entries() == ["one", "one, noted"]


async def test_the_participant_knows_of_each_command_whose_it_is(two: tuple[Bank, Bank]) -> None:
    async with two[0].running():
        for it in two:
            run = await it.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
            assert (await run.wait(20)).status == "COMPLETED"
    async with two[0].service.sessions() as session:
        rows = (
            await session.execute(select(inbox.c.source, func.count()).group_by("source"))
        ).all()
    assert sorted(map(tuple, rows)) == [("office", 3), ("orchestrator", 3)]
    assert set(two[0].service.reached) == {"office", "orchestrator"}


@pytest.mark.databases("sqlite")
def test_a_second_one_of_the_same_name_is_refused_as_its_participant_could_not_tell_them_apart(
    engine: AsyncEngine,
) -> None:
    one = bank(engine)
    with pytest.raises(outbox.InvalidService, match=r"have the name orchestrator.*name=\.\.\."):
        orchestrator.attach(
            one.app,
            engine,
            sagas=[transfer],
            peers={"bank": one.service},
            prefix="/office",
            tables=OFFICE,
        )
