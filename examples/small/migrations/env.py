"""Alembic's entry to the history of the shop."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from outbox import tables
from small.app import Base, engine


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=[Base.metadata, tables.metadata])
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(main())
