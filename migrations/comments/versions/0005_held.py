"""the table for what a broker brought and could not be handled"""

from __future__ import annotations

from alembic import op

from migrations.environment import tables
from outbox import schema

revision = "comments_0005"
down_revision = "comments_0004"
kind = "expand"


def upgrade() -> None:
    """Create the table, which older code leaves empty."""
    schema.upgrade(op, start=4, to=5, tables=tables())


def downgrade() -> None:
    """Drop the table."""
    schema.downgrade(op, to=4, start=5, tables=tables())
