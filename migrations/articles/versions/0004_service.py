"""the name of the service that the tables belong to"""

from __future__ import annotations

from alembic import op

from migrations.environment import tables
from outbox import schema

revision = "articles_0004"
down_revision = "articles_0003"
kind = "expand"


def upgrade() -> None:
    """Create the table, which the service fills at its next start."""
    schema.upgrade(op, start=3, to=4, tables=tables())


def downgrade() -> None:
    """Drop the table; the tables belong to no service then."""
    schema.downgrade(op, to=3, start=4, tables=tables())
