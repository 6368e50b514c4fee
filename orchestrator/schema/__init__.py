"""The tables of an orchestrator in a service's database, made by the service's own migrations, with
those of the library that it needs.

    import outbox
    from alembic import op
    from orchestrator import schema

    TABLES = outbox.Tables(prefix="orchestrator_")

    def upgrade():
        schema.upgrade(op, to=11, tables=TABLES)

`sagabox migrate upgrade orchestrator` makes the same tables without any history but its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from orchestrator.schema.versions import (
    histories,
    later,
    numbers,
    retention,
    silences,
    start,
    tokens,
    traces,
)
from orchestrator.tables import saga_tables
from outbox import schema as library
from outbox.clock import SystemClock
from outbox.database.schema.operations import TableOperations
from outbox.tables import DEFAULT_TABLES, Tables

if TYPE_CHECKING:
    from alembic.operations import Operations

_Change = Callable[[TableOperations], None]


def _nothing(_: TableOperations) -> None:
    """The orchestrator's own tables stay as they are."""


@dataclass(frozen=True)
class _Version:
    """The step from the version before, and back; `of_library` are the versions of the library's
    tables between which it goes."""

    upgrade: _Change = _nothing
    downgrade: _Change = _nothing
    of_library: tuple[int, int] | None = None


_VERSIONS = (
    _Version(start.upgrade, start.downgrade, (0, 1)),
    _Version(tokens.upgrade, tokens.downgrade),
    _Version(traces.upgrade, traces.downgrade),
    _Version(numbers.upgrade, numbers.downgrade, (1, 2)),
    _Version(silences.upgrade, silences.downgrade),
    _Version(later.upgrade, later.downgrade),
    _Version(of_library=(2, 3)),
    _Version(of_library=(3, 4)),
    _Version(of_library=(4, 5)),
    _Version(retention.upgrade, retention.downgrade),
    _Version(histories.upgrade, histories.downgrade),
)
"""The first is version 1."""

LATEST = len(_VERSIONS)
"""The version of the tables that this release needs."""


def upgrade(
    op: Operations | Any, *, to: int = LATEST, start: int = 0, tables: Tables = DEFAULT_TABLES
) -> None:
    """Take the tables from version `start` to version `to`, within a migration, and note that it
    was done; `op` is Alembic's. `tables` are the library's of the orchestrator.

    Name `to`, so that the migration does the same for ever. Raises ValueError for an unknown
    version.
    """
    _check(start, to)
    connection: Connection = op.get_bind()
    for number in range(start + 1, to + 1):
        step_up(op, number, tables)
        now = SystemClock().now()
        library.record_revision(connection, _revision(number), "expand", now, tables=tables)


def downgrade(
    op: Operations | Any, *, to: int, start: int, tables: Tables = DEFAULT_TABLES
) -> None:
    """Take the tables back from version `start` to version `to`; 0 drops them."""
    _check(to, start)
    connection: Connection = op.get_bind()
    for number in range(start, to, -1):
        library.forget_revision(connection, _revision(number), tables=tables)
        step_down(op, number, tables)


def step_up(op: Operations | Any, number: int, tables: Tables) -> None:
    """Take the tables from the version before to this one."""
    version = _VERSIONS[number - 1]
    if version.of_library is not None:
        before, after = version.of_library
        library.upgrade(op, start=before, to=after, tables=tables)
    version.upgrade(TableOperations(op, saga_tables(tables)))


def step_down(op: Operations | Any, number: int, tables: Tables) -> None:
    """Take the tables from this version to the one before."""
    version = _VERSIONS[number - 1]
    version.downgrade(TableOperations(op, saga_tables(tables)))
    if version.of_library is not None:
        before, after = version.of_library
        library.downgrade(op, to=before, start=after, tables=tables)


def _revision(number: int) -> str:
    return f"orchestrator_{number:04}"


def _check(lower: int, higher: int) -> None:
    if not 0 <= lower <= higher <= LATEST:
        raise ValueError(
            f"there is no way from version {lower} to version {higher} of an orchestrator's "
            f"tables; this release knows 0 to {LATEST}"
        )
