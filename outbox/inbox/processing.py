"""The transactions of a delivery: which messages share one, and what follows where it fails."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from outbox.clock import Clock
from outbox.coordination.owners import HolderName
from outbox.coordination.progress import Work
from outbox.database.troubles import Trouble
from outbox.inbox.answers import IN_HAND, Answers, too_busy
from outbox.inbox.batches import Slot, order_key, split
from outbox.inbox.handler_times import HandlerTimes
from outbox.inbox.handlers import Handlers
from outbox.inbox.limits import InboxLimits
from outbox.inbox.outside.calling import Calls
from outbox.inbox.rows import Arrival
from outbox.inbox.transactions.restored import RestoredMark
from outbox.inbox.transactions.terms import (
    RolledBack,
    Runner,
    Terms,
    Told,
    failure,
    tell_failure,
)
from outbox.inbox.transactions.transaction import InboxTransaction
from outbox.replies import Outcome, Reply

V = TypeVar("V")

_MAX_REMEMBERED = 10_000
_TRIES = 3
_CAREFUL = 1000
"""Messages of a type that are called within savepoints after one of them was not DONE."""
_CONNECT_WITHIN = 0.8
"""The part of what is left of a delivery in which a transaction must have its connection."""
_LEAST_WAIT = 0.05


class Processor:
    """Runs the transactions of one inbox, and learns how its handlers behave."""

    def __init__(
        self,
        handlers: Handlers,
        runner: Runner,
        *,
        times: HandlerTimes,
        limits: InboxLimits,
        clock: Clock,
        told: Told | None,
        work: Work,
        calls: Calls,
    ) -> None:
        self._late: OrderedDict[str, tuple[bytes, Reply]] = OrderedDict()
        """Answers that came after their delivery, and that no row holds, each with the message's
        fingerprint; by its id."""
        self._handlers = handlers
        self._runner = runner
        self._times = times
        self._limits = limits
        self._clock = clock
        self._told = told
        self._handling = work
        self._outside = calls
        self._holder = HolderName(handlers.consumer)
        self._restored = RestoredMark(handlers.consumer)
        self._calls: OrderedDict[str, int] = OrderedDict()
        self._took: dict[str, float] = {}
        self._fragile: dict[str, int] = {}

    async def process(
        self, readable: Sequence[tuple[int, Arrival]], answers: Answers, began: float
    ) -> None:
        """Answer these messages, each with its position, or as many as a delivery has time for.

        Raises what `Runner.handle` raises, but for RolledBack.
        """
        until = began + self._limits.answer_within
        for part in split(readable):
            await self._process(part, answers, until)

    async def _process(self, part: Sequence[Slot], answers: Answers, until: float) -> None:
        rest = list(part)
        while rest := self._admitted(rest, answers, until):
            slots = self._portion(rest)
            told = await self._tried(slots, answers, until)
            if isinstance(told, RolledBack):
                self._be_careful(told)
                await self._after_rollback(slots, told, answers, until)
                answered = slots
            else:
                answered = self._keep(slots, told, answers)
            done = {id(slot) for slot in answered}
            rest = [slot for slot in rest if id(slot) not in done]

    async def _tried(
        self, slots: Sequence[Slot], answers: Answers, until: float
    ) -> Sequence[Reply | None] | RolledBack:
        """The replies of one transaction with all of them. What follows a rollback is done outside
        of its except clause, else each later error of a handler is logged with this one before
        it."""
        try:
            return await self._transact(slots, answers, until, together=True)
        except RolledBack as rolled_back:
            return rolled_back

    def _admitted(self, slots: Sequence[Slot], answers: Answers, until: float) -> list[Slot]:
        if self._clock.monotonic() > until:
            answers.close()
        return [slot for slot in slots if answers.admits(slot)]

    def _portion(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """As many of them as one transaction has time for, by how long their like took last."""
        seconds = 0.0
        for count, slot in enumerate(slots):
            seconds += self._took.get(slot.arrival.envelope.type, 0.0)
            if count and seconds > self._limits.transaction:
                return slots[:count]
        return slots

    def _keep(
        self, slots: Sequence[Slot], replies: Sequence[Reply | None], answers: Answers
    ) -> list[Slot]:
        """Note the answers; returns which messages have one."""
        answered = []
        for slot, reply in zip(slots, replies, strict=True):
            if reply is not None:
                self._answer(slot, reply, answers)
                answered.append(slot)
        return answered

    def late_answer(self, arrival: Arrival) -> Reply | None:
        """What its handler said after an earlier delivery had been answered."""
        digest, reply = self._late.get(arrival.envelope.id, (b"", None))
        return reply if digest == arrival.fingerprint else None

    def told(self, arrival: Arrival) -> None:
        """Its late answer was told."""
        self._late.pop(arrival.envelope.id, None)

    def _answer(self, slot: Slot, reply: Reply, answers: Answers) -> None:
        answers.answer(slot, reply)
        envelope = slot.arrival.envelope
        if answers.is_closed and reply.outcome is Outcome.FAILED:
            # No row has it, and it must count: a message that always fails would be asked for ever.
            known = slot.arrival.fingerprint, reply
            _remember(self._late, envelope.id, known)
        if (left := self._fragile.pop(envelope.type, 0)) > 1:
            calm = reply.outcome is Outcome.DONE or reply.is_pending
            self._fragile[envelope.type] = left - 1 if calm else _CAREFUL

    async def _after_rollback(
        self, slots: Sequence[Slot], rolled_back: RolledBack, answers: Answers, until: float
    ) -> None:
        """Give each message a transaction of its own; but a handler that took too long once is not
        called again."""
        late = rolled_back.trouble is Trouble.SLOW and rolled_back.reply is not None
        for slot in _suspects_last(slots, rolled_back):
            if late and slot.arrival is rolled_back.in_hand[0]:
                self._answer(slot, self._answer_to(slot.arrival, rolled_back), answers)
            elif self._admitted([slot], answers, until):
                self._answer(slot, await self._alone(slot, answers, until), answers)
            elif len(slots) == 1 and rolled_back.trouble is not Trouble.CROSSED:
                # There is no time to call it alone, as it was already. Only a failure is told: what
                # it said besides was not stored.
                reply = self._answer_to(slot.arrival, rolled_back)
                if reply.outcome is Outcome.FAILED:
                    self._answer(slot, reply, answers)

    async def _alone(self, slot: Slot, answers: Answers, until: float) -> Reply:
        for _ in range(_TRIES):
            try:
                (reply,) = await self._transact([slot], answers, until, together=False)
                assert reply is not None, "a message alone is never left out"
                return reply
            except RolledBack as rolled_back:
                if rolled_back.trouble is not Trouble.CROSSED:
                    return self._answer_to(slot.arrival, rolled_back)
        return too_busy("other transactions were in its way")

    def _answer_to(self, arrival: Arrival, rolled_back: RolledBack) -> Reply:
        if rolled_back.reply is not None:
            if rolled_back.reply.outcome is Outcome.FAILED:
                tell_failure(self._handlers.consumer, arrival, rolled_back.error)
            return rolled_back.reply
        if rolled_back.trouble is Trouble.LOCKED and not rolled_back.in_hand:
            # Its row is another process's, which works on it.
            return IN_HAND
        if rolled_back.trouble is Trouble.LOCKED:
            return too_busy("another transaction held a lock for too long")
        tell_failure(self._handlers.consumer, arrival, rolled_back.error)
        return failure(rolled_back.error)

    def _be_careful(self, rolled_back: RolledBack) -> None:
        """Call the next messages of that type within savepoints, so that one of them that fails or
        is refused does not make the others run again; and not in a list, where one of a list took
        too long."""
        late_list = rolled_back.trouble is Trouble.SLOW and len(rolled_back.in_hand) > 1
        if rolled_back.trouble is Trouble.OWN or late_list:
            self._fragile |= {each.envelope.type: _CAREFUL for each in rolled_back.in_hand}

    async def _transact(
        self, slots: Sequence[Slot], answers: Answers, until: float, *, together: bool
    ) -> list[Reply | None]:
        """Raises as `Runner.handle` does."""
        arrivals = [slot.arrival for slot in slots]
        terms = Terms(
            together=together,
            limits=self._limits,
            times=self._times,
            clock=self._clock,
            attempt_of=lambda id: self._calls.get(id, 0) + 1,
            holder=self._holder,
            may_be_lost=self._restored.concerns,
            # Other deliveries change it meanwhile, and a list is made before it is called.
            fragile=frozenset(self._fragile),
            told=self._told,
        )
        work = InboxTransaction(self._handlers, arrivals, terms)
        answers.in_transaction = slots
        left = (until - self._clock.monotonic()) * _CONNECT_WITHIN
        try:
            with self._handling:
                replies = await self._runner.handle(work, connect_within=max(left, _LEAST_WAIT))
        except BaseException:
            self._remember_calls(work.called)
            raise
        finally:
            answers.in_transaction = ()
            self._took |= work.took
        for begun in work.begun:
            self._outside.begin(begun, answers.delivery)
        kept = {
            arrival.envelope.id
            for arrival, reply in zip(arrivals, replies, strict=True)
            if reply is not None and reply.outcome.is_final
        }
        self._remember_calls([each for each in work.called if each.envelope.id not in kept])
        for id in kept if self._calls else ():
            self._calls.pop(id, None)
        return replies

    def _remember_calls(self, called: Sequence[Arrival]) -> None:
        for arrival in called:
            id = arrival.envelope.id
            self._calls[id] = self._calls.pop(id, 0) + 1
            if len(self._calls) > _MAX_REMEMBERED:
                self._calls.popitem(last=False)


def _suspects_last(slots: Sequence[Slot], rolled_back: RolledBack) -> list[Slot]:
    """The key that was in hand when the time was over goes last: the others then get their answer
    in any case."""
    if rolled_back.trouble not in (Trouble.SLOW, Trouble.LOCKED):
        return list(slots)
    keys = {order_key(arrival.envelope) for arrival in rolled_back.in_hand}
    return sorted(slots, key=lambda slot: order_key(slot.arrival.envelope) in keys)


def _remember(known: OrderedDict[str, V], id: str, value: V) -> None:
    known[id] = value
    if len(known) > _MAX_REMEMBERED:
        known.popitem(last=False)
