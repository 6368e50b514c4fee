"""One transaction of the inbox: insert the ids, look, run handlers, write answers.

The code is synchronous. A runner (`on_loop`, `in_threads`) hands it a session, calls handlers for
it in its own way, and commits.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from outbox.adding.causes import caused_by
from outbox.adding.insert import refuse_autocommit
from outbox.adding.one_database import hold_to
from outbox.crashpoints import crashpoint
from outbox.database.troubles import Trouble, trouble_in_handler
from outbox.inbox.barrier import claims, conclude, decide, over
from outbox.inbox.batches import is_asked_for_again, runs
from outbox.inbox.handlers import Handler, Handlers
from outbox.inbox.outside.beginning import Beginning
from outbox.inbox.outside.call import Call as OutsideCall
from outbox.inbox.outside.registration import Begun
from outbox.inbox.pending.keeping import (
    context_of,
    keep,
    pended_of,
    require_in_time,
    require_way_back,
    tell_all,
    undone_by,
    with_pended,
)
from outbox.inbox.pending.pended import Pended
from outbox.inbox.retention import NOTHING_FORGOTTEN, age_of, may_be_forgotten
from outbox.inbox.rows import Again, Answer, Arrival, Change, Row, Run, Verdict
from outbox.inbox.transactions import session as inbox_session
from outbox.inbox.transactions import store
from outbox.inbox.transactions.claiming import Bounds, claim
from outbox.inbox.transactions.judging import HandlerFailed, SteppedBack, Vanished, judged
from outbox.inbox.transactions.session import CommitLock, HandlerGivenUp
from outbox.inbox.transactions.terms import (
    Call,
    HandlerLate,
    Terms,
    cause_of,
    failure,
    tell_failure,
)
from outbox.messages import Message, type_of
from outbox.replies import Outcome, Reply
from outbox.tracing import Handling, fields_of, tracer_in_use

log = logging.getLogger("outbox.inbox")

_HAS_HANDLER = "an arrival has a handler"


@dataclass
class _Result:
    """The answers so far, and what is to be written for them."""

    replies: list[Reply | None]
    changes: list[Change] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)
    pended: list[Pended] = field(default_factory=list)
    """What is kept of commands whose answers come later."""
    over: list[str] = field(default_factory=list)
    """The ids of those that are pending no longer."""
    told: list[tuple[Pended, Reply]] = field(default_factory=list)
    """Answers to other commands, which are sent."""
    held: set[str] = field(default_factory=set)
    """The keys of which a message comes again."""


class InboxTransaction:
    """One transaction for some messages, which keeps all their effects and answers, or nothing."""

    def __init__(self, handlers: Handlers, arrivals: Sequence[Arrival], terms: Terms) -> None:
        self.called: list[Arrival] = []
        """Whose handler was called."""
        self.took: dict[str, float] = {}
        """By message type, the seconds that the last message of it took."""
        self._handlers = handlers
        self._arrivals = arrivals
        self._terms = terms
        self._tracer = tracer_in_use()
        self._now = terms.clock.now()
        self._lock: CommitLock | None = None
        self._connection: Connection | None = None
        self._in_hand: Sequence[Arrival] = ()
        self._won: set[str] = set()
        self._result = _Result([None] * len(arrivals))
        self._beginning = Beginning(handlers.consumer, terms)

    @property
    def consumer(self) -> str:
        """The name of the service."""
        return self._handlers.consumer

    @property
    def replies(self) -> list[Reply | None]:
        """The answers; None for a message that was left out."""
        return self._result.replies

    @property
    def begun(self) -> Sequence[OutsideCall]:
        """The calls to the outside that are to be made after the commit."""
        return self._beginning.calls

    def work(self, session: Session, call: Call) -> None:
        """Everything up to the commit, which the caller makes.

        Raises RolledBack, or what is the database's own trouble.
        """
        self._lock = CommitLock(session)
        try:
            self._connection = session.connection()
            refuse_autocommit(self._connection, used_by="the inbox")
            verdicts = self._look(session)
            self._handle(session, verdicts, call)
            self._write(session)
            hold_to(session, self._connection)
        except Exception as error:
            raise self.judged(error) from error
        self._in_hand = ()
        crashpoint("inbox: before commit")
        self._lock.lift()

    def judged(self, error: Exception) -> Exception:
        """The exception to raise for an error: RolledBack, or the error itself where the database
        is away."""
        return judged(error, self._in_hand, self._connection)

    def _look(self, session: Session) -> list[Verdict]:
        consumer = self.consumer
        inbox_session.forget_failures(session)
        rows = claims(self._arrivals)
        inbox_session.take_in_hand(session, [row.id for row in rows])
        bounds = Bounds(self._terms.limits.lock, self._longest())
        self._won = won = claim(session, consumer, rows, self._now, bounds)
        found = {}
        if lost := {row.id for row in rows} - won:
            # In statements of their own: the one that inserts does not see a row that another
            # transaction was still inserting when it began.
            undone = {named for each in self._arrivals for named in each.names}
            if actions := lost & undone:
                found = store.read(session, consumer, actions, lock=True)
            if others := lost - undone:
                found |= store.read(session, consumer, others, lock=False)
            if len(found) < len(lost):
                raise Vanished
            found = with_pended(session, consumer, found, self._now)
            found |= undone_by(session, consumer, self._arrivals, found, self._now)
            if over_calls := _own_calls_over(self._arrivals, found):
                # Another process may begin one again just now.
                locked = store.read(session, consumer, over_calls, lock=True)
                found |= with_pended(session, consumer, locked, self._now)
        forgotten = NOTHING_FORGOTTEN
        is_lost = self._terms.may_be_lost(session, self._arrivals)
        if is_lost or may_be_forgotten(_ages(self._arrivals, won), self._now):
            # After the insert: the watermark of a purge in between would have gone unseen.
            forgotten = store.watermarks(session, consumer)
        return [decide(each, found, forgotten, self._now) for each in self._arrivals]

    def _longest(self) -> float:
        """Seconds that the transaction may take: one handler may be called late."""
        found = [self._handlers.find(each.envelope.type) for each in self._arrivals]
        slowest = self._terms.times.longest(each for each in found if each is not None)
        return self._terms.limits.transaction + slowest

    def _handle(self, session: Session, verdicts: Sequence[Verdict], call: Call) -> None:
        result = self._result
        to_run: list[tuple[int, Run]] = []
        for position, verdict in enumerate(verdicts):
            arrival = self._arrivals[position]
            match verdict:
                case Answer(reply):
                    result.changes += verdict.changes
                    result.forget += verdict.forget
                    result.over += verdict.over
                    result.told += verdict.told
                case Again():
                    handler = self._handler_of(arrival)
                    reply = self._beginning.again(session, arrival, handler, verdict)
                    result.forget += verdict.forget
                case Run():
                    to_run.append((position, verdict))
                    continue
                case other:
                    assert_never(other)
            result.replies[position] = reply
            if is_asked_for_again(arrival.envelope, reply):
                result.held.add(arrival.envelope.key)
        arrivals = [self._arrivals[position] for position, _ in to_run]
        monotonic = self._terms.clock.monotonic
        began = last = monotonic()
        for group in runs(arrivals, self._takes_lists):
            items = [to_run[each] for each in group]
            items = [it for it in items if self._key(it[0]) not in result.held]
            if self.called and last - began > self._terms.limits.transaction:
                items = []
            if items:
                self._run(session, items, call)
                now = monotonic()
                type = self._arrivals[items[0][0]].envelope.type
                self.took[type] = (now - last) / len(items)
                last = now
        for position, run in to_run:
            answer = result.replies[position]
            if answer is None or _comes_again(answer):
                self._leave_out(self._arrivals[position])
            else:
                result.changes += conclude(self._arrivals[position], run, answer)
                result.over += over(run, answer)
                if answer.is_pending:
                    kept = self._pended(session, self._arrivals[position], run, answer)
                    result.pended.append(kept)
                    result.replies[position] = kept.reply()

    def _pended(self, session: Session, arrival: Arrival, run: Run, answer: Reply) -> Pended:
        kept = pended_of(arrival, run, answer, self._now)
        outside = self._handler_of(arrival).outside
        if outside is None or not isinstance(answer, Begun):
            return kept
        return self._beginning.first(session, arrival, outside, answer, kept, run.undoes)

    def _run(self, session: Session, items: Sequence[tuple[int, Run]], call: Call) -> None:
        """Call one handler once, and note its answers."""
        arrivals = [self._arrivals[position] for position, _ in items]
        fragile = self._terms.together and arrivals[0].envelope.type in self._terms.fragile
        within_savepoint = fragile or not self._terms.together
        try:
            replies = self._call(session, items, call, within_savepoint)
        except HandlerFailed as failed:
            if not fragile or trouble_in_handler(failed.error) is not Trouble.OWN:
                raise
            # The rollback expires changed objects only, not those that were read after a change.
            session.expunge_all()
            tell_failure(self.consumer, arrivals[0], failed.error)
            replies = [failure(failed.error)]
        for (position, _), reply in zip(items, replies, strict=True):
            stays = reply.outcome is Outcome.DONE or reply.is_pending or fragile
            if not stays and (self._terms.together or reply.outcome is not Outcome.REFUSED):
                # Its effects can only be taken back together with the others'.
                raise SteppedBack(reply)
            self._result.replies[position] = reply
            envelope = self._arrivals[position].envelope
            if _comes_again(reply) or (isinstance(reply, Begun) and envelope.reply_to is None):
                self._result.held.add(envelope.key)
        if log.isEnabledFor(logging.DEBUG):
            _tell(self.consumer, arrivals, replies)

    def _call(
        self, session: Session, items: Sequence[tuple[int, Run]], call: Call, within_savepoint: bool
    ) -> list[Reply]:
        arrivals = [self._arrivals[position] for position, _ in items]
        handler = self._handler_of(arrivals[0])
        self._in_hand = arrivals
        self.called += arrivals
        contexts = [
            context_of(arrival, run.undoes, self._terms.attempt_of(arrival.envelope.id))
            for arrival, (_, run) in zip(arrivals, items, strict=True)
        ]
        causes = [cause_of(each) for each in arrivals]
        caused_by(session, causes if handler.takes_lists else causes[0])
        messages = [each.message for each in arrivals]
        seconds = self._terms.times.of(handler)

        def answered() -> list[Reply]:
            replies = call(handler, session, messages, contexts, seconds)
            for arrival, reply in zip(arrivals, replies, strict=True):
                require_in_time(arrival, reply, self._now)
                require_way_back(session, arrival, reply)
            return replies

        way = inbox_session.within_savepoint if within_savepoint else inbox_session.straight
        try:
            with Handling([each.envelope for each in arrivals], self._tracer):
                replies = way(session, answered)
        except (HandlerLate, HandlerGivenUp):
            raise
        except Exception as error:
            raise HandlerFailed(error) from error
        return replies

    def _takes_lists(self, message_class: type[Message]) -> bool:
        handler = self._handlers.find(str(type_of(message_class)))
        assert handler is not None, _HAS_HANDLER
        return handler.takes_lists and handler.type not in self._terms.fragile

    def _handler_of(self, arrival: Arrival) -> Handler:
        handler = self._handlers.find(arrival.envelope.type)
        assert handler is not None, _HAS_HANDLER
        return handler

    def _key(self, position: int) -> str:
        return self._arrivals[position].envelope.key

    def _leave_out(self, arrival: Arrival) -> None:
        """Forget the rows that this transaction inserted for a message that comes again."""
        envelope = arrival.envelope
        ids = (envelope.id, *arrival.names)
        self._result.forget += [id for id in ids if id in self._won]

    def _write(self, session: Session) -> None:
        caused_by(session, None)
        result = self._result
        if result.forget:
            store.forget(session, self.consumer, result.forget)
        if result.changes:
            store.write(session, self.consumer, result.changes)
            keep(session, self.consumer, result.pended, result.over)
            tell_all(session, result.told)
        elif inbox_session.has_failed(session):
            store.probe(session)
        if self._terms.told is not None:
            for arrival, reply in zip(self._arrivals, result.replies, strict=True):
                if reply is not None:
                    caused_by(session, cause_of(arrival))
                    self._terms.told(session, arrival.envelope, reply)
            caused_by(session, None)


def _own_calls_over(arrivals: Sequence[Arrival], found: Mapping[str, Row]) -> list[str]:
    """The ids of those messages whose calls are over."""
    rows = [found.get(each.envelope.id) for each in arrivals]
    return [row.id for row in rows if row and row.pended is not None and row.pended.is_over]


def _comes_again(reply: Reply) -> bool:
    return reply.outcome not in (Outcome.DONE, Outcome.REFUSED) and not reply.is_pending


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
        yield from (named for named in each.names if named in won)
