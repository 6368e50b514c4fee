"""A participant in a history: the real rules of the inbox, and a memory of what took effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from orchestrator.testing.virtual.chances import Chances, Fault
from outbox.inbox.barrier import (
    Answer,
    Arrival,
    Change,
    Row,
    Run,
    State,
    claims,
    conclude,
    decide,
    over,
)
from outbox.inbox.batches import Slot, holds_key, order_key, split
from outbox.inbox.pending.completion import completed
from outbox.inbox.pending.keeping import pended_of
from outbox.inbox.pending.pended import Pended
from outbox.inbox.retention import NOTHING_FORGOTTEN
from outbox.replies import PENDING, Outcome, Reply
from outbox.wire.envelope import Envelope, fingerprint

DONE = Reply(Outcome.DONE)
_NOT_ATTEMPTED = Reply(Outcome.NOT_ATTEMPTED, code="not-attempted", reason="its key waits")
_FAILED = Reply(Outcome.FAILED, code="failed", reason="the handler raised an error")
_LOCKED = Reply(Outcome.LOCKED, code="locked", reason="another operation has it")
_ONGOING = Reply(Outcome.ONGOING, code="ongoing", retry_after=1.0)
_REFUSED = Reply(Outcome.REFUSED, code="refused", reason="the rules say no")
_PENDING = Reply(Outcome.ONGOING, code=PENDING, reason="a person decides")


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

Told = Sequence[tuple[str, Reply]]
"""Answers that are sent as messages, each with the id of its command."""


class Wishes(Protocol):
    """The answers of a participant's handlers."""

    def may_be_refused(self, envelope: Envelope) -> bool:
        """Whether a refusal of that command is part of the business."""

    def value(self, envelope: Envelope) -> Any:
        """The value of its reply."""


class Handlers:
    """The handlers' answers, with the accidents that happen to them."""

    def __init__(self, chances: Chances, wishes: Wishes) -> None:
        self._chances = chances
        self._wishes = wishes
        self._poisonous: set[str] = set()
        self._settled: dict[str, bool] = {}

    def run(self, envelope: Envelope) -> Reply:
        """The answer of one call."""
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
        if chances.fault(Fault.PENDING):
            return _PENDING
        return self.decide(envelope)

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
        begun: Callable[[Service, Envelope], None],
    ) -> None:
        """`begun` is told of each command whose answer is to come by `complete`."""
        self.name = name
        self.away_until = 0.0
        """When it can be reached again, in the timeline's seconds."""
        self._chances = chances
        self._handlers = handlers
        self._now = now
        self._took_effect = took_effect
        self._begun = begun
        self._rows: dict[str, Row] = {}
        self._pended: dict[str, Pended] = {}

    async def receive(self, envelopes: Sequence[Envelope]) -> list[Reply] | None:
        """The answers; None where it died before it gave any."""
        replies: list[Reply | None] = [None] * len(envelopes)
        waiting: set[tuple[bool, str]] = set()
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
        if self._chances.fault(Fault.SERVICE_CRASH):
            return None
        return [it for it in replies if it is not None]

    async def _transact(self, slot: Slot) -> Reply:
        arrival, rows = slot.arrival, self._rows
        envelope = arrival.envelope
        claimed = claims([arrival])
        found = {it.id: self._row(it.id) for it in claimed if it.id in rows}
        new = {
            it.id: Row(it.id, it.state, it.fingerprint, None, it.barred_by, it.saga)
            for it in claimed
            if it.id not in rows
        }
        verdict = decide(arrival, found, NOTHING_FORGOTTEN, self._now())
        if isinstance(verdict, Answer):
            rows.update(new)
            self._change(verdict.changes)
            for id in verdict.forget:
                rows.pop(id, None)
            self._forget(verdict.over)
            return verdict.reply
        assert isinstance(verdict, Run), "no handler of this world calls the outside"
        reply = self._handlers.run(envelope)
        if reply.outcome not in (Outcome.DONE, Outcome.REFUSED) and not reply.is_pending:
            return reply
        rows.update(new)
        self._change(conclude(arrival, verdict, reply))
        self._forget(over(verdict, reply))
        if not reply.is_pending:
            await self._note(envelope, reply)
            return reply
        pended = self._pended[envelope.id] = pended_of(arrival, verdict, reply, self._now())
        await self._note(envelope, reply)
        self._begun(self, envelope)
        return pended.reply()

    async def complete(self, envelope: Envelope, reply: Reply) -> Told:
        """Answer a command that is pending; the answers to be sent, none where it is not pending
        any more."""
        row = self._row(envelope.id)
        if row.state is not State.PENDING or row.pended is None:
            return ()
        undoing = [
            it
            for it in map(self._row, row.pended.undoes)
            if it.state is State.UNDOING and it.barred_by == row.id
        ]
        completion = completed(row.pended, reply, undoing, is_definite=False)
        self._change(completion.changes)
        self._forget(completion.over)
        told = [(pended.id, answer) for pended, answer in completion.told]
        await self._note(envelope, told[0][1])
        return told

    async def _note(self, envelope: Envelope, reply: Reply) -> None:
        effect = Effect.of(envelope, reply)
        if effect is not None:
            await self._took_effect(effect)

    def _row(self, id: str) -> Row:
        return replace(self._rows[id], pended=self._pended.get(id))

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

    async def receive(self, envelopes: Sequence[Envelope]) -> list[Reply] | None:
        """Take the events of ends."""
        for envelope in envelopes:
            news = self._read(envelope.data)
            self.told[news["instance_id"]] = news["status"]
        return [DONE] * len(envelopes)


def _arrival(envelope: Envelope) -> Arrival:
    # No handler here looks at the message itself.
    message: Any = None
    return Arrival(envelope, message, fingerprint(envelope), envelope.correlation)
