"""P1 at a crash: the process dies at each point of a commit, and the message shares its fate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from outbox.adding.add import add
from outbox.adding.installation import install
from outbox.crashpoints import ENVIRONMENT_VARIABLE
from outbox.testing import crash_at
from tests.support.databases.databases import Database
from tests.support.outbox.producers import ROUTES, Noted, Thing, texts, things

pytestmark = pytest.mark.slow

POINTS = {
    "outbox: after drain, before commit": False,
    "outbox: after commit, before bell": True,
}
"""Each crash point of a commit, and whether what was committed survives."""

SERVICE = textwrap.dedent(
    """
    import asyncio, sys
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from outbox.adding.installation import install
    from outbox.adding.add import add
    from tests.support.databases.databases import configured
    from tests.support.outbox.producers import ROUTES, Noted, Thing

    async def main():
        engine = configured(create_async_engine(sys.argv[1]))
        sessions = async_sessionmaker(engine)
        install(sessions, source="things", routes=ROUTES)
        for number in range(1, 4):
            async with sessions.begin() as session:
                session.add(Thing(name=str(number)))
                add(session, Noted("a", str(number)))
        await engine.dispose()

    asyncio.run(main())
    """
)


def kept(engine: Engine) -> tuple[list[str], list[str]]:
    with Session(engine) as session:
        return things(session), texts(engine)


@pytest.mark.parametrize("point", POINTS)
def test_p1_a_killed_process_leaves_rows_and_messages_together(
    engine: Engine, database: Database, point: str
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SERVICE, database.url],
        env=os.environ | {ENVIRONMENT_VARIABLE: f"{point}:2"},
        timeout=60,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    expected = ["1", "2"] if POINTS[point] else ["1"]
    assert kept(engine) == (expected, expected)


@pytest.mark.parametrize("point", POINTS)
def test_p1_a_crash_within_a_test_ends_as_that_of_a_process(engine: Engine, point: str) -> None:
    sessions = sessionmaker(engine)
    install(sessions, source="things", routes=ROUTES)
    with crash_at(point), sessions.begin() as session:
        session.add(Thing(name="1"))
        add(session, Noted("a", "1"))
    expected = ["1"] if POINTS[point] else []
    assert kept(engine) == (expected, expected)
