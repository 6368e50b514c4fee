"""Removes what is old, step by step, under a lease that one process has at a time.

What is to be archived goes in two steps. First a file is written: the tables say that it is being
written, and still have all that is in it. Once the file is whole, the second step removes what is
in it, and says so, in one transaction. A process that dies in between leaves a file that the next
round finds: it goes on with a whole one, and discards any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import ArchiveNotNamed, ArchiveUnavailable
from orchestrator.retention.archive.archive import Archive, Manifest
from orchestrator.retention.archive.lines import Item, letter_item
from orchestrator.retention.files import HISTORIES, LETTERS, RUNS, FileRow, FileStore
from orchestrator.retention.histories import HistoryStore
from orchestrator.retention.lease import Fence, LostLease, RetentionLease
from orchestrator.retention.letters import LetterStore, Place, place_of
from orchestrator.retention.pace import Pace
from orchestrator.retention.policy import ENDS, Policy
from orchestrator.retention.store import AgeOf, Group, RetentionStore
from orchestrator.tables import saga_tables
from outbox.clock import Clock
from outbox.coordination.owners import HolderName
from outbox.crashpoints import crashpoint
from outbox.database.opening import Database
from outbox.database.troubles import is_of_database, words_of
from outbox.ids import first_at
from outbox.operations.dead_rows import saga_of

log = logging.getLogger(__name__)


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


_Find = Callable[[AsyncConnection, Group, int, int], Awaitable[Sequence[str]]]


class Round:
    """One round: its stages, one after the other, each in as many steps as it takes."""

    def __init__(self, means: Means, fence: Fence) -> None:
        self._means = means
        self._store = means.store
        self._lease = means.lease
        self._files = means.files
        self._letters = means.letters
        self._histories = means.histories
        self._fence = fence
        self._now = means.clock.now()
        self._below: str | None = None
        self._after: Place | None = None
        self._groups: list[Group] | None = None
        self._with_history: list[Group] | None = None
        self._removed = Counter[str]()
        """What the transaction under way removed: it counts once that is committed."""
        self._steps = 0
        self._stages: list[Callable[[], Awaitable[bool]]] = [
            self._finish,
            self._remove_runs,
            self._remove_histories,
            self._remove_letters,
            self._remove_keys,
            self._remove_refused,
            self._remove_tombstones,
        ]

    async def step(self) -> bool:
        """Do one step. Whether there may be another one."""
        self._steps += 1
        if self._stages and self._steps < self._means.limits.steps:
            if not await self._stages[0]():
                del self._stages[0]
            return True
        async with self._fenced() as connection:
            names = await self._store.names(connection)
            oldest = await self._store.oldest(connection, names, ENDS)
            await self._lease.end_round(connection, oldest)
            await self._lease.give_back(connection, self._fence)
        self._means.tally.rounds += 1
        return False

    async def leave(self) -> None:
        """Give the lease back."""
        async with self._means.transaction() as connection:
            await self._lease.give_back(connection, self._fence)

    @asynccontextmanager
    async def _fenced(self) -> AsyncIterator[AsyncConnection]:
        """A transaction under the lease; what it takes sets the pace. What it removed counts from
        its commit on."""
        means = self._means
        began = means.clock.monotonic()
        self._removed.clear()
        async with means.transaction() as connection:
            self._now, self._below = await self._lease.fence(connection, self._fence)
            yield connection
        means.tally.removed.update(self._removed)
        means.pace = means.pace.after(means.clock.monotonic() - began)

    @property
    def _remember_from(self) -> str:
        return first_at(self._now - self._means.policy.ids)

    # Files that were left behind

    async def _finish(self) -> bool:
        async with self._fenced() as connection:
            files = await self._files.unfinished(connection)
        for file in files:
            await self._finish_file(file)
        return False

    async def _finish_file(self, file: FileRow) -> None:
        archive = self._means.archive
        if archive is None or archive.place != file.place:
            raise ArchiveUnavailable(
                f"the file {file.path} in the archive {file.place} is to be finished first, and "
                f"the setting names {'none' if archive is None else archive.place}"
            )
        manifest: Manifest | None = await self._means.aside(archive.whole, file.path)
        if manifest is not None and not await self._staying(file.kind, manifest):
            await self._remove_archived(file.id, file.kind, manifest)
            return
        # Under the lease, so that a process that still writes the file can do nothing with it.
        await self._means.aside(archive.discard, file.path)
        async with self._fenced() as connection:
            await self._files.forget_file(connection, file.id)

    async def _staying(self, kind: str, manifest: Manifest) -> frozenset[str]:
        """What is in that file and stays after all: the policy may be another one than that of the
        process which wrote it. The rest is written again."""
        policy, ids = self._means.policy, manifest.items.keys()
        async with self._fenced() as connection:
            if kind != LETTERS:
                age = policy.age if kind == RUNS else policy.history_age
                return await self._store.staying(connection, ids, age, self._now)
            before = None if policy.letters is None else self._now - policy.letters
            return await self._letters.staying(connection, ids, before)

    # Runs

    async def _remove_runs(self) -> bool:
        """Archive and remove the next runs of the first group that has any."""
        async with self._fenced() as connection:
            if self._groups is None:
                self._groups = await self._groups_by(connection, self._means.policy.age)
            ids = await self._first(connection, self._groups, self._store.old_runs)
            items = await self._store.items(connection, ids) if ids else []
            if not items:
                return False
            if self._means.archive is None:
                await self._delete_runs(connection, {it.id: it.revision for it in items}, None)
                return True
            file = await self._noted(connection, RUNS, items, self._means.archive)
        await self._archive(file, items)
        return True

    async def _groups_by(self, connection: AsyncConnection, age: AgeOf) -> list[Group]:
        """The groups of runs that have such an age."""
        return [
            Group(name, status, self._now - old)
            for name in await self._store.names(connection)
            for status in ENDS
            if (old := age(name, status)) is not None
        ]

    async def _first(
        self, connection: AsyncConnection, groups: list[Group], find: _Find
    ) -> Sequence[str]:
        """What is found of the first group that has any; those before it are done."""
        while groups:
            size, most_bytes = self._means.pace.size, self._means.limits.file_bytes
            if ids := await find(connection, groups[0], size, most_bytes):
                return ids
            del groups[0]
        return ()

    async def _delete_runs(
        self, connection: AsyncConnection, revisions: dict[str, int], archive_id: str | None
    ) -> frozenset[str]:
        removed = await self._store.remove_runs(
            connection,
            revisions,
            remember_from=self._remember_from,
            below=self._below,
            archive_id=archive_id,
        )
        self._removed.update(runs=len(removed.runs), lines=removed.lines, aliases=removed.aliases)
        return removed.runs

    # Histories that go before their runs

    async def _remove_histories(self) -> bool:
        """Archive and remove the next histories of the first group that has any."""
        policy = self._means.policy
        if policy.history is None:
            return False
        async with self._fenced() as connection:
            if self._with_history is None:
                self._with_history = await self._groups_by(connection, policy.history_age)
            find = self._histories.old_histories
            ids = await self._first(connection, self._with_history, find)
            items = await self._histories.items(connection, ids) if ids else []
            if not items:
                return False
            if self._means.archive is None:
                read = {it.id: it.revision for it in items}
                await self._delete_histories(connection, read, None)
                return True
            file = await self._noted(connection, HISTORIES, items, self._means.archive)
        await self._archive(file, items)
        return True

    async def _delete_histories(
        self, connection: AsyncConnection, revisions: dict[str, int], archive_id: str | None
    ) -> frozenset[str]:
        removed = await self._histories.remove_histories(connection, revisions, archive_id)
        self._removed.update(histories=len(removed.runs), lines=removed.lines)
        return removed.runs

    # Dead letters

    async def _remove_letters(self) -> bool:
        """Archive and remove the next dead letters that are of no run that lives."""
        age = self._means.policy.letters
        if age is None:
            return False
        async with self._fenced() as connection:
            rows = await self._letters.old_letters(
                connection,
                self._now - age,
                self._after,
                self._means.pace.size,
                self._means.limits.file_bytes,
            )
            if not rows:
                return False
            self._after = place_of(rows[-1])
            sagas = {it.id: saga_of(it.headers) for it in rows}
            living = await self._letters.living(connection, {it for it in sagas.values() if it})
            items = [letter_item(it) for it in rows if sagas[it.id] not in living]
            if not items:
                return True
            if self._means.archive is None:
                gone = await self._letters.remove_letters(
                    connection, [it.id for it in items], self._now - age
                )
                self._removed["letters"] += len(gone)
                return True
            file = await self._noted(connection, LETTERS, items, self._means.archive)
        await self._archive(file, items)
        return True

    # The archive

    async def _noted(
        self, connection: AsyncConnection, kind: str, items: Sequence[Item], archive: Archive
    ) -> FileRow:
        id = self._means.ids()
        path = archive.path(kind, id, self._now)
        ids = [other[:_ID] for it in items for other in (it.id, *it.also)]
        await self._files.add_file(
            connection, id=id, kind=kind, place=archive.place, path=path, ids=ids
        )
        return FileRow(id, kind, archive.place, path, frozenset())

    async def _archive(self, file: FileRow, items: Sequence[Item]) -> None:
        archive = self._means.archive
        assert archive is not None, "a file was noted"
        crashpoint("retention: file noted, before it is written")
        manifest: Manifest = await self._means.aside(
            archive.write, file.kind, file.path, items, self._now
        )
        crashpoint("retention: archived, before removal")
        try:
            await self._remove_archived(file.id, file.kind, manifest)
        except LostLease:
            # The process that took over uses the file where it found it whole.
            async with self._means.database.reading.connect() as connection:
                is_known = await self._files.knows_file(connection, file.id)
            if not is_known:
                await self._means.aside(archive.discard, file.path)
            raise

    async def _remove_archived(self, id: str, kind: str, manifest: Manifest) -> None:
        """Remove what is in that file, which is whole."""
        async with self._fenced() as connection:
            if kind == RUNS:
                gone = await self._delete_runs(connection, manifest.items, id)
            elif kind == HISTORIES:
                gone = await self._delete_histories(connection, manifest.items, id)
            else:
                before = self._now - (self._means.policy.letters or timedelta())
                gone = await self._letters.remove_letters(connection, manifest.items, before)
                self._removed["letters"] += len(gone)
            left_out = manifest.items.keys() - gone
            await self._files.keep_file(connection, id, len(gone), left_out)
            crashpoint("retention: removed, before commit")
        self._means.tally.archived[kind] += len(gone)
        crashpoint("retention: after commit")

    # What is not archived

    async def _remove_keys(self) -> bool:
        age = self._means.policy.keys
        if age is None:
            return False
        async with self._fenced() as connection:
            before, size = first_at(self._now - age), self._means.pace.size
            return self._counted(
                "keys", await self._store.remove_keys(connection, before, size), size
            )

    async def _remove_refused(self) -> bool:
        age = self._means.policy.refused
        if age is None:
            return False
        async with self._fenced() as connection:
            size = self._means.pace.size
            gone = await self._store.remove_refused(
                connection, self._now - age, self._remember_from, self._below, size
            )
            return self._counted("refused", gone, size)

    async def _remove_tombstones(self) -> bool:
        async with self._fenced() as connection:
            size = self._means.pace.size
            gone = await self._store.remove_tombstones(
                connection, self._remember_from, self._below, size
            )
            return self._counted("tombstones", gone, size)

    def _counted(self, kind: str, gone: int, size: int) -> bool:
        self._removed[kind] += gone
        return gone == size


_ID = 36
"""Characters of an id; the key of a dead letter begins with one."""
