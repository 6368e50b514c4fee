"""Alembic's entry to the history of the hotel."""

from alembic import context

from outbox.schema import not_ours
from travel.hotel.database import Base, engine

with engine.begin() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=not_ours())
    with context.begin_transaction():
        context.run_migrations()
