"""A key with very many held messages costs what one costs."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.tables import inbox_held
from outbox.transports.brokers.held.rows import State
from outbox.transports.brokers.held.table import store_of
from tests.support.outbox.holding import HoldingBench

MANY = 4000


async def _fill(bench: HoldingBench) -> None:
    """One key with very many messages that wait, and as many that were given up."""
    await bench.hold(bench.note("head"))
    (head,) = await bench.rows()
    del head["seq"]  # type: ignore[attr-defined]  # it is a dict
    rows = [
        {
            **head,
            "state": state.value,
            "next_at": None,
            "message_id": bench.names(),
            "fingerprint": f"{state}{n}".encode(),
        }
        for state in (State.DEAD, State.WAITING)
        for n in range(MANY)
    ]
    async with bench.sessions.begin() as session:
        await session.execute(insert(inbox_held), rows)
        await session.execute(text("ANALYZE"))


async def test_no_statement_of_consumer_and_worker_reads_all_rows_of_a_key(
    engine: AsyncEngine, database_kind: str
) -> None:
    bench = HoldingBench(engine)
    await _fill(bench)
    store = store_of(bench.sessions, "bank", bench.clock)
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.lstrip().startswith("SELECT") and "inbox_held" in statement:
            asked.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await bench.make_due()
    async with bench.sessions.begin() as session:
        assert len(await store.heads(session, {(False, "ada"), (False, "bob")})) == 1
        assert len(await store.claim_due(session, 8, 30.0)) == 1
        assert len(await store.claim_next(session, (False, "ada"), 20, 30.0)) == 20
        assert await store.next_due(session) is not None
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    explain = "EXPLAIN " if database_kind == "postgresql" else "EXPLAIN QUERY PLAN "
    plans = []
    async with engine.connect() as connection:
        for statement, parameters in asked:
            rows = await connection.exec_driver_sql(explain + statement, parameters)
            plans.append("\n".join(str(row[-1]) for row in rows))
    order, due, again, first = plans
    for plan, index in (
        *((order, "inbox_held_order"), (again, "inbox_held_order")),
        *((due, "inbox_held_due"), (first, "inbox_held_due")),
    ):
        assert index in plan, plan
        assert "pkey" not in plan, plan
        assert "Seq Scan" not in plan, plan


@pytest.mark.databases("sqlite")
async def test_what_was_given_up_is_not_in_the_index_of_the_order(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    async with bench.sessions() as session:
        where = "SELECT sql FROM sqlite_master WHERE name = 'inbox_held_order'"
        assert "state <> 'dead'" in (await session.execute(text(where))).scalar_one()
