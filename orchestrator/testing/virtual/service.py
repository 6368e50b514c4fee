"""A participant in a history: the real rules of the inbox, and a memory of what took effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from orchestrator.engine.commits.starts import FORGOTTEN
from orchestrator.testing.virtual.chances import Chances, Fault
from outbox.contract import Void
from outbox.inbox.answering import is_told_at_once
from outbox.inbox.barrier import claims, conclude, decide, over
from outbox.inbox.batches import Slot, holds_key, order_key, split
from outbox.inbox.outside import rules
from outbox.inbox.outside.call import Answered, AnswersLater, NoAnswer, Result
from outbox.inbox.pending.completion import completed
from outbox.inbox.pending.keeping import pended_of
from outbox.inbox.pending.pended import Pended
from outbox.inbox.purge.statements import joined
from outbox.inbox.retention import Forgotten, horizon
from outbox.inbox.rows import VOID, Again, Answer, Arrival, Change, Claim, Row, State
from outbox.replies import PENDING, Outcome, Reply
from outbox.wire.codec import decode
from outbox.wire.envelope import Envelope, fingerprint
from outbox.wire.settled import EndedSagas

DONE = Reply(Outcome.DONE)
_NOT_ATTEMPTED = Reply(Outcome.NOT_ATTEMPTED, code="not-attempted", reason="its key waits")
_FAILED = Reply(Outcome.FAILED, code="failed", reason="the handler raised an error")
_LOCKED = Reply(Outcome.LOCKED, code="locked", reason="another operation has it")
_ONGOING = Reply(Outcome.ONGOING, code="ongoing", retry_after=1.0)
_REFUSED = Reply(Outcome.REFUSED, code="refused", reason="the rules say no")
LATER = Reply(Outcome.ONGOING, code=PENDING, reason="a person decides")
"""What is answered later by another service, or a person."""
CALLING = Reply(Outcome.ONGOING, code=PENDING)
"""What the outside is called for."""
TIMEOUT = 5.0
"""The seconds that a call to the outside may take."""
RETENTION = timedelta(seconds=3)
"""How long a command is remembered whose run has ended."""
PROMISE = rules.Promise(timedelta(seconds=TIMEOUT), keyed=True, key_valid_for=timedelta(days=1))


@dataclass(frozen=True, slots=True)
class Effect:
    """What one command did, for good: A its action; P an action whose answer is to come; R one that
    was refused after that; C a compensation, and B one whose answer is to come."""

    saga_id: str
    step: str
    letter: str

    @property
    def is_undo(self) -> bool:
        """Whether a compensation did it."""
        return self.letter in "BC"

    @classmethod
    def of(cls, envelope: Envelope, reply: Reply) -> Effect | None:
        """What that answer to a command means; None where nothing took effect."""
        letter = _LETTERS.get((bool(envelope.undoes), reply.outcome, reply.after_pending))
        saga_id, _, step = envelope.key.partition("/")
        return None if letter is None else cls(saga_id, step, letter)


_LETTERS = {
    (False, Outcome.DONE, False): "A",
    (False, Outcome.ONGOING, False): "P",
    (False, Outcome.REFUSED, True): "R",
    (True, Outcome.DONE, False): "C",
    (True, Outcome.ONGOING, False): "B",
}


class ToTell(NamedTuple):
    """An answer that is sent as a message. One that `is_late` is a success that its undo may not
    have seen, and no one asks for it again."""

    id: str
    reply: Reply
    is_late: bool = False


Told = Sequence[ToTell]
Tell = Callable[[Envelope, Reply], None]
"""Sends the answer to a command as a message."""


class Wishes(Protocol):
    """The answers of a participant's handlers."""

    def may_be_refused(self, envelope: Envelope) -> bool:
        """Whether a refusal of that command is part of the business."""

    def value(self, envelope: Envelope) -> Any:
        """The value of its reply."""


class Handlers:
    """The handlers' answers, with the accidents that happen to them."""

    def __init__(
        self, chances: Chances, wishes: Wishes, calls: Collection[str] = frozenset()
    ) -> None:
        """`calls` are the types of commands that are always calls to the outside."""
        self._calls = calls
        self._chances = chances
        self._wishes = wishes
        self._poisonous: set[str] = set()
        self._calling: dict[str, bool] = {}

    def calls_outside(self, envelope: Envelope) -> bool:
        """Whether commands of that type are answered by calls to the outside."""
        if envelope.type not in self._calling:
            is_call = envelope.type in self._calls
            self._calling[envelope.type] = is_call or self._chances.fault(Fault.CALL)
        return self._calling[envelope.type]

    def run(self, envelope: Envelope) -> Reply:
        """The answer of one call of a handler."""
        accident = self.accident(envelope)
        if accident is not None:
            return accident
        if self._chances.fault(Fault.PENDING):
            return LATER
        return self.decide(envelope)

    def accident(self, envelope: Envelope) -> Reply | None:
        """The answer where it does not even come to a decision."""
        chances = self._chances
        if envelope.id in self._poisonous:
            if chances.rates.get(Fault.POISON):
                return _FAILED
            self._poisonous.discard(envelope.id)
        if chances.fault(Fault.HANDLER_FAILS):
            return _FAILED
        if chances.fault(Fault.LOCKED):
            return _LOCKED
        if chances.fault(Fault.ONGOING):
            return _ONGOING
        if chances.fault(Fault.POISON):
            self._poisonous.add(envelope.id)
            return _FAILED
        return None

    def decide(self, envelope: Envelope) -> Reply:
        """What the business says, at once or later."""
        may_be_refused = self._wishes.may_be_refused(envelope)
        if self._chances.fault(Fault.REFUSED if may_be_refused else Fault.REFUSED_LATE):
            return _REFUSED
        value = self._wishes.value(envelope)
        return DONE if value is None else Reply(Outcome.DONE, value=value)


class Service:
    """One participant. Each message is a transaction of its own, or the batch is one."""

    def __init__(
        self,
        name: str,
        chances: Chances,
        handlers: Handlers,
        now: Callable[[], datetime],
        took_effect: Callable[[Effect], Awaitable[None]],
        begun: Callable[[Service, Envelope, int], None],
        time: Callable[[], datetime] | None = None,
    ) -> None:
        """`begun` is told of each command whose answer is to come by `complete`, and of each
        attempt of a call to the outside, which comes to an end by `conclude`. `time` is that of the
        database, unless it is `now`."""
        self.name = name
        self.away_until = 0.0
        """When it can be reached again, in the timeline's seconds."""
        self._chances = chances
        self._handlers = handlers
        self._now = now
        self._took_effect = took_effect
        self._begun = begun
        self._time = time or now
        self._rows: dict[str, Row] = {}
        self._pended: dict[str, Pended] = {}
        self._claims: dict[str, tuple[Claim, datetime]] = {}
        """What the rows were inserted with, and when."""
        self._said: dict[str, EndedSagas] = {}
        self._forgotten: dict[str, EndedSagas] = {}
        self._outside: set[str] = set()
        """The commands that were answered later, or by calls; those are not forgotten here."""

    def note(self, envelopes: Sequence[Envelope], said: EndedSagas | None) -> None:
        """Keep what the sender of these said of its runs that have ended."""
        sources = {it.source for it in envelopes}
        if said is not None and len(sources) == 1:
            (source,) = sources
            self._said[source] = said.join(self._said.get(source))

    def forget(self, said: EndedSagas | None) -> None:
        """Forget the commands of runs that have ended, as the real inbox purges them. `said` is the
        answer of the one orchestrator to the question which runs these are."""
        if said is not None:
            for source in {claim.source for claim, _ in self._claims.values()}:
                self._said[source] = said.join(self._said.get(source))
        now = self._now()
        cutoff, before = now - RETENTION, horizon(now, RETENTION)
        for source in sorted({*self._said, *self._forgotten}):
            mark = joined(self._said.get(source), self._forgotten.get(source), before)
            doomed = [
                id
                for id, (claim, received) in self._claims.items()
                if claim.source == source
                and claim.saga_number is not None
                and mark.covers(claim.saga_number)
                and received < cutoff
                and id < before
                and (claim.due is None or claim.due < cutoff)
                and id not in self._outside
            ]
            if doomed:
                self._forgotten[source] = mark
            for id in doomed:
                del self._claims[id], self._rows[id]

    async def receive(
        self, envelopes: Sequence[Envelope], tell: Tell | None = None
    ) -> list[Reply] | None:
        """The answers; None where it died before it gave any. Those that are messages are told in
        the transactions that they are about, by `tell`."""
        replies: list[Reply | None] = [None] * len(envelopes)
        waiting: set[tuple[bool, str]] = set()
        received = envelopes
        # Without a name to reply to, since answers that are messages have a way of their own here.
        envelopes = [replace(each, reply_to=None) for each in envelopes]
        arrivals = [(place, _arrival(envelope)) for place, envelope in enumerate(envelopes)]
        for part in split(arrivals):
            for slot in part:
                key = order_key(slot.arrival.envelope)
                if key in waiting:
                    reply = _NOT_ATTEMPTED
                else:
                    if self._chances.fault(Fault.SERVICE_CRASH):
                        return None
                    reply = await self._transact(slot)
                    if holds_key(reply):
                        waiting.add(key)
                for place in slot.positions:
                    replies[place] = reply
                if tell is not None and is_told_at_once(received[slot.positions[0]], reply):
                    tell(received[slot.positions[0]], reply)
        if self._chances.fault(Fault.SERVICE_CRASH):
            return None
        return [it for it in replies if it is not None]

    async def _transact(self, slot: Slot) -> Reply:
        arrival, rows = slot.arrival, self._rows
        envelope = arrival.envelope
        calls = self._handlers.calls_outside(envelope)
        claimed = claims([arrival])
        found = {it.id: self._row(it.id) for it in claimed if it.id in rows}
        new = {
            it.id: Row(it.id, it.state, it.fingerprint, None, it.barred_by, it.saga)
            for it in claimed
            if it.id not in rows
        }
        forgotten = Forgotten(sagas=self._forgotten)
        verdict = decide(arrival, found, forgotten, self._now())
        claims_of_new = {it.id: (it, self._now()) for it in claimed if it.id in new}
        if isinstance(verdict, Answer):
            rows.update(new)
            self._claims.update(claims_of_new)
            self._change(verdict.changes)
            for id in verdict.forget:
                rows.pop(id, None)
                self._claims.pop(id, None)
            self._forget(verdict.over)
            return verdict.reply
        if isinstance(verdict, Again):
            return self._call_again(envelope, verdict.pended)
        if calls:
            reply = self._handlers.accident(envelope) or CALLING
        else:
            reply = self._handlers.run(envelope)
        if reply.outcome not in (Outcome.DONE, Outcome.REFUSED) and not reply.is_pending:
            return reply
        rows.update(new)
        self._claims.update(claims_of_new)
        self._change(conclude(arrival, verdict, reply))
        self._forget(over(verdict, reply))
        if not reply.is_pending:
            await self._note(envelope, reply)
            return reply
        pended = pended_of(arrival, verdict, reply, self._now())
        if calls:
            now = self._time()
            pended = rules.begun(replace(pended, since=now, read_at=now), PROMISE, self.name)
        else:
            await self._note(envelope, reply)
        self._pended[envelope.id] = pended
        self._outside |= {envelope.id, *envelope.undoes}
        self._begun(self, envelope, pended.attempt)
        return pended.reply()

    def _call_again(self, envelope: Envelope, pended: Pended) -> Reply:
        kept = rules.begun_again(pended, PROMISE, self.name)
        if isinstance(kept, Reply):
            return kept
        self._pended[envelope.id] = kept
        self._begun(self, envelope, kept.attempt)
        return kept.reply()

    async def complete(self, envelope: Envelope, reply: Reply) -> Told:
        """Answer a command that is pending; the answers to be sent, none where it is not pending
        any more."""
        row = self._row(envelope.id)
        if row.state is not State.PENDING or row.pended is None:
            return ()
        told = self._completed(row, row.pended, reply, is_definite=False)
        await self._note(envelope, told[0].reply)
        return told

    async def conclude(self, envelope: Envelope, attempt: int, result: Result) -> Told:
        """Write what that attempt of a call came to; the answers to be sent."""
        row = self._row(envelope.id)
        pended = row.pended
        if pended is None:
            return ()
        if row.state is State.PENDING and rules.fits(pended, rules.Attempt(self.name, attempt)):
            match result:
                case Answered(reply):
                    return self._completed(row, pended, reply, is_definite=True)
                case AnswersLater(reply):
                    self._pended[row.id] = rules.answers_later(pended, reply)
                    self._begun(self, envelope, 0)
                case NoAnswer(error):
                    self._pended[row.id] = rules.failed(pended, error)
                case _:
                    raise AssertionError("no call of this world is not made")
            return ()
        if not isinstance(result, Answered) or result.reply.outcome is not Outcome.DONE:
            return ()
        if row.state is State.UNDOING:
            self._pended[row.id] = replace(pended, late_reply=result.reply)
        if row.state not in (State.UNDONE, State.BARRED):
            return ()
        self._change([Change(row.id, State.RAN, result.reply)])
        self._forget([row.id])
        return [ToTell(row.id, result.reply, is_late=True)]

    def _completed(self, row: Row, pended: Pended, reply: Reply, *, is_definite: bool) -> Told:
        undoing = [
            it
            for it in map(self._row, pended.undoes)
            if it.state is State.UNDOING and it.barred_by == row.id
        ]
        completion = completed(pended, reply, undoing, is_definite=is_definite)
        self._change(completion.changes)
        self._forget(completion.over)
        return [
            ToTell(each.id, answer, is_late=each.id != row.id) for each, answer in completion.told
        ]

    async def _note(self, envelope: Envelope, reply: Reply) -> None:
        effect = Effect.of(envelope, reply)
        if effect is not None:
            await self._took_effect(effect)

    def _row(self, id: str) -> Row:
        pended = self._pended.get(id)
        if pended is not None:
            pended = replace(pended, read_at=self._time())
        return replace(self._rows[id], pended=pended)

    def _forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            self._pended.pop(id, None)

    def _change(self, changes: Sequence[Change]) -> None:
        for change in changes:
            row = self._rows[change.id]
            self._rows[change.id] = Row(
                change.id, change.state, row.fingerprint, change.reply, change.barred_by, row.saga
            )


class Originator:
    """The service that asked for sagas: it is told of their ends."""

    def __init__(self, read: Callable[[bytes], Mapping[str, Any]]) -> None:
        self.told: dict[str, str] = {}
        """What it was told of each start: its final status."""
        self.away_until = 0.0
        self._read = read

    async def receive(
        self, envelopes: Sequence[Envelope], tell: Tell | None = None
    ) -> list[Reply] | None:
        """Take the events of ends."""
        for envelope in envelopes:
            news = self._read(envelope.data)
            if news.get("code") == FORGOTTEN:
                # It is of a copy that came after the run was removed, or of a start that came
                # when others of its time were.
                self.told.setdefault(news["instance_id"], FORGOTTEN)
            else:
                self.told[news["instance_id"]] = news["status"]
        return [DONE] * len(envelopes)


def _arrival(envelope: Envelope) -> Arrival:
    # No handler here looks at the message itself.
    message: Any = decode(Void, envelope.data) if envelope.type == VOID else None
    return Arrival(envelope, message, fingerprint(envelope), envelope.correlation)
