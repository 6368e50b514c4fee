"""Work in a transaction of its own, for both kinds of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

T = TypeVar("T")


async def in_transaction(
    sessions: async_sessionmaker[AsyncSession] | sessionmaker[Session],
    work: Callable[[Session], T],
) -> T:
    """The result of the work once its transaction is committed. Synchronous sessions are used in a
    thread."""
    if isinstance(sessions, sessionmaker):
        return await asyncio.to_thread(_committed, sessions, work)
    async with sessions.begin() as session:
        return await session.run_sync(work)


def _committed(sessions: sessionmaker[Session], work: Callable[[Session], T]) -> T:
    with sessions.begin() as session:
        return work(session)
