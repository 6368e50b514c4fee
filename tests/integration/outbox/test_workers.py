"""Services in several worker processes of a server: each has a relay, and none begins too early."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import Engine, func, select

from outbox.replies import Outcome
from outbox.tables import outbox_relay
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database, Kind, Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.banks import (
    Listener,
    Running,
    bank,
    entries,
    pipe,
    press,
    reached,
)
from tests.support.outbox.inboxes import ledger_schema
from tests.support.outbox.services import NOWHERE, SECRETS
from tests.support.processes.waiting import until

pytestmark = pytest.mark.slow

_WSGI = "tests.support.outbox.bank_wsgi"
WITHOUT_HOOKS = (
    *(sys.executable, "-m", "gunicorn", "--preload", "--threads", "4", "--bind", "127.0.0.1:PORT"),
    f"{_WSGI}:application",
)
GUNICORN = (*WITHOUT_HOOKS, "--config", f"python:{_WSGI}")
UVICORN = (sys.executable, "-m", "uvicorn", "--port", "PORT", "tests.support.outbox.bank_asgi:app")
_SERVERS = {"gunicorn": GUNICORN, "uvicorn": UVICORN}


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
def plain(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


def relays(engine: Engine) -> int:
    """How many relays have said that they are alive."""
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(outbox_relay)) or 0


def workers(master: int) -> list[psutil.Process]:
    """The processes that a server started to answer requests."""
    return [it for it in psutil.Process(master).children() if _works(it)]


def _works(process: psutil.Process) -> bool:
    try:
        # Python's own, which runs beside uvicorn's.
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False  # it has ended


async def taken(running: Running, entry: str) -> bool:
    """Whether a booking was taken: not where its worker died with it."""
    try:
        reply = await running.book(entry)
    except (AssertionError, httpx.HTTPError):
        return False
    return reply.outcome is Outcome.DONE


@pytest.mark.parametrize("server", _SERVERS)
async def test_each_worker_has_a_relay_and_one_that_dies_is_replaced(
    server: str, database: Database, paper: Listener, plain: Engine, tmp_path: Path
) -> None:
    command = (*_SERVERS[server], "--workers", "2")
    async with bank(command, database, tmp_path, press_at=paper.address) as running:
        master = await running.start()
        # And none in the master, which loaded the application before it forked.
        await until(lambda: relays(plain) == 2, 30, what="both relays are there")
        sent = [f"entry {number}" for number in range(20)]
        for position, entry in enumerate(sent):
            if position == 10:
                os.kill(workers(master.pid)[0].pid, signal.SIGKILL)
            await until(partial(taken, running, entry), 30, what="it is taken")
        await until(lambda: {*paper.heard} == {*sent}, 60, what="the press hears of all")
        await until(lambda: len(workers(master.pid)) == 2, 30, what="there are two workers again")
        assert await master.stop(90) == 0, running.log
    assert {*entries(plain)} == {*sent}
    assert sorted(paper.heard) == sorted(entries(plain))
    assert "Traceback" not in running.log, running.log


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("command", [GUNICORN, WITHOUT_HOOKS], ids=["hooks", "no hooks"])
async def test_a_worker_that_is_told_to_end_waits_for_its_handlers(
    command: tuple[str, ...], database: Database, plain: Engine, tmp_path: Path
) -> None:
    async with bank(command, database, tmp_path, press_at=NOWHERE) as running:
        master = await running.start()
        with pipe(tmp_path) as path:
            sending = asyncio.create_task(running.book(f"pipe:{path}"))
            waits = await reached(path)
            reply = await sending
            assert reply.outcome is Outcome.ONGOING, reply
            stopping = asyncio.create_task(master.stop(90))
            await until(lambda: "Worker exiting" in running.log, 30, what="the worker is told")
            assert entries(plain) == []
            waits.close()
            assert await stopping == 0, running.log
        assert entries(plain) == [f"pipe:{path}"]


def test_a_process_that_is_forked_from_a_running_one_begins_anew(
    database: Database, plain: Engine
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.outbox.bank_forked"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BANK_DATABASE_URL": database.sync_url,
            "SAGABOX_PEERS": f"press={NOWHERE}",
            "SAGABOX_SECRETS": SECRETS,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    if database.kind is Kind.SQLITE:
        assert done.stdout == "child: 503 503 refused\nparent: 200 200 runs\n", done.stderr
        assert "SQLite does not outlive that" in done.stderr
        assert entries(plain) == ["by the parent"]
    else:
        assert done.stdout == "child: 200 200 runs\nparent: 200 200 runs\n", done.stderr
        assert entries(plain) == ["by the child", "by the parent"]
