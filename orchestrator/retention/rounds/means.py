"""What the rounds of one process work with, and what they have done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.archive.archive import Archive
from orchestrator.retention.files import FileStore
from orchestrator.retention.histories import HistoryStore
from orchestrator.retention.lease import RetentionLease
from orchestrator.retention.letters import LetterStore
from orchestrator.retention.pace import Pace
from orchestrator.retention.policy import Policy
from orchestrator.retention.store import RetentionStore
from outbox.clock import Clock
from outbox.database.opening import Database


@dataclass(frozen=True)
class RetentionLimits:
    """The bounds of the work. Times are in seconds."""

    every: float = 60.0
    """Between the end of a round and the next one."""
    lease: float = 120.0
    """After which another process takes over what one that fell silent was at; writing a file must
    not take longer."""
    statement: float = 5.0
    """That a statement may take, or a transaction rest, on PostgreSQL."""
    file_bytes: int = 8 * 1024 * 1024
    """Bytes of what is in one file, about: of runs their states, documents and histories; one at
    least."""
    steps: int = 10_000
    """In one round, at most."""


KINDS = (
    *("runs", "histories", "lines", "aliases"),
    *("letters", "keys", "refused", "tombstones"),
)
"""What is removed: `histories` are those that go before their runs, `lines` those of both."""


@dataclass
class Tally:
    """What was done since the start: things by their kind, one of KINDS."""

    archived: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    rounds: int = 0


@dataclass
class Means:
    """What a round works with. `pace` changes as it goes."""

    database: Database
    policy: Policy
    archive: Archive | None
    clock: Clock
    ids: Callable[[], str]
    limits: RetentionLimits
    store: RetentionStore
    lease: RetentionLease
    files: FileStore
    letters: LetterStore
    histories: HistoryStore
    for_good: bool = False
    tally: Tally = field(default_factory=Tally)
    pace: Pace = field(default_factory=Pace)
    aside: Callable[..., Awaitable[Any]] = asyncio.to_thread
    """Does what blocks, and gives its result."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction in which nothing takes longer than its bound."""
        async with self.database.engine.begin() as connection:
            await self.lease.hold_to(connection, self.limits.statement)
            yield connection
