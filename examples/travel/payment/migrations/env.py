"""Alembic's entry to the history of the payment service."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from outbox.schema import not_ours
from travel.payment.database import Base, engine


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=not_ours())
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(main())
