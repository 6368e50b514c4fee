"""What if the one process dies here, and with it a service and its orchestrator? Every crash point
that a transfer gets to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from orchestrator.cli.terminal.errors import CommandError
from outbox.clock import SystemClock
from outbox.crashpoints import ENVIRONMENT_VARIABLE
from outbox.ids import Ids
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeSyncEngine
from tests.support.orchestrator.embedded import REFUSED, bank_schema
from tests.support.outbox.banks import Running, entries, running
from tests.support.processes import zygote
from tests.support.processes.preparing import noting_crash_points
from tests.support.processes.waiting import until
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.databases("sqlite")]
UVICORN = (
    *(sys.executable, "-m", "uvicorn"),
    "--port",
    "PORT",
    "tests.support.orchestrator.embedded_app:app",
)
_ids = Ids(SystemClock(), os.urandom)


@pytest.fixture
def database_schema() -> Schema:
    return bank_schema


@pytest.fixture
async def one(database: Database, tmp_path: Path) -> AsyncIterator[Running]:
    more = {"BANK_DATABASE_URL": database.url}
    async with running(UVICORN, tmp_path, peers={}, environment=more, begin=zygote.start) as found:
        yield found


@dataclass(frozen=True)
class Asked:
    """A transfer of one entry, on an account of its own."""

    id: str
    entry: str

    async def ask(self, at: Running) -> None:
        """Ask for it, also again: under its id it is one run."""
        async with httpx.AsyncClient(base_url=at.url, timeout=60) as http:
            wanted = {"entry": self.entry, "id": self.id}
            (await http.post(f"/asked/{self.id}", params=wanted)).raise_for_status()

    async def end(self, at: Running) -> str:
        """How it ends."""
        async with httpx.AsyncClient(base_url=at.url, timeout=60) as http:

            async def is_known() -> bool:
                return (await http.get(f"/ends/{self.id}")).is_success

            # What asks for it rests until the lease of the process that died has run out.
            await until(is_known, deadline=60, what="the run is known, and has ended")
            answer = (await http.get(f"/ends/{self.id}")).raise_for_status()
        return str(answer.json()["status"])


def two() -> Sequence[Asked]:
    """One that is confirmed, and one that is refused."""
    id = _ids()
    return Asked(id, f"entry {id}"), Asked(_ids(), REFUSED)


async def test_p1_to_p5_transfers_end_rightly_wherever_the_one_process_is_killed(
    one: Running, database: Database, make_sync_engine: MakeSyncEngine, tmp_path: Path, count: Count
) -> None:
    engine = make_sync_engine(database)
    for point in sorted(await survey(one, tmp_path / "points")):
        try:
            await end_rightly(one, await die(one, f"{point}:1"), engine)
        except BaseException as error:
            error.add_note(f"it died at {point!r}")
            raise
        count("crash points of a service with its orchestrator, each with two transfers", 1)


async def survey(one: Running, notes: Path) -> frozenset[str]:
    """Which points the process reaches in two transfers."""
    usual = one.spec
    one.spec = replace(usual, environment={**usual.environment, **noting_crash_points(notes)})
    child = await one.start()
    for asked in two():
        await asked.ask(one)
        await asked.end(one)
    await child.kill()
    one.spec = usual
    found = frozenset(notes.read_text("utf-8").splitlines())
    assert len(found) > 5
    return found


async def die(one: Running, crash: str) -> Sequence[Asked]:
    """Ask for transfers while the process is on its way to that crash. It is dead then; what was
    asked of it."""
    usual = one.spec
    one.spec = replace(usual, environment={**usual.environment, ENVIRONMENT_VARIABLE: crash})
    asked: list[Asked] = []
    try:
        # What it was left may bring it there before it is ready.
        with contextlib.suppress(CommandError):
            await one.start()
        dead = asyncio.create_task(one.children[-1].wait())
        async with asyncio.timeout(180):
            while not dead.done():
                asked += two()
                with contextlib.suppress(httpx.TransportError):
                    await asyncio.gather(*(it.ask(one) for it in asked[-2:]))
                await asyncio.wait({dead}, timeout=0.5)
        assert one.children[-1].ending == "SIGKILL", one.log
    finally:
        one.spec = usual
    return asked


async def end_rightly(one: Running, asked: Sequence[Asked], engine: Engine) -> None:
    """It comes again: what was asked, and is asked once more, takes effect once or not at all."""
    child = await one.start()
    for it in asked:
        await it.ask(one)
    for it in asked:
        assert await it.end(one) == ("COMPENSATED" if it.entry == REFUSED else "COMPLETED")
    await child.kill()
    found = entries(engine)
    assert REFUSED not in found
    for it in asked:
        if it.entry != REFUSED:
            assert [each for each in found if each.startswith(it.entry)] == [
                it.entry,
                f"{it.entry}, noted",
            ]
