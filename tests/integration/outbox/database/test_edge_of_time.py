"""Moments at the edge of all years, which a caller may give as the time of a message or a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, text

from outbox.tables import outbox_scheduled
from tests.support.databases.databases import Database, Kind
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.relays import message, row

EDGES = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
def test_they_are_stored_so_that_every_session_can_read_them(
    make_sync_engine: MakeSyncEngine, database: Database, zone: str
) -> None:
    with make_sync_engine(database).begin() as connection:
        if database.kind is Kind.POSTGRESQL:
            connection.execute(text(f"SET TimeZone TO '{zone}'"))
        for edge in EDGES:
            values = row(*message("k"), "comments") | {"due_at": edge}
            connection.execute(insert(outbox_scheduled).values(**values))
        due = outbox_scheduled.c.due_at
        found = connection.execute(select(due).order_by(due)).scalars().all()
    assert len(found) == len(EDGES)
    assert all(abs(it - edge) <= timedelta(days=1) for it, edge in zip(found, EDGES, strict=True))
