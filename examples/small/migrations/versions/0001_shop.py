"""the shop's own tables, those of the library, and those of the orchestrator"""

import sqlalchemy as sa
from alembic import op

import orchestrator.schema
import outbox

revision = "0001"
down_revision = None

ORCHESTRATOR = outbox.Tables(prefix="orchestrator_")


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("free", sa.Integer, nullable=False),
    )
    op.create_table(
        "accounts",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("credit", sa.Integer, nullable=False),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("item", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
    )
    outbox.schema.upgrade(op, to=5)
    orchestrator.schema.upgrade(op, to=11, tables=ORCHESTRATOR)


def downgrade() -> None:
    orchestrator.schema.downgrade(op, to=0, start=11, tables=ORCHESTRATOR)
    outbox.schema.downgrade(op, to=0, start=5)
    for table in ("orders", "accounts", "items"):
        op.drop_table(table)
