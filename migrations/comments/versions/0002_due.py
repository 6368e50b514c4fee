"""the time at which each message was due, and the numbers of runs"""

from __future__ import annotations

from alembic import op

from migrations.environment import tables
from outbox import schema

revision = "comments_0002"
down_revision = "comments_0001"
kind = "expand"


def upgrade() -> None:
    """Add the columns; what is there already is judged by its ids."""
    schema.upgrade(op, start=1, to=2, tables=tables())


def downgrade() -> None:
    """Drop the columns; everything is judged by its ids."""
    schema.downgrade(op, to=1, start=2, tables=tables())
