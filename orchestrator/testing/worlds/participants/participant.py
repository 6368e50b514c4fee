"""A participant: the handlers of a test on a real inbox and a real SQLite database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from outbox.inbox.registration import is_async
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from orchestrator.testing.worlds.participants.database import Database, Schema
from orchestrator.testing.worlds.participants.watched import Watched
from orchestrator.testing.worlds.troubles import Sort, Troubles
from outbox import sqlite, tables
from outbox.adding import installation
from outbox.clock import Clock
from outbox.contract import CommandAnswered
from outbox.crashpoints import Crash
from outbox.inbox.handlers import Context, Handler, Handlers
from outbox.inbox.handling.registration import is_async
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.messages import type_of
from outbox.replies import Outcome, Reply
from outbox.service.completing import Completing
from outbox.wire import reply_json
from outbox.wire.codec import decode
from outbox.wire.envelope import Envelope

REPLY = str(type_of(CommandAnswered))
"""The type of the messages by which participants answer later."""

_metadata = MetaData()
_effect = Table(
    "sagabox_effect",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    tables.id_column(),
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
    """What one command did, for good. `number` grows over all participants; `is_refused` says that
    it was pending, and was refused then."""

    number: int
    saga_id: str
    step: str
    is_undo: bool
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a command: its run, step and direction."""

    saga_id: str
    step: str
    is_undo: bool

    @classmethod
    def of(cls, envelope: Envelope) -> Place:
        """The place of a command of the orchestrator."""
        return cls.at(envelope.key, bool(envelope.undoes))

    @classmethod
    def at(cls, key: str, is_undo: bool) -> Place:
        """The place of a command with that order key."""
        saga_id, _, step = key.partition("/")
        return cls(saga_id, step, is_undo)


class Participant:
    """A service with these handlers, synchronous where all of them are plain functions. `number`
    counts effects."""

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
        self._handlers = Watched(handlers, self, timeout=_HOUR)
        self._completing = Completing(self._handlers, clock)
        self._is_synchronous = not any(it.is_async for it in handlers)
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
        sessions = self.plain_sessions if self._is_synchronous else self.sessions
        return Inbox(self._handlers, sessions, clock=self._clock, limits=_LIMITS)

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

    async def complete(self, id: str, answer: object) -> bool:
        """Complete a pending command: by a function `(session, id)`, or with this answer. False
        where it died before that was committed, as far as its caller knows.

        Raises CannotComplete, and what the function raises.
        """
        try:
            if callable(answer) and not is_async(answer):
                with self.plain_sessions.begin() as plain:
                    answer(plain, id)
                return True
            # `sessions.begin()` leaves a session open where its commit dies.
            async with self.sessions() as session, session.begin():
                done = answer if callable(answer) else self._completed_with(answer)
                await done(session, id)
        except Crash:
            self._inbox = self._new_inbox()
            return False
        return True

    def _completed_with(self, answer: object) -> Callable[[AsyncSession, str], Awaitable[None]]:
        return lambda session, id: self._completing(session, id, answer)

    # What lies in its database

    def pending(self) -> dict[str, Place]:
        """The commands that are pending until they are completed, oldest first."""
        row = tables.inbox_pending.c
        statement = (
            select(row.id, row.key, row.undoes)
            .where(row.attempt == 0, row.saga.is_not(None))
            .order_by(row.since, row.id)
        )
        with self._reading() as connection:
            found = connection.execute(statement).all()
        return {it.id: Place.at(it.key, it.undoes != "[]") for it in found}

    def take_replies(self) -> list[CommandAnswered]:
        """The messages by which it answers later, which leave its outbox with this."""
        row = tables.outbox.c
        with self._reading() as connection:
            statement = select(row.seq, row.payload).where(row.type == REPLY).order_by(row.seq)
            found = connection.execute(statement).all()
        if found:
            with self.database.plain.begin() as connection:
                connection.execute(delete(tables.outbox).where(row.type == REPLY))
        return [decode(CommandAnswered, it.payload.encode()) for it in found]

    def effects(self) -> list[Effect]:
        """The effects at this participant."""
        row, inbox = _effect.c, tables.inbox.c
        statement = (
            select(row.number, row.saga_id, row.step, row.is_undo, inbox.reply)
            .select_from(_effect)
            .outerjoin(tables.inbox, inbox.id == row.id)
        )
        with self._reading() as connection:
            found = connection.execute(statement).all()
        return [Effect(*it[:4], is_refused=_is_refusal(it.reply)) for it in found]

    def _reading(self) -> Connection:
        return self.database.plain.execution_options(**sqlite.READ_ONLY).connect()

    # The watch over its handlers

    def before(self, handler: Handler, contexts: Sequence[Context]) -> list[Reply] | None:
        """The answers where the handler is not to be called."""
        decided = [self._decide(context.id) for context in contexts]
        turned_away = [_ANSWERS.get(it) if it else None for it in decided]
        if handler.is_for_commands and any(turned_away):
            # Of a list, the others are asked again, each alone.
            return [reply or _NOT_NOW for reply in turned_away]
        return None

    def after(
        self,
        session: Session,
        handler: Handler,
        contexts: Sequence[Context],
        replies: Sequence[Reply],
    ) -> None:
        """Note the effects of the call, in its transaction. Raises where it was to fail."""
        if Sort.FAILS in [self._decide(context.id) for context in contexts]:
            raise RuntimeError(_FAULT)
        for context, reply in zip(contexts, replies, strict=True):
            place = self._places[context.id]
            takes_effect = reply.outcome is Outcome.DONE or reply.is_pending
            if handler.is_for_commands and takes_effect:
                row = {"number": self._number(), "saga_id": place.saga_id, "step": place.step}
                values = row | {"id": context.id, "is_undo": place.is_undo}
                session.execute(insert(_effect).values(values))

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


def _is_refusal(reply: str | None) -> bool:
    return reply is not None and reply_json.loads(reply).outcome is Outcome.REFUSED
