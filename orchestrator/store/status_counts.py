"""How many runs have each status, in one statement whose cost does not grow with the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Select, Text, bindparam, func, literal, select, union_all

from orchestrator.machine.instance import Status
from orchestrator.tables import SagaTables, saga_tables
from outbox.database.opening import Database

COUNTED_UP_TO = 999
"""Runs of one status that are counted for a list, at most."""


@dataclass(frozen=True)
class Counted:
    """So many runs, and whether there are more of them."""

    runs: int
    has_more: bool


async def status_counts(database: Database) -> Mapping[Status, Counted]:
    """How many runs have each status. Of one status, `COUNTED_UP_TO` are counted at most."""
    statement = _counts(saga_tables(database.tables))
    async with database.reading.connect() as connection:
        rows = (await connection.execute(statement, {"most": COUNTED_UP_TO + 1})).all()
    return {
        Status(row.status): Counted(min(row.runs, COUNTED_UP_TO), row.runs > COUNTED_UP_TO)
        for row in rows
    }


@cache
def _counts(tables: SagaTables) -> Select[*tuple[Any, ...]]:
    saga = tables.saga.c
    parts = []
    for status in Status:
        # Ordered like the index, so that no database looks through the table instead.
        found = (
            select(saga.id)
            .where(saga.status == status.value)
            .order_by(saga.id.desc())
            .limit(bindparam("most"))
            .subquery()
        )
        named = literal(status.value, Text, literal_execute=True).label("status")
        parts.append(select(named, func.count().label("runs")).select_from(found))
    return select(union_all(*parts).subquery())
