"""What an inbox tells of its own work: each transaction of a long purge is a piece of it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from outbox.coordination.progress import STUCK_AFTER, Progress
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.purge import statements
from outbox.testing import FakeClock

pytestmark = pytest.mark.databases("sqlite")


async def test_a_purge_of_many_slow_transactions_is_work_that_gets_on(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    progress = Progress(clock.monotonic)
    limits = InboxLimits(purge_rows=1, purge_transactions=5)
    seen: list[float] = []

    def slow(*_: Any) -> int:
        clock.advance(STUCK_AFTER)
        seen.append(progress.stalled["purge the inbox"])
        return limits.purge_rows

    monkeypatch.setattr(statements, "purge", slow)
    sessions = async_sessionmaker(engine)
    inbox = Inbox(Handlers("bank"), sessions, clock=clock, limits=limits, progress=progress)
    assert await inbox.purge() == 5
    assert seen == [STUCK_AFTER] * 5
    assert progress.of("purge the inbox").is_idle
