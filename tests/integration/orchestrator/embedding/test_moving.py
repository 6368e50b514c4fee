"""An orchestrator that moves to a process of its own, or back, with runs in flight: the tables are
the same, and only the process is another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

import orchestrator
import outbox
from orchestrator.embedding.attach import TABLES
from orchestrator.settings import OrchestratorSettings
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.http.servers import serving
from tests.support.orchestrator.embedded import (
    TRANSFER,
    Bank,
    Ends,
    Transfer,
    add_handlers,
    bank,
    transfer,
)
from tests.support.outbox.services import SECRETS
from tests.support.processes.waiting import free_port, until


@asynccontextmanager
async def served(app: FastAPI, port: int) -> AsyncIterator[None]:
    async with serving(app, at=port), app.router.lifespan_context(app):
        yield


@asynccontextmanager
async def apart(
    database: Database, engine: AsyncEngine, ends: Ends
) -> AsyncIterator[outbox.Service]:
    """The bank, and beside it what `sagabox serve orchestrator` runs, by HTTP."""
    at_bank = free_port(in_a_row=2)
    at_orchestrator = at_bank + 1
    settings = OrchestratorSettings(
        database_url=database.url, table_prefix=TABLES.prefix, secrets=SECRETS, poll_interval=0.2
    )
    alone = orchestrator.create_app(
        settings,
        sagas=[transfer],
        participants={"bank": f"http://127.0.0.1:{at_bank}"},
    )
    peers = {"orchestrator": f"http://127.0.0.1:{at_orchestrator}"}
    service, app = outbox.Service("bank", engine, peers=peers, secrets=SECRETS), FastAPI()
    add_handlers(service, ends)
    service.attach(app)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(served(app, at_bank))
        await stack.enter_async_context(served(alone, at_orchestrator))
        yield service


async def test_runs_in_flight_go_on_in_a_process_of_its_own_and_come_back(
    database: Database, one: Bank, make_engine: MakeEngine
) -> None:
    async def are_booked(*entries: str) -> bool:
        return set(entries) <= set(await one.entries())

    one.ends.holds = True
    async with one.running():
        unasked = (await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))).id
        first = await one.ask("bob", "two")
        await until(lambda: are_booked("one", "two"), what="both have begun")
    ends = Ends(holds=True)
    async with apart(database, make_engine(database), ends) as service:
        async with service.sessions.begin() as session:
            second = service.start(session, TRANSFER, Transfer("cy", "three"))
        await until(lambda: are_booked("three"), what="it has begun")
        ends.holds = False
        await until(lambda: first in ends.told, what="its end is told")
        ends.holds = True
        async with service.sessions.begin() as session:
            third = service.start(session, TRANSFER, Transfer("di", "four"))
        await until(lambda: are_booked("four"), what="it has begun")
    back = bank(make_engine(database))
    async with back.running():
        for run in (unasked, second, third):
            assert (await back.orchestrator.client.run(run).wait(20)).status == "COMPLETED"
        await until(lambda: third in back.ends.told, what="its end is told")
    told = {**one.ends.told, **ends.told, **back.ends.told}
    assert told == dict.fromkeys((first, second, third), "COMPLETED")
    noted = {f"{it}{end}" for it in ("one", "two", "three", "four") for end in ("", ", noted")}
    assert sorted(await one.entries()) == sorted(noted)
