"""A participant: the handlers of a test on a real inbox and a real database."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from sqlalchemy import Connection, delete, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from orchestrator.testing.worlds.participants import effects
from orchestrator.testing.worlds.participants.database import Database, Schema
from orchestrator.testing.worlds.participants.effects import Effect, Place
from orchestrator.testing.worlds.participants.process import Process
from orchestrator.testing.worlds.participants.switchboard import Switchboard
from orchestrator.testing.worlds.participants.watched import Watched
from orchestrator.testing.worlds.troubles import Sort, Troubles
from outbox import sqlite
from outbox.adding import installation
from outbox.clock import Clock
from outbox.contract import CommandAnswered
from outbox.crashpoints import Crash
from outbox.inbox.handlers import Context, Handler, Handlers
from outbox.inbox.outside.rules import Promise
from outbox.messages import type_of
from outbox.replies import Outcome, Reply
from outbox.service.completing import Completing
from outbox.tables import Tables
from outbox.wire.codec import decode
from outbox.wire.envelope import Envelope

REPLY = str(type_of(CommandAnswered))
"""The type of the messages by which participants answer later."""

_FAULT = "it was to fail in this test, after its work was done"


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
        tables: Tables,
    ) -> None:
        self.name = name
        self.tables = tables
        self.database = database
        self.troubles = Troubles()
        self._switchboard: Switchboard | None = None
        self._number = number
        self._clock = clock
        self._places: dict[str, Place] = {}
        self._decided: dict[str, Sort | None] = {}
        self._refused: set[str] = set()
        self._handlers = Watched(handlers, self)
        self._completing = Completing(self._handlers, clock)
        kinds = {is_async for it in handlers for _, is_async in it.in_sessions}
        self._is_synchronous = kinds == {False}
        self.sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(
            database.engine, expire_on_commit=False
        )
        self.plain_sessions: sessionmaker[Session] = sessionmaker(
            database.plain, expire_on_commit=False
        )
        self._process = self._new_process()

    def create(self, schemas: Sequence[Schema], routes: installation.Routes) -> None:
        """Make its tables, and let its sessions take messages."""
        self.database.create(self.tables.metadata, effects.metadata, *schemas)
        for sessions in (self.sessions, self.plain_sessions):
            installation.install(
                sessions, source=self.name, routes=routes, clock=self._clock, tables=self.tables
            )

    @property
    def others(self) -> frozenset[str]:
        """The tables in its database that are not its own."""
        return frozenset({*self.tables.metadata.tables, *effects.metadata.tables})

    def begin(self, troubles: Troubles, switchboard: Switchboard) -> None:
        """Begin as a service that was just started, in a world with these troubles."""
        self.troubles = troubles
        self._switchboard = switchboard
        self._process = self._new_process()
        self._places, self._decided, self._refused = {}, {}, set()

    def _new_process(self) -> Process:
        sessions = self.plain_sessions if self._is_synchronous else self.sessions
        return Process(self._handlers, sessions, self._clock)

    async def receive(self, envelopes: Sequence[Envelope]) -> list[Reply] | None:
        """The answers; None where it died before it gave them."""
        self._decided = {}
        for envelope in envelopes:
            self._places[envelope.id] = Place.of(envelope)
        deaths = self.troubles.deaths
        replies = None
        with suppress(Crash):
            replies = await self._process.receive(envelopes)
        # It may have died in a call, beside its delivery.
        if self.troubles.deaths == deaths:
            return replies
        await self._die()
        return None

    async def complete(self, id: str, answer: object) -> bool:
        """Complete a pending command: by a function `(session, id)`, or with this answer. False
        where it died before that was committed, as far as its caller knows.

        Raises CannotComplete, and what the function raises.
        """
        try:
            if callable(answer) and not inspect.iscoroutinefunction(answer):
                with self.plain_sessions.begin() as plain:
                    answer(plain, id)
                return True
            # `sessions.begin()` leaves a session open where its commit dies.
            async with self.sessions() as session, session.begin():
                done = answer if callable(answer) else self._completed_with(answer)
                await done(session, id)
        except Crash:
            await self._die()
            return False
        return True

    def _completed_with(self, answer: object) -> Callable[[AsyncSession, str], Awaitable[None]]:
        return lambda session, id: self._completing(session, id, answer)

    async def _die(self) -> None:
        """Its memory is gone, and its calls end."""
        process, self._process = self._process, self._new_process()
        await process.give_up()

    def _replace(self) -> None:
        """Another process comes in the place of this one, which stands still."""
        self._process = self._new_process()

    # What lies in its database

    def pending(self) -> dict[str, Place]:
        """The commands that are pending until they are completed, oldest first."""
        row = self.tables.inbox_pending.c
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
        row = self.tables.outbox.c
        with self._reading() as connection:
            statement = select(row.seq, row.payload).where(row.type == REPLY).order_by(row.seq)
            found = connection.execute(statement).all()
        if found:
            with self.database.plain.begin() as connection:
                connection.execute(delete(self.tables.outbox).where(row.type == REPLY))
        return [decode(CommandAnswered, it.payload.encode()) for it in found]

    def effects(self) -> list[Effect]:
        """The effects at this participant."""
        with self._reading() as connection:
            return effects.noted(connection, self.tables.inbox)

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
        is_call = handler.outside is not None
        for context, reply in zip(contexts, replies, strict=True):
            takes_effect = reply.outcome is Outcome.DONE or reply.is_pending
            if handler.is_for_commands and takes_effect:
                place = self._places[context.id]
                effects.note(session, self._number(), context.id, place, is_call=is_call)

    async def call(
        self, promise: Promise, context: Context, function: Callable[[], Awaitable[object]]
    ) -> object:
        """What a call to the outside comes to."""
        assert self._switchboard is not None, "it has begun"
        seconds = promise.timeout.total_seconds()
        return await self._switchboard.make(
            self._process,
            context.id,
            self._places[context.id],
            seconds,
            function,
            self._replace,
        )

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
