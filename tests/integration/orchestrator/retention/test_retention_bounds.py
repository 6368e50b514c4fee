"""How much the removal of what is old may cost the database: no statement waits for long, and none
reads a table from its beginning to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import RetentionLimits
from outbox.ids import first_at
from tests.support.orchestrator.retained import Retained

pytestmark = pytest.mark.databases("postgresql")
SHORT = RetentionLimits(statement=0.3)
LARGE = (*("saga", "saga_history", "saga_alias", "saga_start_key", "saga_signal", "outbox_dead"),)
"""The tables that grow with the runs."""
ROWS = 20_000
OLD = 120
"""So many of the rows are old enough to go."""


# Time


async def until_it_fails(world: Retained) -> None:
    """Let a process go on until a statement has failed."""
    retention = world.retention(limits=SHORT)
    async with asyncio.timeout(30):
        while not retention.tally.failures:
            await retention.step()


async def test_a_step_waits_for_no_lock_for_longer_than_its_bound(plain: Retained) -> None:
    id = await plain.run()
    await plain.days(31)
    async with plain.engine.begin() as other:
        saga = tables.saga
        await other.execute(update(saga).where(saga.c.id == id).values(key=saga.c.key))
        await until_it_fails(plain)
    plain.clock.advance(RetentionLimits.lease + 1)
    assert (await plain.forget()).removed["runs"] == 1


async def test_the_lease_is_asked_for_within_the_bound_too(plain: Retained) -> None:
    await plain.forget()
    async with plain.engine.begin() as other:
        await other.execute(update(tables.saga_retention).values(epoch=7))
        await until_it_fails(plain)


async def test_every_transaction_has_the_bound_that_the_page_tells(plain: Retained) -> None:
    await plain.run()
    await plain.days(31)
    found: list[tuple[str, ...]] = []

    def look(connection: Any) -> None:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        found.append(tuple(connection.scalar(text(f"SHOW {name}")) for name in names))

    event.listen(plain.engine.sync_engine, "commit", look)
    await plain.forget()
    event.remove(plain.engine.sync_engine, "commit", look)
    assert len(found) > 5
    assert set(found) == {("5s", "5s", "5s")}


# Indexes


async def fill(world: Retained) -> None:
    """Many rows, few of which are old enough to go, as the planner then knows."""
    now = world.clock.now()
    old = now - timedelta(days=200)
    times = {"old": old, "young": now, "count": OLD, "rows": ROWS}
    ids = {"old": first_at(old)[:13], "young": first_at(now)[:13]}
    at = "CASE WHEN n <= :count THEN CAST(:old AS timestamptz) ELSE CAST(:young AS timestamptz) END"
    id = (
        f"CAST(CASE WHEN n <= :count THEN '{ids['old']}' ELSE '{ids['young']}' END"
        " || '-7' || lpad(to_hex({group}), 3, '0') || '-8000-' || lpad(to_hex(n), 12, '0') AS uuid)"
    )
    run, alias, refused, told = (id.format(group=group) for group in (1, 2, 3, 4))
    rows = "FROM generate_series(1, :rows) AS n"
    statements = (
        "INSERT INTO saga (id, shard, name, version, key, status, paused, state, document, "
        "revision, entries, created_at, updated_at, ended_at) SELECT "
        f"{run}, 1, 'book-trip', 1, 'k', 'COMPLETED', false, '{{}}', '{{}}', 1, 1, {at}, {at}, {at}"
        f" {rows}",
        "INSERT INTO saga_history (saga_id, number, at, happening, detail) "
        f"SELECT {run}, 1, {at}, 'started', '' {rows}",
        f"INSERT INTO saga_alias (id, saga_id, made_at) SELECT {alias}, {run}, {at} {rows}",
        f"INSERT INTO saga_alias (id, reason, made_at) SELECT {refused}, 'no', {at} {rows}",
        "INSERT INTO saga_start_key (name, key, fingerprint, saga_id) "
        f"SELECT 'book-trip', 'k' || n, '\\x00', {run} {rows}",
        "INSERT INTO saga_signal (shard, saga_id, kind, payload, made_at) "
        f"SELECT n % 16, {told}, 'replied', '{{}}', {at} {rows}",
        "INSERT INTO outbox_dead (id, destination, bucket, aggregatetype, aggregateid, type, "
        "payload, headers, occurred_at, reason, attempts, died_at) "
        f"SELECT {run}, 'hotels', 1, 'a', 'k', 't', '{{}}', '{{}}', {at}, 'no', 1, {at} {rows}",
    )
    async with world.engine.begin() as connection:
        for statement in statements:
            given = {name: it for name, it in times.items() if f":{name}" in statement}
            await connection.execute(text(statement), given)
        for name in LARGE:
            await connection.execute(text(f"ANALYZE {name}"))


@contextmanager
def plans(engine: AsyncEngine) -> Iterator[list[tuple[str, str]]]:
    """The statements on large tables, each with its plan."""
    found: list[tuple[str, str]] = []

    def explain(_: Any, cursor: Any, statement: str, given: Any, __: Any, many: bool) -> None:
        is_asked = statement.startswith(("SELECT", "DELETE", "UPDATE"))
        if is_asked and any(name in statement for name in LARGE):
            cursor.execute(f"EXPLAIN {statement}", given[0] if many else given)
            found.append((statement, "\n".join(row[0] for row in cursor.fetchall())))

    event.listen(engine.sync_engine, "before_cursor_execute", explain)
    yield found
    event.remove(engine.sync_engine, "before_cursor_execute", explain)


async def test_no_statement_reads_a_large_table_as_a_whole(plain: Retained) -> None:
    await fill(plain)
    # Half of what has ended has lost its history before, as far as its row says.
    async with plain.engine.begin() as connection:
        half = "right(CAST(id AS text), 1) IN ('0', '2', '4', '6', '8', 'a', 'c', 'e')"
        await connection.execute(text(f"UPDATE saga SET history_removed_at = now() WHERE {half}"))
        await connection.execute(text("ANALYZE saga"))
    with plans(plain.engine) as found:
        kept = "COMPLETED=forever,dead-letters=forever,refused=forever"
        done = await plain.forget(Policy.parse(f"{kept},history=100d"))
    assert (done.removed["histories"], done.removed["lines"]) == (OLD // 2, OLD // 2)
    assert "saga_with_history" in " ".join(plan for _, plan in found)
    nothing_as_a_whole(found)
    with plans(plain.engine) as found:
        done = await plain.forget(Policy.parse("100d"))
    assert (done.removed["runs"], done.removed["lines"]) == (OLD, OLD // 2)
    assert done.removed["letters"] == OLD
    assert done.removed["keys"] == OLD
    assert done.removed["refused"] == OLD
    asked = " ".join(statement for statement, _ in found)
    assert all(f"FROM {name}" in asked for name in LARGE)
    nothing_as_a_whole(found)


def nothing_as_a_whole(found: list[tuple[str, str]]) -> None:
    for statement, plan in found:
        for name in LARGE:
            assert f"Seq Scan on {name} " not in plan, f"{statement}\n{plan}"
