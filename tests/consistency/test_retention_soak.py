"""With retention the database has a size that it keeps: at a constant rate of runs, for months."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.engine.settings import EngineSettings
from orchestrator.retention.archive.archive import archive_at
from orchestrator.retention.policy import Policy
from tests.support.databases.databases import Database, Schema
from tests.support.databases.in_time import in_time
from tests.support.orchestrator.engines import orchestrator_tables
from tests.support.orchestrator.nodes import make_ports
from tests.support.orchestrator.retained import Retained, retained
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1_800)]
RUNS_A_DAY = 5
KEPT = 10
"""Days."""
MONTHS = 3


@pytest.fixture
def database_schema() -> Schema:
    return in_time(orchestrator_tables)


async def size_of(engine: AsyncEngine) -> int:
    """The bytes of the database, once what was removed can be used again."""
    if engine.dialect.name == "sqlite":
        async with engine.connect() as connection:
            pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
            return int(pages) * 4096
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with alone.connect() as connection:
        await connection.execute(text("VACUUM"))
        return int(
            (
                await connection.execute(text("SELECT pg_database_size(current_database())"))
            ).scalar_one()
        )


async def a_day(world: Retained, policy: Policy, day: int) -> None:
    for number in range(RUNS_A_DAY):
        await world.run(f"trip {day} {number}")
    await world.days(1)
    await world.forget(policy)
    # What an engine does besides: it forgets the commits whose outcome is known.
    statements = make_ports(world.engine, world.clock).statements
    async with world.engine.begin() as connection:
        await statements.forget_batches(connection, EngineSettings().remember)


async def test_the_size_of_the_database_stays_the_same(
    database: Database, tmp_path: Path, count: Count
) -> None:
    policy = Policy.parse(f"*={KEPT}d,ids={KEPT}d")
    assert policy is not None
    async with retained(database, archive_at(str(tmp_path))) as world:
        sizes, rows = list[int](), list[int]()
        for month in range(MONTHS + 1):
            for day in range(30):
                await a_day(world, policy, 30 * month + day)
            sizes.append(await size_of(world.engine))
            rows.append((await world.counts())["saga"])
        assert set(rows) == {RUNS_A_DAY * KEPT}
        # After the first month everything that is kept is there; then it is one size. The rows of
        # the archive's files are all that grows: one a day here.
        assert max(sizes[1:]) <= sizes[0] * 1.1, sizes
        assert (await world.counts())["saga_alias"] == 0
        count("days of runs that were forgotten", 30 * (MONTHS + 1))
