"""flights and seats"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "flights",
        sa.Column("number", sa.String, primary_key=True),
        sa.Column("price", sa.Integer, nullable=False),
        sa.Column("seats", sa.Integer, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False),
    )
    op.create_table(
        "seats",
        sa.Column("trip", sa.String, primary_key=True),
        sa.Column("flight", sa.String, nullable=False),
        sa.Column("is_confirmed", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("seats")
    op.drop_table("flights")
