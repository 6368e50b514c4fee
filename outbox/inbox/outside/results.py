"""The results of calls: each is written by a transaction of its own, together with what `after`
writes, and only where it is still awaited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from outbox.adding.insert import refuse_autocommit
from outbox.adding.one_database import hold_to
from outbox.clock import Clock
from outbox.crashpoints import crashpoint
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import OutboxError
from outbox.inbox.handler_times import HandlerTimes
from outbox.inbox.limits import InboxLimits
from outbox.inbox.outside import rules
from outbox.inbox.outside.after import run_after
from outbox.inbox.outside.call import (
    AfterFailed,
    Answered,
    AnswersLater,
    Call,
    GoesOn,
    NeverKnown,
    NoAnswer,
    NotMade,
    Result,
)
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.pending.complete import lock_with_actions, tell, undoing_of
from outbox.inbox.pending.completion import completed
from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import DONE, Arrival, Change, Row, State
from outbox.inbox.transactions import session as inbox_session
from outbox.inbox.transactions import store
from outbox.inbox.transactions.claiming import Bounds, bound
from outbox.inbox.transactions.judging import judged
from outbox.inbox.transactions.session import CommitLock
from outbox.inbox.transactions.terms import (
    Call as CallHandler,
)
from outbox.inbox.transactions.terms import (
    RolledBack,
    Runner,
    Told,
    failure,
    tell_failure,
)
from outbox.replies import Outcome, Reply
from outbox.tracing import fields_of

log = logging.getLogger("outbox.inbox")

_CONNECT_WITHIN = 10.0
_LONGEST_PAUSE = 5.0
_MOST_TRIES = 10


class Results:
    """Writes the results of calls for one inbox."""

    def __init__(
        self,
        consumer: str,
        runner: Runner,
        *,
        times: HandlerTimes,
        limits: InboxLimits,
        clock: Clock,
        told: Told | None,
    ) -> None:
        self.consumer = consumer
        self.times = times
        self.limits = limits
        self.clock = clock
        self.told = told
        self._runner = runner

    async def conclude(self, call: Call, result: Result, is_awaited: Callable[[], bool]) -> Reply:
        """Write the result, and return the answer to the command. Where no delivery awaits it, the
        answer is sent by itself.

        It is tried for as long as the database is in trouble: the provider may have done what no
        other process knows. A result that is not written for another reason is kept, and the answer
        is FAILED: at once where `after` is to blame, else after a few tries. Where it cannot even
        be kept, it is given up.
        """
        pause, tries = 0.1, 0
        to_write: Result | AfterFailed = result
        while True:
            work = ResultTransaction(self, call, to_write, is_awaited)
            try:
                await self._runner.handle(work, connect_within=_CONNECT_WITHIN)
            except Exception as raised:
                error = raised.error if isinstance(raised, RolledBack) else raised
            else:
                crashpoint("outside: after its result, before the reply")
                return work.answer
            tries += work.may_fail_again
            if isinstance(to_write, Answered) and (work.is_after_to_blame or tries >= _MOST_TRIES):
                tell_failure(self.consumer, call.arrival, error)
                to_write, tries = AfterFailed(to_write.reply, error), 0
                continue
            if tries >= _MOST_TRIES:
                fields = fields_of(call.arrival.envelope)
                log.error("the result of a call is given up", exc_info=error, extra=fields)
                return failure(error)
            self._tell_of(call, error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _tell_of(self, call: Call, error: BaseException, pause: float) -> None:
        log.warning(
            "the result of a call could not be written, trying again in %.1f s",
            pause,
            exc_info=error,
            extra=fields_of(call.arrival.envelope),
        )


class ResultTransaction:
    """One transaction that writes one result, for a `Runner`."""

    def __init__(
        self,
        results: Results,
        call: Call,
        result: Result | AfterFailed,
        is_awaited: Callable[[], bool],
    ) -> None:
        self.answer = DONE
        self._results = results
        self._call = call
        self._result = result
        self._is_awaited = is_awaited
        self._connection: Connection | None = None
        self._in_hand: Sequence[Arrival] = ()
        self._trouble: Trouble | None = None

    @property
    def replies(self) -> list[Reply | None]:
        """The answer."""
        return [self.answer]

    @property
    def is_after_to_blame(self) -> bool:
        """Whether it was rolled back because of `after`, be it at the commit of what that wrote."""
        return bool(self._in_hand) and self._trouble in (Trouble.OWN, Trouble.SLOW)

    @property
    def may_fail_again(self) -> bool:
        """Whether it was rolled back for a reason that may never go away."""
        crossed = bool(self._in_hand) and self._trouble in (Trouble.CROSSED, Trouble.LOCKED)
        return crossed or self.is_after_to_blame or self._trouble is Trouble.OWN

    def work(self, session: Session, call: CallHandler) -> None:
        """Everything up to the commit, as `InboxTransaction.work`."""
        results, id = self._results, self._call.id
        lock = CommitLock(session)
        try:
            self._connection = session.connection()
            refuse_autocommit(self._connection, used_by="the inbox")
            if store.is_postgresql(session):
                inbox_session.forget_failures(session)
                longest = results.limits.transaction + results.times.usual
                bound(session, Bounds(results.limits.lock, longest))
            rows = lock_with_actions(session, results.consumer, [id], results.clock.now())
            self._write(session, rows, call)
            if inbox_session.has_failed(session):
                store.probe(session)
            hold_to(session, self._connection)
        except Exception as error:
            raise self.judged(error) from error
        lock.lift()

    def judged(self, error: Exception) -> Exception:
        """As `InboxTransaction.judged`."""
        found = judged(error, self._in_hand, self._connection)
        if isinstance(found, RolledBack):
            self._trouble = found.trouble
        else:
            self._trouble = trouble_in_statement(found)
        return found

    def _write(self, session: Session, rows: Mapping[str, Row], call: CallHandler) -> None:
        row = rows.get(self._call.id)
        pended = None if row is None else row.pended
        self.answer = rules.answer_where_not_awaited(row)
        if row is None or pended is None:
            return
        match row.state:
            case State.PENDING if rules.fits(pended, self._call.attempt):
                self._write_pending(session, rows, pended, call)
            case State.PENDING:
                pass
            case State.UNDOING | State.UNDONE | State.BARRED | State.RAN | State.REFUSED:
                # Of any attempt: no other one will tell of what it did.
                self._write_late(session, rows, row, pended)
            case other:
                assert_never(other)

    def _write_pending(
        self, session: Session, rows: Mapping[str, Row], pended: Pended, call: CallHandler
    ) -> None:
        promise, told = self._call.promise, True
        match self._result:
            case Answered(reply, is_certain) if is_certain or rules.counts(pended, promise, reply):
                self._run_after(session, reply, call)
                self._complete(session, rows, pended, reply)
                return
            case Answered(reply):
                error = f"refused after an attempt without an answer: {reply.code}: {reply.reason}"
                kept = rules.failed(pended, error, only_reads=promise.only_reads)
                self.answer = rules.answer_after_failure(kept, promise)
            case NoAnswer(error):
                kept = rules.failed(pended, error, only_reads=promise.only_reads)
                self.answer = rules.answer_after_failure(kept, promise)
            case GoesOn(what, note, pause, in_doubt):
                kept = rules.goes_on(pended, what, note)
                kept = replace(kept, is_in_doubt=kept.is_in_doubt or in_doubt)
                self.answer = replace(kept.reply(), retry_after=pause)
            case NeverKnown(why):
                kept = rules.failed(pended, why, only_reads=promise.only_reads)
                self.answer = Reply(Outcome.UNKNOWN, code="unknown", reason=why)
            case AnswersLater(reply):
                kept = rules.answers_later(pended, reply)
                self.answer = kept.reply()
            case NotMade(reply):
                kept = rules.not_made(pended)
                self.answer = reply
            case AfterFailed(reply, failed):
                self.answer, told = failure(failed), False
                kept = rules.kept_for_after(pended, reply, self.answer.reason or "")
            case other:
                assert_never(other)
        pending_rows.change(session, self._results.consumer, kept)
        if kept.undoes and self.answer.outcome is Outcome.UNKNOWN:
            # Its actions must not be undoing for ever.
            self._complete(session, rows, kept, self.answer)
        elif told:
            self._tell(session, pended, self.answer, is_given=self._is_awaited())

    def _complete(
        self, session: Session, rows: Mapping[str, Row], pended: Pended, reply: Reply
    ) -> None:
        completion = completed(pended, reply, undoing_of(rows, pended), is_definite=True)
        self._keep(session, completion.changes, completion.over)
        self.answer = reply
        for each, answer in completion.told:
            is_given = each.id == self._call.id and self._is_awaited()
            self._tell(session, each, answer, is_given=is_given)

    def _write_late(
        self, session: Session, rows: Mapping[str, Row], row: Row, pended: Pended
    ) -> None:
        """A success that comes after its undo, or after it was waited for: it is never dropped,
        since what it did is there."""
        if not isinstance(self._result, Answered | AfterFailed):
            return
        reply = self._result.reply
        if reply.outcome is not Outcome.DONE:
            return
        if row.state is State.UNDOING:
            # What undoes it just now may have come before it, and is to be asked for once more.
            late = replace(pended, late_reply=reply)
            pending_rows.change(session, self._results.consumer, late)
            return
        given_back = [it for it in map(rows.get, pended.undoes) if it and it.barred_by == row.id]
        undone = [it for it in given_back if it.state in (State.RAN, State.PENDING)]
        changes = [Change(it.id, State.UNDONE, it.reply, row.id) for it in undone]
        self._keep(session, [Change(row.id, State.RAN, reply), *changes], [row.id])
        # A copy that waits here was answered already that it is undone.
        self._tell(session, pended, reply, is_given=False)

    def _keep(self, session: Session, changes: Sequence[Change], over: Sequence[str]) -> None:
        store.write(session, self._results.consumer, changes)
        if over:
            pending_rows.remove(session, self._results.consumer, over)

    def _tell(self, session: Session, pended: Pended, reply: Reply, *, is_given: bool) -> None:
        """Send that answer, unless it `is_given` by a delivery. Without a way to its sender the
        sender asks again, and gets it then."""
        try:
            if pended.id == self._call.id and self._results.told is not None:
                self._results.told(session, self._call.arrival.envelope, reply)
            elif not is_given:
                tell(session, pended, reply)
        except OutboxError as error:
            log.warning(
                "the answer to a command cannot be sent, and waits until it is asked for: %s",
                error,
                extra=fields_of(self._call.arrival.envelope),
            )

    def _run_after(self, session: Session, reply: Reply, call: CallHandler) -> None:
        if self._call.outside.after is not None:
            # To the end: what it wrote may fail at the commit.
            self._in_hand = [self._call.arrival]
        run_after(session, self._call, reply, call, self._results.times.usual)
