"""Retention on the virtual database, with an archive in memory: see `saga_tables`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, SimpleNamespace
from typing import Any

import orjson
from sqlalchemy.exc import OperationalError

from orchestrator.machine.instance import Status
from orchestrator.retention.archive.archive import Archive
from orchestrator.retention.archive.formats import JsonLines
from orchestrator.retention.archive.lines import Item, letter_of
from orchestrator.retention.files import LETTERS, FileRow, FileState, FileStore
from orchestrator.retention.lease import Fence, LostLease, RetentionLease
from orchestrator.retention.letters import LetterStore, Place
from orchestrator.retention.policy import ENDS, Policy
from orchestrator.retention.remembering import raised, remembered
from orchestrator.retention.rounds.means import Means, RetentionLimits
from orchestrator.retention.store import AgeOf, Group, Removed, RetentionStore, is_kept
from orchestrator.retention.worker import Retention
from orchestrator.store.records import Record
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.database import (
    Engine,
    Gone,
    KeptFile,
    Message,
    Remover,
    Tables,
)
from outbox.clock import Clock
from outbox.errors import TransactionLost
from outbox.operations.dead_rows import saga_of

_LEASE = 20.0
_SOON_AGAIN = 1.0
_REMEMBERED = timedelta(days=2, seconds=10)
"""Ids of starts that were under way for days get older than this in a history; others do not."""
_NO_HOLDER = Remover(None, 0, datetime.min.replace(tzinfo=UTC), None)


class VirtualRetention(Retention):
    """The removal as one process does it: of runs whose end is `age` ago, of dead letters as old,
    and of the ids of starts that were under way for days. Idempotency keys stay, since callers may
    ask again for as long as a history lasts."""

    def __init__(
        self,
        engine: Engine,
        archive: Archive,
        age: timedelta,
        clock: Clock,
        *,
        now: Callable[[], datetime],
        ids: Callable[[], str],
        sleep: Callable[[float], Any],
        owner: str,
    ) -> None:
        async def aside(work: Callable[..., Any], *of: Any) -> Any:
            await sleep(0.05)
            return work(*of)

        told = _AsDriversTell(engine)
        no_histories: Any = None
        database: Any = SimpleNamespace(engine=told, reading=told)
        self._means = Means(
            *(database, _policy(age), archive, clock, ids),
            RetentionLimits(every=_SOON_AGAIN, lease=_LEASE),
            store=VirtualRetentionStore(),
            lease=VirtualRetentionLease(now),
            files=VirtualFiles(),
            letters=VirtualLetters(),
            histories=no_histories,
            aside=aside,
        )
        self._owner = lambda: owner
        self._round = None


class _AsDriversTell:
    """The engine, whose errors are those of SQLAlchemy."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        """As the engine's."""
        try:
            async with self._engine.begin() as connection:
                yield connection
        except TransactionLost as error:
            raise OperationalError("COMMIT", None, error) from error

    connect = begin


def _policy(age: timedelta) -> Policy:
    ages: Mapping[Status, timedelta | None] = MappingProxyType(dict.fromkeys(ENDS, age))
    return Policy(runs=ages, letters=age, keys=None, refused=None, ids=_REMEMBERED)


class VirtualRetentionStore(RetentionStore):
    """What is old."""

    def __init__(self) -> None:
        pass

    async def names(self, connection: Any) -> Sequence[str]:
        return sorted({it.instance.saga for it in connection.tables.runs.values()})

    async def old_runs(
        self, connection: Any, group: Group, most: int, most_bytes: int
    ) -> Sequence[str]:
        tables = connection.tables
        told = {it.saga_id for it in tables.signals.values()}
        found = [
            (at, id)
            for id, at in tables.ended.items()
            if at < group.before and id not in told and id in tables.runs
            if (tables.runs[id].instance.saga, tables.runs[id].instance.status)
            == (group.name, group.status)
        ]
        return [id for _, id in sorted(found)[:most]]

    async def staying(
        self, connection: Any, ids: Collection[str], age: AgeOf, now: datetime
    ) -> frozenset[str]:
        tables = connection.tables
        return frozenset(
            id
            for id in ids
            if id in tables.runs
            and is_kept(
                age(tables.runs[id].instance.saga, tables.runs[id].instance.status),
                tables.ended.get(id),
                now,
            )
        )

    async def oldest(self, *_: Any) -> datetime | None:
        return None

    async def items(self, connection: Any, ids: Sequence[str]) -> list[Item]:
        tables = connection.tables
        return [
            Item(
                id,
                tables.runs[id].revision,
                orjson.dumps({"run": {"id": id}}),
                tuple(_aliases(tables, id)),
            )
            for id in sorted(ids)
            if id in tables.runs
        ]

    async def remove_runs(
        self,
        connection: Any,
        revisions: Mapping[str, int],
        *,
        remember_from: str,
        below: str | None,
        archive_id: str | None,
    ) -> Removed:
        tables = connection.tables
        gone = [
            tables.runs[id]
            for id, revision in sorted(revisions.items())
            if id in tables.runs and tables.runs[id].revision == revision
        ]
        gone = [it for it in gone if it.instance.ended is not None]
        for record in gone:
            id = record.instance.id
            connection.drop(tables.runs, id)
            connection.put(tables.gone, id, Gone(record, archive_id))
            for line in [it for it in tables.history if it[0] == id]:
                connection.drop(tables.history, line)
            ended = {
                "ended": record.instance.status.value,
                "name": record.instance.saga,
                "archive_id": archive_id,
            }
            aliases = _aliases(tables, id)
            kept = remembered((id, *aliases), remember_from, below)
            below = kept.below
            for alias in aliases:
                if alias in kept.tombstones:
                    connection.put(tables.aliases, alias, {**tables.aliases[alias], **ended})
                else:
                    connection.drop(tables.aliases, alias)
            if id in kept.tombstones:
                connection.put(tables.aliases, id, {**_of_start(record), **ended})
        _raise(connection, below)
        return Removed(frozenset(it.instance.id for it in gone))

    async def remove_tombstones(
        self, connection: Any, remember_from: str, below: str | None, most: int
    ) -> int:
        aliases = connection.tables.aliases
        ended = (id for id, it in aliases.items() if it.get("ended") is not None)
        found = sorted(id for id in ended if id < remember_from)[:most]
        for id in found:
            connection.drop(aliases, id)
        _raise(connection, raised(found, below))
        return len(found)


def _raise(connection: Any, below: str | None) -> None:
    mine = connection.tables.remover.get(0, _NO_HOLDER)
    if mine.below != below:
        raised = Remover(mine.owner, mine.epoch, mine.expires_at, below)
        connection.put(connection.tables.remover, 0, raised)


def _aliases(tables: Tables, saga_id: str) -> list[str]:
    return sorted(
        alias
        for alias, it in tables.aliases.items()
        if it["saga_id"] == saga_id and it.get("ended") is None
    )


def _of_start(record: Record) -> dict[str, Any]:
    return {
        "saga_id": record.instance.id,
        "originator": record.originator,
        "reason": None,
        "trace": record.trace,
        "start_id": record.start_id,
        "fingerprint": record.fingerprint,
    }


class VirtualLetters(LetterStore):
    """The dead letters."""

    def __init__(self) -> None:
        pass

    async def old_letters(
        self, connection: Any, before: datetime, after: Place | None, most: int, most_bytes: int
    ) -> Sequence[Any]:
        tables = connection.tables
        found = sorted(
            (at, id, tables.dead[id].destination)
            for id, at in tables.died.items()
            if id in tables.dead and at < before
        )
        behind = [it for it in found if after is None or it > after]
        return [_Letter(tables.dead[id], at) for at, id, _ in behind[:most]]

    async def staying(
        self, connection: Any, keys: Collection[str], before: datetime | None
    ) -> frozenset[str]:
        tables = connection.tables
        return frozenset(
            key
            for key in keys
            if (letter := tables.dead.get(letter_of(key)[0])) is not None
            if letter.destination == letter_of(key)[1]
            if before is None or tables.died[letter_of(key)[0]] >= before
        )

    async def living(self, connection: Any, ids: Collection[str]) -> frozenset[str]:
        return _living(connection.tables, ids)

    async def remove_letters(
        self, connection: Any, keys: Collection[str], before: datetime
    ) -> frozenset[str]:
        tables = connection.tables
        gone = set[str]()
        for key in sorted(keys):
            id, destination = letter_of(key)
            letter = tables.dead.get(id)
            if letter and letter.destination == destination and tables.died[id] < before:
                connection.drop(tables.dead, id)
                connection.put(tables.gone_letters, key, tables.gone_letters.get(key, 0) + 1)
                saga = saga_of(_Letter(letter, before).headers)
                if saga and _living(tables, [saga]):
                    connection.put(tables.early_letters, key, saga)
                gone.add(key)
        return frozenset(gone)


class _Letter:
    """The row of a dead letter, as far as it decides anything."""

    def __init__(self, message: Message, died_at: datetime) -> None:
        envelope = message.envelope
        self.id, self.destination, self.died_at = envelope.id, message.destination, died_at
        of_saga = {"replyto": envelope.reply_to, "correlationid": envelope.correlation}
        self.headers = orjson.dumps(of_saga if envelope.reply_to else {}).decode()

    def __getattr__(self, _: str) -> None:
        return None


def _living(tables: Tables, ids: Collection[str]) -> frozenset[str]:
    there = tables.runs
    return frozenset(it for it in ids if it in there and there[it].instance.ended is None)


class VirtualRetentionLease(RetentionLease):
    """The lease of retention."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._clock_of_all = now

    async def hold_to(self, connection: Any, bound: float) -> None:
        pass

    async def claim(self, connection: Any, owner: str, ttl: timedelta) -> Fence | None:
        mine, now = connection.tables.remover.get(0, _NO_HOLDER), self._clock_of_all()
        if mine.owner not in (None, owner) and mine.expires_at > now:
            return None
        after = Remover(owner, mine.epoch + 1, now + ttl, mine.below)
        connection.put(connection.tables.remover, 0, after)
        return Fence(after.epoch, ttl)

    async def fence(self, connection: Any, fence: Fence) -> tuple[datetime, str | None]:
        mine, now = connection.tables.remover.get(0, _NO_HOLDER), self._clock_of_all()
        if mine.epoch != fence.epoch:
            raise LostLease
        after = Remover(mine.owner, mine.epoch, now + fence.ttl, mine.below)
        connection.put(connection.tables.remover, 0, after)
        return now, mine.below

    async def give_back(self, connection: Any, fence: Fence) -> None:
        mine = connection.tables.remover.get(0, _NO_HOLDER)
        if mine.epoch == fence.epoch:
            after = Remover(mine.owner, mine.epoch, self._clock_of_all(), mine.below)
            connection.put(connection.tables.remover, 0, after)

    async def end_round(self, connection: Any, oldest: datetime | None) -> None:
        pass


class VirtualFiles(FileStore):
    """What the tables know of the archive's files."""

    def __init__(self) -> None:
        pass

    async def add_file(
        self, connection: Any, *, id: str, kind: str, place: str, path: str, ids: Sequence[str]
    ) -> None:
        row = FileRow(id, kind, place, path, frozenset())
        connection.put(connection.tables.files, id, KeptFile(row, FileState.WRITING))

    async def unfinished(self, connection: Any) -> Sequence[FileRow]:
        files = connection.tables.files.values()
        return [it.row for it in files if it.state is FileState.WRITING]

    async def newest(self, connection: Any, place: str | None) -> FileRow | None:
        files = connection.tables.files.values()
        kept = [it.row for it in files if it.state is FileState.KEPT]
        return max(kept, key=lambda it: it.id, default=None)

    async def keep_file(
        self, connection: Any, id: str, items: int, left_out: Collection[str]
    ) -> None:
        files = connection.tables.files
        if id not in files or files[id].state is not FileState.WRITING:
            raise LostLease
        row = files[id].row
        kept = FileRow(id, row.kind, row.place, row.path, frozenset(left_out))
        connection.put(files, id, KeptFile(kept, FileState.KEPT))

    async def knows_file(self, connection: Any, id: str) -> bool:
        return id in connection.tables.files

    async def forget_file(self, connection: Any, id: str) -> None:
        files = connection.tables.files
        if id in files and files[id].state is FileState.WRITING:
            connection.drop(files, id)


class _Memory:
    """A place for files that outlives processes."""

    place = "memory"

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def put(self, path: str, content: bytes) -> None:
        self._files[path] = content

    def get(self, path: str) -> bytes | None:
        return self._files.get(path)

    def remove(self, path: str) -> None:
        self._files.pop(path, None)


def archive_in_memory() -> Archive:
    """An archive that outlives processes, and not the history."""
    return Archive(_Memory(), JsonLines())


def check_removed(tables: Tables, archive: Archive) -> None:
    """Raises Broken where a removed run is there a second time, or not in one file of the
    archive; and where a dead letter is in fewer or more of them than it was removed."""
    of_run: dict[str, list[str]] = {}
    letters = Counter[str]()
    for id, file in tables.files.items():
        if file.state is FileState.KEPT:
            manifest = archive.whole(file.row.path)
            for item in manifest.items if manifest else ():
                if item in file.row.left_out:
                    continue
                if file.row.kind == LETTERS:
                    letters[item] += 1
                else:
                    of_run.setdefault(item, []).append(id)
    if letters != tables.gone_letters:
        raise Broken("P1", f"{letters} are in files, {tables.gone_letters} were removed")
    if tables.early_letters:
        raise Broken("P4", "a dead letter was removed, and its run went on")
    for id, gone in tables.gone.items():
        if id in tables.runs:
            raise Broken("P2", "a run that was removed has begun once more")
        files = of_run.get(id, [])
        if files != [gone.archive_id]:
            promise = "P2" if len(files) > 1 else "P1"
            raise Broken(promise, f"a removed run is in {len(files)} files")
    if stray := of_run.keys() - tables.gone.keys():
        raise Broken("P1", f"{len(stray)} runs are in files and in the tables")
