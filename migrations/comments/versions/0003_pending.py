"""the table for answers that come later"""

from __future__ import annotations

from alembic import op

from migrations.environment import tables
from outbox import schema

revision = "comments_0003"
down_revision = "comments_0002"
kind = "expand"


def upgrade() -> None:
    """Create the table, which is empty."""
    schema.upgrade(op, start=2, to=3, tables=tables())


def downgrade() -> None:
    """Drop the table. What was still pending is answered `unknown` from then on."""
    schema.downgrade(op, to=2, start=3, tables=tables())
