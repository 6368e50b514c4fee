"""rooms, reservations, trips and receipts"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "rooms",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("price", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("spare", sa.Integer, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False),
        sa.Column("confirmed", sa.Integer, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("trip", sa.String, primary_key=True),
        sa.Column("room", sa.String, nullable=False),
        sa.Column("is_confirmed", sa.Boolean, nullable=False),
    )
    op.create_table(
        "trips",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("ended", sa.String),
        sa.Column("reason", sa.String),
    )
    op.create_table(
        "receipts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("trip", sa.String, nullable=False),
        sa.Column("amount", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    for name in ("receipts", "trips", "reservations", "rooms"):
        op.drop_table(name)
