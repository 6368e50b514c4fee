"""Runs for later in a database that goes back to the revision before them, and comes again."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine, select

from migrations import commands
from migrations.services import SERVICES
from orchestrator.tables import saga
from outbox.clock import Clock
from outbox.ids import compose
from tests.support.databases.databases import Database
from tests.support.databases.migrating import START, at

BEFORE = "orchestrator_0005"
WAITS, WAS_DUE, RUNS = (compose(1_893_456_000_000, number) for number in (1, 2, 3))
LATER = START + timedelta(days=45)


async def test_a_run_that_was_scheduled_before_a_way_back_is_scheduled_after_it(
    database: Database, sync_engine: Engine, clock: Clock
) -> None:
    service = SERVICES["orchestrator"]
    await commands.upgrade(service, at(database), clock=clock)
    row = {
        **{"shard": 1, "name": "book-trip", "version": 1, "key": "t1", "paused": False},
        **{"state": "{}", "document": "{}", "revision": 1, "entries": 1},
        **{"created_at": START, "updated_at": START},
    }
    rows = [
        row | {"id": WAITS, "status": "SCHEDULED", "begin_at": LATER, "due_at": LATER},
        # Paused, when its time came.
        row | {"id": WAS_DUE, "status": "SCHEDULED", "begin_at": LATER, "due_at": None},
        row | {"id": RUNS, "status": "RUNNING", "begin_at": None, "due_at": LATER},
    ]
    with sync_engine.begin() as connection:
        connection.execute(saga.insert(), rows)
    await commands.downgrade(service, at(database), BEFORE, clock=clock, delete_data=True)
    await commands.upgrade(service, at(database), clock=clock)
    with sync_engine.connect() as connection:
        found = {it.id: it.begin_at for it in connection.execute(select(saga))}
    assert found == {WAITS: LATER, WAS_DUE: START, RUNS: None}
