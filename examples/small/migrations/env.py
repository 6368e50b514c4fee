"""Alembic's entry to the history of the shop."""

import asyncio

from alembic import context
from sqlalchemy import Connection

import outbox
from orchestrator.tables import saga_tables
from outbox.schema import not_ours
from small.app import Base, engine

ORCHESTRATOR = outbox.Tables(prefix="orchestrator_")
INCLUDED = not_ours(outbox.Tables(), ORCHESTRATOR, saga_tables(ORCHESTRATOR))


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=INCLUDED)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(main())
