"""cards and entries"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "cards",
        sa.Column("number", sa.String, primary_key=True),
        sa.Column("account", sa.String, nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("trip", sa.String, nullable=False, index=True),
        sa.Column("charge", sa.String, nullable=False),
        sa.Column("card", sa.String, nullable=False),
        sa.Column("amount", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("entries")
    op.drop_table("cards")
