"""`sagabox run`: a service of the caller's own as a process, which dies and comes again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from outbox.chassis.span_export import ENDPOINT
from outbox.crashpoints import ENVIRONMENT_VARIABLE
from outbox.replies import Outcome
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import explained
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.banks import BIN, Listener, Running, bank, entries, pipe, press, reached
from tests.support.outbox.inboxes import ledger_schema
from tests.support.outbox.services import SECRETS
from tests.support.processes.cli import sagabox
from tests.support.processes.waiting import free_port, until
from tests.support.telemetry.collector import collecting

pytestmark = pytest.mark.slow

RUN = (str(BIN / "sagabox"), "run", "tests.support.outbox.bank:service", "--port", "PORT")
AN_ID = "01900000-0000-7000-8000-000000000001"


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
async def paper(
    database_factory: DatabaseFactory, make_engine: MakeEngine
) -> AsyncIterator[Listener]:
    async with press(make_engine(database_factory(ledger_schema))) as found:
        yield found


@pytest.fixture
async def running(database: Database, paper: Listener, tmp_path: Path) -> AsyncIterator[Running]:
    async with bank(RUN, database, tmp_path, press_at=paper.address) as found:
        yield found


@pytest.fixture
def plain(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


async def test_a_service_that_is_killed_goes_on_where_it_was(
    running: Running, paper: Listener, plain: Engine
) -> None:
    first = await running.start()
    reply = await running.book("before", id=AN_ID)
    assert reply.outcome is Outcome.DONE, reply
    await until(lambda: paper.heard == ["before"], what="the press hears of it")
    await first.kill()
    again = await running.start()
    assert await running.book("before", id=AN_ID) == reply
    await running.book("after")
    await until(lambda: paper.heard == ["before", "after"], what="the press hears of both")
    assert entries(plain) == ["before", "after"]
    assert await again.stop() == 0


async def test_what_was_committed_before_the_death_leaves_and_is_answered_after_it(
    database: Database, paper: Listener, plain: Engine, tmp_path: Path
) -> None:
    dying = {ENVIRONMENT_VARIABLE: "inbox: after commit, before reply:1"}
    async with bank(RUN, database, tmp_path, press_at=paper.address, environment=dying) as once:
        child = await once.start()
        with pytest.raises(AssertionError, match="Unreachable"):
            await once.book("an entry", id=AN_ID)
        assert await child.wait() == -signal.SIGKILL
    async with bank(RUN, database, tmp_path, press_at=paper.address) as again:
        await again.start()
        reply = await again.book("an entry", id=AN_ID)
        assert reply.outcome is Outcome.DONE
        await until(lambda: paper.heard == ["an entry"], what="the press hears of it")
    assert entries(plain) == ["an entry"]


async def test_health_and_figures_are_there_and_nothing_else(running: Running) -> None:
    await running.start()
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert "relay" in (await client.get("/readyz")).json()["checks"]
        assert "sagabox_relay_running 1.0" in (await client.get("/metrics")).text
        assert (await client.post("/messages", content=b"[]")).status_code == 401
        assert (await client.get("/else")).json()["code"] == "unknown-address"
        too_many_lines = [(f"x-{number}", "x") for number in range(101)]
        assert (await client.get("/livez", headers=too_many_lines)).status_code == 431


@pytest.mark.databases("sqlite")
async def test_its_spans_go_to_the_collector_under_its_name(
    database: Database, paper: Listener, tmp_path: Path
) -> None:
    async with collecting() as collector:
        told = {ENDPOINT: collector.address}
        async with bank(RUN, database, tmp_path, press_at=paper.address, environment=told) as it:
            child = await it.start()
            await it.book("an entry", id=AN_ID)
            await until(lambda: paper.heard == ["an entry"], what="the press hears of it")
            assert await child.stop() == 0
    handled = {(it.service, it.name.split(".")[0]) for it in collector.spans}
    assert ("bank", "process bank") in handled


@pytest.mark.databases("sqlite")
async def test_a_service_is_served_below_the_prefix_of_a_proxy(
    database: Database, paper: Listener, tmp_path: Path
) -> None:
    command = (*RUN, "--root-path", "/shop")
    async with bank(command, database, tmp_path, press_at=paper.address) as found:
        await found.start()
        async with httpx.AsyncClient(base_url=found.url, trust_env=False, timeout=30) as client:
            for path in ("/shop/livez", "/livez"):
                assert (await client.get(path)).json() == {"status": "alive"}
        reply = await replace(found, url=f"{found.url}/shop").book("an entry")
        assert reply.outcome is Outcome.DONE, reply


@pytest.mark.databases("sqlite")
async def test_it_listens_for_grpc_where_it_is_told_to(
    database: Database, paper: Listener, tmp_path: Path
) -> None:
    port = free_port()
    command = (*RUN, "--grpc-port", str(port))
    async with bank(command, database, tmp_path, press_at=paper.address) as found:
        await found.start()
        reply = await replace(found, url=f"grpc://127.0.0.1:{port}").book("an entry")
        assert reply.outcome is Outcome.DONE, reply


def test_a_prefix_that_is_none_is_told() -> None:
    told = sagabox("run", "stock", "--root-path", "shop/", "--port", str(free_port()))
    happened, why, next_step = explained(told)
    assert happened == "the service cannot be served below that prefix"
    assert "'shop/' is no prefix of paths" in why
    assert next_step == "--root-path /shop"


@pytest.mark.databases("postgresql")
async def test_a_handler_in_hand_ends_before_the_service_does(
    running: Running, plain: Engine, tmp_path: Path
) -> None:
    child = await running.start()
    with pipe(tmp_path) as path:
        sending = asyncio.create_task(running.book(f"pipe:{path}"))
        waits = await reached(path)
        stopping = asyncio.create_task(child.stop(30))
        reply = await sending
        assert reply.outcome is Outcome.ONGOING, reply
        assert entries(plain) == []
        waits.close()
        assert await stopping == 0, running.log
    assert entries(plain) == [f"pipe:{path}"]


# --- Errors ---------------------------------------------------------------------------------------


def test_a_database_without_the_tables_is_told(tmp_path: Path) -> None:
    """And a module of the folder that the command is typed in is found."""
    (tmp_path / "stock.py").write_text(
        "import outbox\n"
        "from sqlalchemy import create_engine\n"
        "service = outbox.Service('stock', create_engine('sqlite:///stock.sqlite'))\n"
    )
    done = subprocess.run(
        [str(BIN / "sagabox"), "run", "stock", "--port", str(free_port())],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SAGABOX_SECRETS": SECRETS},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    happened, next_step = done.stderr.splitlines()[-2:]
    assert "has none of the library's tables" in happened
    assert "call outbox.schema.upgrade(" in next_step


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        happened, why, next_step = explained(sagabox("run", "stock", "--port", port))
    assert happened == f"port {port} of 127.0.0.1 cannot be used"
    assert why == "another program listens there"
    assert "sagabox run stock --port N" in next_step
