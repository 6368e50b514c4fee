"""Alembic's entry to the history of the shop."""

import asyncio

from alembic import context
from sqlalchemy import Connection

import outbox
from orchestrator.tables import saga_tables
from outbox import tables
from small.app import Base, engine

ORCHESTRATOR = outbox.Tables(prefix="orchestrator_")
METADATA = [
    *(Base.metadata, tables.metadata),
    *(ORCHESTRATOR.metadata, saga_tables(ORCHESTRATOR).metadata),
]


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(main())
