"""the library's tables"""

from alembic import op

from outbox import schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    schema.upgrade(op, to=5)


def downgrade() -> None:
    schema.downgrade(op, to=0, start=5)
