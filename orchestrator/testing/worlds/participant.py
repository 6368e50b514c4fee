"""A participant: the handlers of a test on a real inbox and a real SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, sessionmaker

from orchestrator.testing.worlds.troubles import Sort, Troubles
from outbox import sqlite, tables
from outbox.adding import installation
from outbox.clock import Clock
from outbox.crashpoints import Crash
from outbox.inbox.handlers import Context, Handler, Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.messages import Message
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import Envelope

Schema = MetaData | Callable[[Connection], object]
"""The tables of a participant, or a function that makes them."""

_metadata = MetaData()
_effect = Table(
    "sagabox_effect",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("saga_id", String(36), nullable=False),
    Column("step", String(100), nullable=False),
    Column("is_undo", Boolean, nullable=False),
)
"""The table of commands that took effect, written in their transactions."""

OURS = frozenset({*tables.metadata.tables, *_metadata.tables})
"""The tables in a participant's database that are not its own."""

# Time is virtual there, and a debugger may hold a handler up.
_HOUR = 3600.0
_LIMITS = InboxLimits(transaction=_HOUR, lock=1.0, answer_within=3 * _HOUR)
_FAULT = "it was to fail in this test, after its work was done"


@dataclass(frozen=True, slots=True)
class Effect:
    """What one command did, for good. `number` grows over all participants."""

    number: int
    saga_id: str
    step: str
    is_undo: bool


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a command: its run, step and direction."""

    saga_id: str
    step: str
    is_undo: bool

    @classmethod
    def of(cls, envelope: Envelope) -> Place:
        """The place of a command of the orchestrator."""
        saga_id, _, step = envelope.key.partition("/")
        return cls(saga_id, step, bool(envelope.undoes))


class Database:
    """A SQLite file with two ways into it, both made safe; quick, since no machine dies here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        self.plain: Engine = create_engine(f"sqlite:///{path}")
        for engine in (self.engine.sync_engine, self.plain):
            sqlite.configure(engine)
            event.listen(engine, "connect", _without_flush)
        self._kept = sqlite3.connect(":memory:")

    def create(self, *schemas: Schema) -> None:
        """Make these tables."""
        with self.plain.begin() as connection:
            for schema in schemas:
                if isinstance(schema, MetaData):
                    schema.create_all(connection)
                else:
                    schema(connection)

    def keep(self) -> None:
        """Remember the present content."""
        self._copy(to=self._kept)

    def restore(self) -> None:
        """Restore the remembered content."""
        self._copy(back_from=self._kept)

    def _copy(
        self, *, to: sqlite3.Connection | None = None, back_from: sqlite3.Connection | None = None
    ) -> None:
        file = sqlite3.connect(self._path)
        try:
            if to is not None:
                file.backup(to)
            if back_from is not None:
                back_from.backup(file)
        finally:
            file.close()

    async def close(self) -> None:
        """Leave no connection behind."""
        self._kept.close()
        self.plain.dispose()
        await self.engine.dispose()


def _without_flush(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()


class Participant:
    """A service with these handlers. `number` counts effects."""

    def __init__(
        self,
        name: str,
        handlers: Handlers,
        database: Database,
        clock: Clock,
        number: Callable[[], int],
    ) -> None:
        self.name = name
        self.database = database
        self.troubles = Troubles()
        self._number = number
        self._clock = clock
        self._places: dict[str, Place] = {}
        self._decided: dict[str, Sort | None] = {}
        self._refused: set[str] = set()
        self._handlers = _Watched(handlers, self._call)
        self.sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(
            database.engine, expire_on_commit=False
        )
        self.plain_sessions: sessionmaker[Session] = sessionmaker(
            database.plain, expire_on_commit=False
        )
        self._inbox = self._new_inbox()

    def create(self, schemas: Sequence[Schema], routes: installation.Routes) -> None:
        """Make its tables, and let its sessions take messages."""
        self.database.create(tables.metadata, _metadata, *schemas)
        for sessions in (self.sessions, self.plain_sessions):
            installation.install(sessions, source=self.name, routes=routes, clock=self._clock)

    def begin(self, troubles: Troubles) -> None:
        """Begin as a service that was just started, in a world with these troubles."""
        self.troubles = troubles
        self._inbox = self._new_inbox()
        self._places, self._decided, self._refused = {}, {}, set()

    def _new_inbox(self) -> Inbox:
        return Inbox(self._handlers, self.sessions, clock=self._clock, limits=_LIMITS)

    async def receive(self, envelopes: Sequence[Envelope]) -> list[Reply] | None:
        """The answers; None where it died before it gave them."""
        self._decided = {}
        for envelope in envelopes:
            self._places[envelope.id] = Place.of(envelope)
        try:
            return await self._inbox.receive(envelopes)
        except Crash:
            # Its memory is gone.
            self._inbox = self._new_inbox()
            return None

    def effects(self) -> list[Effect]:
        """The effects at this participant."""
        with self.database.plain.connect() as connection:
            return [Effect(*row) for row in connection.execute(select(_effect))]

    async def _call(
        self,
        handler: Handler,
        session: AsyncSession,
        messages: Sequence[Message],
        contexts: Sequence[Context],
    ) -> list[Reply]:
        decided = [self._decide(context.id) for context in contexts]
        if handler.is_for_commands:
            turned_away = [_ANSWERS.get(it) if it else None for it in decided]
            if any(turned_away):
                # Of a list, the others are asked again, each alone.
                return [reply or _NOT_NOW for reply in turned_away]
        replies = await Handler.__call__(handler, session, messages, contexts)
        if Sort.FAILS in decided:
            raise RuntimeError(_FAULT)
        for context, reply in zip(contexts, replies, strict=True):
            place = self._places[context.id]
            if handler.is_for_commands and reply.outcome is Outcome.DONE:
                row = {"number": self._number(), "saga_id": place.saga_id, "step": place.step}
                await session.execute(insert(_effect).values(**row, is_undo=place.is_undo))
        return replies

    def _decide(self, id: str) -> Sort | None:
        """Decide what happens to that message. The inbox may ask twice at one arrival: for the
        batch, and for the message alone."""
        if id not in self._decided:
            self._decided[id] = self._next(id)
        return self._decided[id]

    def _next(self, id: str) -> Sort | None:
        if id in self._refused:
            # The participant died before that was committed, and would say the same again.
            return Sort.REFUSED
        place = self._places[id]
        for sort in (Sort.FAILS, Sort.REFUSED, Sort.LOCKED):
            if self.troubles.strikes(sort, place.step, undo=place.is_undo):
                if sort is Sort.REFUSED:
                    self._refused.add(id)
                return sort
        return None


_ANSWERS: Mapping[Sort, Reply] = {
    Sort.REFUSED: Reply(
        Outcome.REFUSED, code="refused", reason="it was to be refused in this test"
    ),
    Sort.LOCKED: Reply(Outcome.LOCKED, code="locked", reason="it was to be locked in this test"),
}
_NOT_NOW = Reply(Outcome.ONGOING, code="ongoing", retry_after=0.1)

_Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _WatchedHandler(Handler):
    call: _Call = field(kw_only=True)

    async def __call__(
        self, session: AsyncSession, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Reply]:
        replies: list[Reply] = await self.call(self, session, messages, contexts)
        return replies


class _Watched(Handlers):
    """The handlers, each called through `call`."""

    def __init__(self, handlers: Handlers, call: _Call) -> None:
        super().__init__(handlers.consumer)
        for name in handlers.types:
            known = handlers.find(name)
            assert known is not None, "its type is listed"
            self._by_type[name] = _WatchedHandler(
                known.message_class,
                known.function,
                known.takes_lists,
                known.is_async,
                _HOUR,
                known.check,
                call=call,
            )

    def restrict(self, rule: Callable[[Handler], None]) -> None:
        """Nothing: no loop has to go on here while a handler works, and no writer waits for it."""
