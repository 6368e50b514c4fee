"""Alembic's entry to the history of the hotel."""

from alembic import context

from outbox import tables
from travel.hotel.database import Base, engine

with engine.begin() as connection:
    context.configure(connection=connection, target_metadata=[Base.metadata, tables.metadata])
    with context.begin_transaction():
        context.run_migrations()
