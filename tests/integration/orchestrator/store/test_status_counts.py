"""The runs of each status are counted in one statement, and counting has an end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from orchestrator.machine.instance import Status
from orchestrator.store import status_counts as module
from orchestrator.store.status_counts import Counted, status_counts
from orchestrator.tables import saga
from outbox.database.opening import Database
from tests.support.outbox.letters import an_id

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
NONE = Counted(0, has_more=False)


def opened(engine: AsyncEngine) -> Database:
    """The database behind that engine."""
    return Database(engine, async_sessionmaker(engine), engine)


async def put(engine: AsyncEngine, status: Status, first: int, count: int) -> None:
    """That many runs of that status, in bulk."""
    rows = [
        {
            **{"id": an_id(it), "shard": 0, "name": "n", "version": 1, "key": "k"},
            **{"status": status.value, "paused": False, "state": "{}", "document": "{}"},
            **{"revision": 1, "entries": 0, "created_at": START, "updated_at": START},
        }
        for it in range(first, first + count)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(saga), rows)


async def test_runs_are_counted_by_their_status(engine: AsyncEngine) -> None:
    await put(engine, Status.STUCK, 1, 2)
    await put(engine, Status.COMPLETED, 10, 3)
    expected = dict.fromkeys(Status, NONE) | {
        Status.STUCK: Counted(2, has_more=False),
        Status.COMPLETED: Counted(3, has_more=False),
    }
    assert await status_counts(opened(engine)) == expected


@pytest.mark.parametrize(
    ("runs", "counted"),
    [(2, Counted(2, has_more=False)), (3, Counted(2, has_more=True))],
)
async def test_counting_ends_at_the_limit_and_says_so(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, runs: int, counted: Counted
) -> None:
    monkeypatch.setattr(module, "COUNTED_UP_TO", 2)
    await put(engine, Status.RUNNING, 1, runs)
    assert (await status_counts(opened(engine)))[Status.RUNNING] == counted


async def test_counting_is_one_statement_that_reads_the_index_alone(engine: AsyncEngine) -> None:
    """However many runs there are: the tables hold enough that the planner has a choice."""
    await put(engine, Status.COMPLETED, 1, 3000)
    statements: list[tuple[str, Any]] = []

    def note(_: Connection, __: object, statement: str, values: Any, *___: object) -> None:
        statements.append((statement, values))

    async with engine.connect() as connection:
        raw = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await raw.execute(text("VACUUM"))
        await raw.execute(text("ANALYZE"))
    event.listen(engine.sync_engine, "before_cursor_execute", note)
    counts = await status_counts(opened(engine))
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    assert counts[Status.COMPLETED] == Counted(999, has_more=True)
    ((statement, values),) = [it for it in statements if "count" in it[0]]
    assert statement.upper().count("LIMIT") == len(Status)
    word = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    async with engine.connect() as connection:
        found = await connection.exec_driver_sql(f"{word} {statement}", values)
        plan = [" ".join(map(str, row)) for row in found]
    scans = [it for it in plan if "saga" in it]
    assert len(scans) == len(Status), plan
    assert all("ix" in it or "INDEX" in it.upper() for it in scans), plan
    assert not any("Seq Scan" in it or it.endswith("SCAN saga") for it in plan), plan
