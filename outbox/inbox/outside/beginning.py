"""The calls that one transaction of the inbox stores, to be made once it is committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy.orm import Session

from outbox.inbox.answering import has_way
from outbox.inbox.handling.context import CallTimes
from outbox.inbox.handling.handler import Handler
from outbox.inbox.outside import rules
from outbox.inbox.outside.call import Call
from outbox.inbox.outside.registration import Begun, Outside
from outbox.inbox.outside.rules import Attempt
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.pending.complete import write
from outbox.inbox.pending.completion import completed
from outbox.inbox.pending.keeping import context_of
from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import Again, Arrival, Row
from outbox.inbox.transactions.terms import Terms
from outbox.replies import Reply


class Beginning:
    """The calls that a transaction begins, or begins again."""

    def __init__(self, consumer: str, terms: Terms) -> None:
        self.calls: list[Call] = []
        self._consumer = consumer
        self._terms = terms
        self._began = terms.clock.monotonic()

    def first(
        self,
        session: Session,
        arrival: Arrival,
        outside: Outside,
        begun: Begun,
        pended: Pended,
        undoes: Sequence[Row],
    ) -> Pended:
        """What is to be kept of a command whose call begins."""
        now = pending_rows.now(session, self._terms.clock.now())
        known = replace(pended, since=now, read_at=now, before=begun.before)
        promise = outside.promise_for(arrival.message, _loaded(known))
        kept = rules.begun(known, promise, self._terms.holder())
        self._note(arrival, outside, kept, undoes, known)
        return kept

    def again(self, session: Session, arrival: Arrival, handler: Handler, verdict: Again) -> Reply:
        """The answer to a command whose last call is over: the next one begins, or none may."""
        pended, outside = verdict.pended, handler.outside
        if outside is None:
            # The code that made the call is gone from here; another version may have it.
            return replace(pended.reply(), retry_after=rules.pause(pended.attempt))
        if pended.late_reply is not None:
            self._note(arrival, outside, pended, verdict.undoes, pended)
            return pended.reply()
        promise = outside.promise_for(arrival.message, _loaded(pended))
        kept = rules.begun_again(pended, promise, self._terms.holder())
        if isinstance(kept, Reply):
            if pended.undoes:
                self._give_up(session, pended, kept, verdict.undoes)
            return kept
        pending_rows.change(session, self._consumer, kept)
        self._note(arrival, outside, kept, verdict.undoes, pended)
        return kept.reply()

    def _give_up(
        self, session: Session, pended: Pended, unknown: Reply, undoing: Sequence[Row]
    ) -> None:
        """Let the actions be what they were: they must not be undoing for ever."""
        completion = completed(pended, unknown, undoing, is_definite=True)
        late = [it for it in completion.told if it[0] is not pended]
        told = tuple(it for it in late if has_way(session, it[0].reply_to))
        write(session, self._consumer, replace(completion, told=told))

    def _note(
        self,
        arrival: Arrival,
        outside: Outside,
        kept: Pended,
        undoes: Sequence[Row],
        last: Pended,
    ) -> None:
        was_cut = kept.is_in_doubt and last.holder is not None
        since = last.until if was_cut else None
        times = CallTimes(kept.read_at, kept.is_in_doubt, since)
        context = context_of(arrival, undoes, kept.attempt, _loaded(kept), times)
        call = Call(arrival, outside, context, Attempt.of(kept), self._began, kept.late_reply)
        self.calls.append(call)


def _loaded(pended: Pended) -> Any:
    """What is kept for the next attempt."""
    return None if pended.before is None else orjson.loads(pended.before)
