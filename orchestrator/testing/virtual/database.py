"""A database that is a few dicts: transactions that are kept or undone as a whole, and that can
fail in the ways in which real ones do.

Transactions follow one another: concurrency is tried by the same histories on real databases.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.machine.transition import Entry
from orchestrator.retention.files import FileRow, FileState
from orchestrator.store.records import Record
from orchestrator.store.start_store import StartKey
from orchestrator.testing.virtual.chances import Chances, Fault
from outbox.errors import TransactionLost
from outbox.wire.envelope import Envelope

_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Message:
    """A row of the outbox, or of the messages that are parked or dead."""

    seq: int
    destination: str
    bucket: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Hold:
    """A key that rests."""

    head_id: str
    attempts: int
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a shard: its owner, and its end."""

    owner: str | None
    epoch: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """A stored signal: a row of the signals."""

    seq: int
    shard: int
    saga_id: str
    kind: str
    payload: str
    answer: str | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Remover:
    """The row of the retention: its holder, and the id below which an absent run may be gone."""

    owner: str | None
    epoch: int
    expires_at: datetime
    below: str | None


@dataclass(frozen=True, slots=True)
class Gone:
    """A run that was removed, as it was, and its file in the archive. No process can read it."""

    record: Record
    archive_id: str | None


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of the archive."""

    row: FileRow
    state: FileState


@dataclass(eq=False)
class Tables:
    """The tables with all stored rows."""

    runs: dict[str, Record] = field(default_factory=dict)
    ended: dict[str, datetime] = field(default_factory=dict)
    """When runs ended."""
    parked_runs: dict[str, str] = field(default_factory=dict)
    active: dict[tuple[str, str], str] = field(default_factory=dict)
    history: dict[tuple[str, int], Entry] = field(default_factory=dict)
    aliases: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    keys: dict[tuple[str, str], StartKey] = field(default_factory=dict)
    signals: dict[int, Told] = field(default_factory=dict)
    batches: dict[str, bool] = field(default_factory=dict)
    outbox: dict[int, Message] = field(default_factory=dict)
    parked: dict[int, Message] = field(default_factory=dict)
    dead: dict[str, Message] = field(default_factory=dict)
    died: dict[str, datetime] = field(default_factory=dict)
    """When messages were given up."""
    held: dict[tuple[str, int, str], Hold] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    nodes: dict[str, datetime] = field(default_factory=dict)
    remover: dict[int, Remover] = field(default_factory=dict)
    gone: dict[str, Gone] = field(default_factory=dict)
    gone_letters: dict[str, int] = field(default_factory=dict)
    """How often a dead letter was removed: it may have been sent again, and given up again."""
    early_letters: dict[str, str] = field(default_factory=dict)
    """Those that were removed while their run went on, and that run."""
    files: dict[str, KeptFile] = field(default_factory=dict)


class Database:
    """The database, which stays when processes die."""

    def __init__(self, chances: Chances) -> None:
        self.tables = Tables()
        self.is_away = False
        self._chances = chances
        self._last_seq = 0

    def next_seq(self) -> int:
        """A number that was never given before."""
        self._last_seq += 1
        return self._last_seq

    @contextmanager
    def committing(self, connection: Connection) -> Iterator[None]:
        """Keep what is written up to the end of the block; or raise TransactionLost, and keep it or
        not. Whether it will is decided first, since a statement may be all of the transaction."""
        fate = fate_of_commit(self._chances)
        if fate is Fault.COMMIT_FAILED:
            connection.undo_all()
            raise lost()
        try:
            yield
        except BaseException:
            connection.undo_all()
            raise
        connection.undo.clear()
        if fate is Fault.COMMIT_LOST:
            raise lost()


class Connection:
    """One connection; it is in a transaction from its first write on."""

    def __init__(self, database: Database) -> None:
        self.tables = database.tables
        self.undo: list[tuple[MutableMapping[Any, Any], Any, Any]] = []
        self._database = database

    def put(self, table: MutableMapping[Any, Any], key: Hashable, row: Any) -> None:
        """Write a row."""
        self.undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = row

    def drop(self, table: MutableMapping[Any, Any], key: Hashable) -> None:
        """Delete a row, if it is there."""
        if key in table:
            self.undo.append((table, key, table.pop(key)))

    def next_seq(self) -> int:
        """As `Database.next_seq`."""
        return self._database.next_seq()

    def undo_all(self) -> None:
        """Undo every write."""
        while self.undo:
            table, key, row = self.undo.pop()
            if row is _ABSENT:
                table.pop(key, None)
            else:
                table[key] = row

    async def commit(self) -> None:
        """Commit, as `Database.committing` does."""
        with self.committing():
            pass

    def committing(self) -> AbstractContextManager[None]:
        """As `Database.committing`."""
        return self._database.committing(self)

    async def rollback(self) -> None:
        """Undo what was written."""
        self.undo_all()

    async def invalidate(self) -> None:
        """Undo every uncommitted write."""
        self.undo_all()


class Dialect:
    """Times are those of the process that writes, as on SQLite."""

    name = "sqlite"


class Engine:
    """The stand-in for SQLAlchemy's AsyncEngine."""

    dialect = Dialect()

    def __init__(self, database: Database) -> None:
        self._database = database

    def execution_options(self, **_: Any) -> Engine:
        """There is but one way to read and write."""
        return self

    def connect(self) -> _Block:
        """A connection; uncommitted writes on it are undone."""
        return _Block(self._database, commits=False)

    def begin(self) -> _Block:
        """A connection that commits where the block ends well."""
        return _Block(self._database, commits=True)


class _Block:
    def __init__(self, database: Database, *, commits: bool) -> None:
        self._database = database
        self._commits = commits
        self._connection = Connection(database)

    async def __aenter__(self) -> Connection:
        if self._database.is_away:
            raise away()
        return self._connection

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self._commits:
                await self._connection.commit()
        finally:
            self._connection.undo_all()


def fate_of_commit(chances: Chances) -> Fault | None:
    """The fate of a commit; None for a normal one."""
    for fault in (Fault.COMMIT_FAILED, Fault.COMMIT_LOST):
        if chances.fault(fault):
            return fault
    return None


def lost() -> TransactionLost:
    """The error of a commit whose outcome is unknown."""
    return TransactionLost("the answer to a commit was lost", next_step="find out")


def away() -> TransactionLost:
    """The error of a database that accepts no connection."""
    return TransactionLost("the database is away", next_step="wait")
