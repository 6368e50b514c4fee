"""the numbers of runs, the messages that asked for them, and the time each message was due"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op as alembic_op

from migrations.environment import own_tables, tables
from outbox import schema

revision = "orchestrator_0004"
down_revision = "orchestrator_0003"
kind = "expand"

_ADDED = (
    ("saga", "number"),
    ("saga", "start_id"),
    ("saga_alias", "start_id"),
    ("saga_signal", "message_id"),
)


def upgrade() -> None:
    """Add the columns; the age of a run that is there already is told by its id."""
    op = own_tables()
    schema.upgrade(alembic_op, start=1, to=2, tables=tables())
    for table, name in _ADDED:
        op.add_column(table, sa.Column(name, sa.Uuid(as_uuid=False), nullable=True))
    is_live = sa.text("ended_at IS NULL")
    op.create_index(
        "saga_live_number", "saga", ["number"], postgresql_where=is_live, sqlite_where=is_live
    )


def downgrade() -> None:
    """Drop the columns; the age of every run is told by its id."""
    op = own_tables()
    op.drop_index("saga_live_number", "saga")
    for table, name in reversed(_ADDED):
        op.drop_column(table, name)
    schema.downgrade(alembic_op, to=1, start=2, tables=tables())
