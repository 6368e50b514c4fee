"""Removes what is old, round after round, under a lease that one process has at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from orchestrator.errors import ArchiveNotNamed, ArchiveUnavailable
from orchestrator.retention.archive.archive import Archive
from orchestrator.retention.files import FileStore
from orchestrator.retention.histories import HistoryStore
from orchestrator.retention.lease import LostLease, RetentionLease
from orchestrator.retention.letters import LetterStore
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import Means, RetentionLimits, Tally
from orchestrator.retention.rounds.round import Round
from orchestrator.retention.store import RetentionStore
from orchestrator.tables import saga_tables
from outbox.clock import Clock
from outbox.coordination.owners import HolderName
from outbox.database.opening import Database
from outbox.database.troubles import is_of_database, words_of

log = logging.getLogger(__name__)


class Retention:
    """The removal of what is old by that policy. Without an archive it is removed for good; where
    others were archived, `for_good` must say so: else a setting that was lost would lose runs."""

    def __init__(
        self,
        database: Database,
        policy: Policy,
        archive: Archive | None,
        *,
        for_good: bool = False,
        clock: Clock,
        ids: Callable[[], str],
        limits: RetentionLimits | None = None,
    ) -> None:
        limits = limits or RetentionLimits()
        postgres = database.engine.dialect.name == "postgresql"
        tables = saga_tables(database.tables)
        self._means = Means(
            *(database, policy, archive, clock, ids, limits),
            store=RetentionStore(tables, postgres=postgres, now=clock.now),
            lease=RetentionLease(tables, postgres=postgres, now=clock.now),
            files=FileStore(tables, postgres=postgres, now=clock.now),
            letters=LetterStore(tables),
            histories=HistoryStore(tables, postgres=postgres, now=clock.now),
            for_good=for_good,
        )
        self._owner: Callable[[], str] = HolderName("retention")
        self._round: Round | None = None

    @property
    def tally(self) -> Tally:
        """What was done since the start."""
        return self._means.tally

    async def step(self) -> float:
        """Do the next step of a round, or begin one. Returns the seconds until the next step; what
        fails is logged, and tried again in a new round."""
        try:
            if self._round is None:
                self._round = await self._begun()
            if self._round is None:
                return self._means.limits.every
            if await self._round.step():
                return self._means.pace.pause
            self._round = None
            return self._means.limits.every
        except LostLease:
            log.info("another process removes what is old by now")
        except ArchiveUnavailable as error:
            self.tally.failures += 1
            log.warning("nothing is removed: %s", error)
            await self.leave()
        except Exception as error:
            if not is_of_database(error):
                raise
            self.tally.failures += 1
            self._means.pace = self._means.pace.after(2 * self._means.limits.statement)
            log.warning("what is old could not be removed, trying later: %s", words_of(error))
        self._round = None
        return self._means.limits.every

    async def whole_round(
        self, rest: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> Tally | None:
        """Do one round to its end; None where another process is at it, or took over. Raises
        ArchiveUnavailable, and the database's errors. `rest` pauses between two steps."""
        before = Tally(self.tally.archived.copy(), self.tally.removed.copy())
        round = await self._begun()
        if round is None:
            return None
        try:
            while await round.step():
                await rest(self._means.pace.pause)
        except LostLease:
            return None
        except ArchiveUnavailable:
            await round.leave()
            raise
        return Tally(
            self.tally.archived - before.archived, self.tally.removed - before.removed, rounds=1
        )

    async def leave(self) -> None:
        """Give the lease back, if a round is under way."""
        if self._round is not None:
            round, self._round = self._round, None
            await round.leave()

    async def _begun(self) -> Round | None:
        """A new round; None where another process has the lease. Raises ArchiveUnavailable."""
        means = self._means
        await self._require_same()
        ttl = timedelta(seconds=means.limits.lease)
        async with means.transaction() as connection:
            fence = await means.lease.claim(connection, self._owner(), ttl)
        return None if fence is None else Round(means, fence)

    async def _require_same(self) -> None:
        """Raises ArchiveUnavailable where the archive lacks what the tables say is in it, and where
        none is named in place of one that was."""
        means, archive = self._means, self._means.archive
        if archive is None and means.for_good:
            return
        async with means.database.reading.connect() as connection:
            place = None if archive is None else archive.place
            newest = await means.files.newest(connection, place)
        if newest is None:
            return
        if archive is None:
            raise ArchiveNotNamed(newest.place)
        if not await means.aside(archive.has, newest.path):
            raise ArchiveUnavailable(
                f"the archive {archive.place} lacks {newest.path}, which was written there: see "
                "whether its volume is mounted, and is the same for each process",
                retry_after=60,
            )
