"""Tables that the history of another service made, as `orchestrator.schema` does: their revision is
noted beside them, and Alembic has no table for them alone."""

from __future__ import annotations

from collections.abc import Sequence

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, select

from migrations import environment
from migrations.errors import MigrationError
from migrations.history import History
from migrations.services import Service
from outbox.database.table_set import has_table
from outbox.tables import Tables


def in_books(connection: Connection, tables: Tables) -> str | None:
    """The revision in Alembic's own table."""
    books = MigrationContext.configure(connection, opts=dict(environment.books(tables)))
    return ", ".join(books.get_current_heads()) or None


def noted(connection: Connection, tables: Tables) -> Sequence[str]:
    """The revisions that are noted beside the tables, in the order in which they came."""
    of = tables.schema_revision
    if not has_table(inspect(connection), of):
        return ()
    return connection.scalars(select(of.c.revision).order_by(of.c.applied_at)).all()


def beside(connection: Connection, tables: Tables, history: History) -> str | None:
    """The newest revision that is noted beside the tables, if it is of this history."""
    newest = next(reversed(noted(connection, tables)), None)
    return newest if history.knows(newest) else None


def require_books(
    connection: Connection, tables: Tables, service: Service, current: str | None
) -> None:
    """Raises MigrationError where the history of another service has brought the tables to
    `current`."""
    if current is None or in_books(connection, tables):
        return
    raise MigrationError(
        f"the tables of {service.name} belong to a history other than this one, so nothing was "
        "changed",
        f"they stand at {current}, to which a migration of the service around them has brought "
        "them",
        f"call {service.name}.schema in a new migration of that service, from the version that "
        "the last one went to, and apply it",
    )
