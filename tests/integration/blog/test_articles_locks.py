"""Transactions that lock several articles each lock them in one order, so that no two of them wait
for each other."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from articles.handlers import _BY_ID
from articles.model import Article
from outbox.ids import compose
from tests.support.blog.blog import START
from tests.support.databases.locks import until_it_waits

LOWER, HIGHER = (compose(1_900_000_000_000, number) for number in (1, 2))


def row(id_: str) -> dict[str, object]:
    texts = {"title": "Tides", "body": "High and low.", "author": "Ada"}
    return {"id": id_, **texts, "version": 1, "created_at": START, "updated_at": START}


@pytest.mark.databases("postgresql")
async def test_articles_are_locked_in_the_order_of_their_ids(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        # The table has them the other way round, and is read as it lies.
        await connection.execute(insert(Article), [row(HIGHER), row(LOWER)])
    async with engine.connect() as holder, AsyncSession(engine) as session:
        lock = select(Article.id).with_for_update(nowait=True)
        await holder.execute(lock.where(Article.id == LOWER))
        for way in ("enable_indexscan", "enable_bitmapscan", "enable_indexonlyscan"):
            await session.execute(text(f"SET LOCAL {way} = off"))
        locking = asyncio.create_task(session.scalars(_BY_ID, {"wanted": [LOWER, HIGHER]}))
        await until_it_waits(engine, locking)
        assert not locking.done()
        # It waits for the lower one, and so has not locked the higher one.
        assert await holder.scalar(lock.where(Article.id == HIGHER)) == HIGHER
        await holder.commit()
        async with asyncio.timeout(10):
            assert [it.id for it in await locking] == [LOWER, HIGHER]
