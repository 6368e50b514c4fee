"""One transaction of the inbox: insert the ids, look, run handlers, write answers, commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import assert_never

from sqlalchemy import Connection
from sqlalchemy.exc import InternalError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.adding.causes import Cause, caused_by
from outbox.crashpoints import crashpoint
from outbox.database.troubles import Trouble, trouble_in_handler, trouble_in_statement
from outbox.errors import IsolationRefused, TransactionLost
from outbox.inbox import session as inbox_session
from outbox.inbox import store
from outbox.inbox.barrier import Answer, Arrival, Change, Run, Verdict, claims, conclude, decide
from outbox.inbox.batches import runs
from outbox.inbox.handlers import Context, Handler, Handlers
from outbox.inbox.limits import Pace
from outbox.inbox.retention import NOTHING_FORGOTTEN, age_of, may_be_forgotten
from outbox.inbox.session import CommitLock, HandlerMeddled
from outbox.replies import Outcome, Reply
from outbox.tracing import Handling, fields_of, tracer_in_use
from outbox.wire.envelope import Envelope

log = logging.getLogger(__name__)


Told = Callable[[Session, Envelope, Reply], None]
"""A callback that gets an answer in the transaction that keeps it. It may add messages."""


class RolledBack(Exception):
    """The transaction was rolled back; the caller tries or answers the messages in another way.

    `reply` is a handler's answer that cannot be stored. Otherwise `error` is what happened, and
    `trouble` what it says about trying again. `in_hand` are the messages whose handler was running.
    """

    def __init__(
        self,
        trouble: Trouble,
        error: BaseException,
        in_hand: Sequence[Arrival],
        reply: Reply | None = None,
    ) -> None:
        super().__init__(trouble, error)
        self.trouble = trouble
        self.error = error
        self.in_hand = in_hand
        self.reply = reply


class _SteppedBack(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class _HandlerFailed(Exception):
    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Vanished(Exception):
    """A row was purged between the insert that found it there and the look at it."""


class InboxTransaction:
    """One transaction for some messages, which keeps all their effects and answers, or nothing.

    `together` holds the messages of a batch: each must be DONE, or be answered without its handler.
    A single message may be refused, too: its handler runs within a savepoint.
    """

    def __init__(
        self,
        session: AsyncSession,
        handlers: Handlers,
        arrivals: Sequence[Arrival],
        *,
        together: bool,
        now: datetime,
        attempt_of: Callable[[str], int],
        told: Told | None = None,
    ) -> None:
        self.called: list[Arrival] = []
        """Whose handler was called."""
        self._session = session
        self._handlers = handlers
        self._arrivals = arrivals
        self._together = together
        self._tracer = tracer_in_use()
        self._now = now
        self._attempt_of = attempt_of
        self._told = told
        self._lock = CommitLock(session.sync_session)
        self._connection: Connection | None = None
        self._in_hand: Sequence[Arrival] = ()
        self._replies: list[Reply | None] = [None] * len(arrivals)
        self._changes: list[Change] = []
        self._forget: list[str] = []

    async def run(self, pace: Pace, patience: float) -> list[Reply]:
        """The answers, committed. `patience` (seconds) bounds the waits for a connection and for
        the commit.

        Raises RolledBack; and the database's own error where it is away or full, or where the
        outcome of the commit is unknown: a repetition then waits at the insert of the ids until
        it is known.
        """
        session = self._session
        async with asyncio.timeout(patience):
            self._connection = (await session.connection()).sync_connection
        try:
            async with asyncio.timeout(pace.total) as time:
                verdicts = await session.run_sync(self._look, pace)
                await self._handle(verdicts)
                await session.run_sync(self._write)
        except TimeoutError as error:
            if not time.expired():
                raise
            late = TimeoutError(f"it was not done within {pace.total:g} s")
            raise RolledBack(Trouble.SLOW, late, self._in_hand) from error
        except Exception as error:
            raise self._judged(error) from error
        self._in_hand = ()
        crashpoint("inbox: before commit")
        self._lock.lift()
        try:
            async with asyncio.timeout(patience):
                await session.commit()
        except Exception as error:
            raise self._judged(error) from error
        crashpoint("inbox: after commit, before reply")
        return [reply for reply in self._replies if reply is not None]

    def _look(self, session: Session, pace: Pace) -> list[Verdict]:
        if store.is_postgresql(session):
            inbox_session.forget_failures(session)
            level = store.limit_waiting(session, pace.lock, pace.statement)
            inbox_session.require_read_committed(level)
        consumer = self._handlers.consumer
        rows = claims(self._arrivals)
        won = store.insert(session, consumer, rows, self._now)
        found = {}
        if lost := {row.id for row in rows} - won:
            # In statements of their own: the one that inserts does not see a row that another
            # transaction was still inserting when it began.
            undone = {action for each in self._arrivals for action in each.envelope.undoes}
            if actions := lost & undone:
                found = store.read(session, consumer, actions, lock=True)
            if others := lost - undone:
                found |= store.read(session, consumer, others, lock=False)
            if len(found) < len(lost):
                raise _Vanished
        forgotten = NOTHING_FORGOTTEN
        if may_be_forgotten(_ages(self._arrivals, won), self._now):
            # After the insert: the watermark of a purge in between would have gone unseen.
            forgotten = store.watermarks(session, consumer)
        return [decide(each, found, forgotten, self._now) for each in self._arrivals]

    async def _handle(self, verdicts: Sequence[Verdict]) -> None:
        to_run: list[tuple[int, Run]] = []
        for position, verdict in enumerate(verdicts):
            match verdict:
                case Answer(reply, changes, forget):
                    self._replies[position] = reply
                    self._changes += changes
                    self._forget += forget
                case Run():
                    to_run.append((position, verdict))
                case other:
                    assert_never(other)
        arrivals = [self._arrivals[position] for position, _ in to_run]
        for call in runs(arrivals, self._handlers.takes_lists):
            answers = await self._call([(arrivals[each], to_run[each][1]) for each in call])
            for each, reply in zip(call, answers, strict=True):
                position, run = to_run[each]
                self._replies[position] = reply
                self._changes += conclude(arrivals[each], run, reply)

    async def _call(self, items: Sequence[tuple[Arrival, Run]]) -> list[Reply]:
        arrivals = [arrival for arrival, _ in items]
        handler = self._handlers.find(arrivals[0].envelope.type)
        assert handler is not None, "an arrival has a handler"
        self._in_hand = arrivals
        self.called += arrivals
        contexts = [self._context(arrival, run) for arrival, run in items]
        causes = [_cause(each) for each in arrivals]
        caused_by(self._session, causes if handler.takes_lists else causes[0])
        call = self._straight if self._together else self._within_savepoint
        try:
            with Handling([each.envelope for each in arrivals], self._tracer):
                replies = await call(handler, arrivals, contexts)
        except Exception as error:
            raise _HandlerFailed(error) from error
        for reply in replies:
            refused = reply.outcome is Outcome.REFUSED
            if reply.outcome is not Outcome.DONE and (self._together or not refused):
                raise _SteppedBack(reply)
        if log.isEnabledFor(logging.DEBUG):
            _tell(self._handlers.consumer, arrivals, replies)
        return replies

    async def _straight(
        self, handler: Handler, arrivals: Sequence[Arrival], contexts: Sequence[Context]
    ) -> list[Reply]:
        sync_session = self._session.sync_session
        root = sync_session.get_transaction()
        replies = await handler(self._session, [each.message for each in arrivals], contexts)
        if sync_session.get_transaction() is not root or sync_session.in_nested_transaction():
            raise HandlerMeddled
        await inbox_session.leave_as_new(self._session)
        return replies

    async def _within_savepoint(
        self, handler: Handler, arrivals: Sequence[Arrival], contexts: Sequence[Context]
    ) -> list[Reply]:
        sync_session = self._session.sync_session
        async with self._session.begin_nested() as savepoint:
            replies = await handler(self._session, [each.message for each in arrivals], contexts)
            if sync_session.get_nested_transaction() is not savepoint.sync_transaction:
                raise HandlerMeddled
            if replies[0].outcome is not Outcome.DONE:
                await savepoint.rollback()
        return replies

    def _context(self, arrival: Arrival, run: Run) -> Context:
        envelope = arrival.envelope
        return Context(
            id=envelope.id,
            correlation=envelope.correlation,
            causation=envelope.causation,
            attempt=self._attempt_of(envelope.id),
            source=envelope.source,
            trace=envelope.trace,
            undoes=tuple(row.id for row in run.undoes),
        )

    def _write(self, session: Session) -> None:
        caused_by(session, None)
        consumer = self._handlers.consumer
        if self._forget:
            store.forget(session, consumer, self._forget)
        if self._changes:
            store.write(session, consumer, self._changes)
        elif inbox_session.has_failed(session):
            store.probe(session)
        if self._told is not None:
            for arrival, reply in zip(self._arrivals, self._replies, strict=True):
                if reply is not None:
                    caused_by(session, _cause(arrival))
                    self._told(session, arrival.envelope, reply)
            caused_by(session, None)

    def _judged(self, error: Exception) -> Exception:
        """The exception to raise for an error: RolledBack, or the error itself where the database
        is away."""
        match error:
            case _SteppedBack(reply=reply):
                return RolledBack(Trouble.OWN, error, self._in_hand, reply)
            case _HandlerFailed(error=cause):
                trouble, found = trouble_in_handler(cause), cause
            case _Vanished():
                trouble, found = Trouble.CROSSED, error
            case IsolationRefused():
                return error
            case _:
                trouble, found = trouble_in_statement(error), error
                if trouble is Trouble.OWN and isinstance(
                    error, InternalError | OperationalError | ProgrammingError
                ):
                    # Our own statements fail like this on a database without our tables.
                    return error
        if trouble.is_the_databases:
            return found
        if self._connection is not None and self._connection.invalidated:
            # A handler hid that failure, and every later error is only a consequence.
            return TransactionLost(
                "the connection to the database broke while a handler ran",
                next_step="send the messages again, once the database is back",
            )
        return RolledBack(trouble, found, self._in_hand)


def _tell(consumer: str, arrivals: Sequence[Arrival], replies: Sequence[Reply]) -> None:
    for arrival, reply in zip(arrivals, replies, strict=True):
        envelope, outcome = arrival.envelope, reply.outcome.value
        log.debug("%s handled %s: %s", consumer, envelope.type, outcome, extra=fields_of(envelope))


def _ages(arrivals: Sequence[Arrival], won: Collection[str]) -> Iterator[str]:
    """The ages of the messages, and of the actions that they undo, that were not known before."""
    for each in arrivals:
        envelope = each.envelope
        if envelope.id in won:
            yield age_of(envelope.id, None if each.is_alone else envelope.due)
        yield from (action for action in envelope.undoes if action in won)


def _cause(arrival: Arrival) -> Cause:
    envelope = arrival.envelope
    return Cause(envelope.id, envelope.correlation, envelope.trace)
