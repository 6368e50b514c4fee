"""The inbox: a message takes effect at most once, and never together with its undo.

A batch is one transaction: the ids, what the handlers wrote, the messages that they added and the
answers. Where one of its messages fails or is refused, all of it is rolled back, and each message
gets a transaction of its own.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from outbox import sqlite
from outbox.clock import Clock
from outbox.contract import RunsEnded
from outbox.coordination.progress import Progress
from outbox.database.troubles import Trouble
from outbox.errors import InvalidMessage, MessageTooLarge
from outbox.inbox.barrier import Arrival, State
from outbox.inbox.batches import Slot, holds_key, order_key, split
from outbox.inbox.handlers import Handlers
from outbox.inbox.in_hand import InHand
from outbox.inbox.limits import InboxLimits, Pace
from outbox.inbox.purge import questions
from outbox.inbox.purge.purge import Purge
from outbox.inbox.purge.questions import Stopped
from outbox.inbox.session import watch
from outbox.inbox.transaction import InboxTransaction, RolledBack, Told
from outbox.replies import Outcome, Reply
from outbox.safe_text import described, fit
from outbox.tracing import fields_of
from outbox.wire.codec import check_size, decode
from outbox.wire.envelope import Envelope, fingerprint
from outbox.wire.settled import EndedSagas

__all__ = ["Inbox", "InboxLimits", "State"]

log = logging.getLogger(__name__)

MAX_UNDOES = 500
_MAX_REMEMBERED = 10_000
_TRIES = 3


@dataclass
class _Batch:
    """The answers so far, and the keys whose later messages must wait."""

    replies: list[Reply | None]
    waiting: set[tuple[bool, str]] = field(default_factory=set)

    def answer(self, envelope: Envelope, positions: Iterable[int], reply: Reply) -> None:
        for position in positions:
            self.replies[position] = reply
        if holds_key(reply):
            self.waiting.add(order_key(envelope))

    def admits(self, envelope: Envelope, positions: Iterable[int]) -> bool:
        """Whether it is this message's turn; if not, it is answered so."""
        if order_key(envelope) not in self.waiting:
            return True
        self.answer(envelope, positions, _NOT_ATTEMPTED)
        return False


class Inbox:
    """Takes batches of messages for one consumer, and answers them."""

    def __init__(
        self,
        handlers: Handlers,
        sessions: async_sessionmaker[AsyncSession],
        *,
        clock: Clock,
        limits: InboxLimits | None = None,
        told: Told | None = None,
        peers: Collection[str] = (),
        progress: Progress | None = None,
    ) -> None:
        """`told` is called with each answer of a message that was read, in the transaction that
        keeps it; in one that is rolled back in vain. `peers` are the names to which the outbox of
        these sessions has a way: an orchestrator among them is asked what its deliveries do not
        say of ended sagas. `progress` is told of each transaction.

        Raises UnconfiguredSQLite where the sessions are those of an unconfigured SQLite.
        """
        engine = sessions().sync_session.get_bind()
        sqlite.require(engine.engine)
        watch(engine.engine)
        self.consumer = handlers.consumer
        handlers.build_in(RunsEnded, questions.learn)
        self._handlers = handlers
        self._sessions = sessions
        self._clock = clock
        self._limits = limits or InboxLimits()
        self._told = told
        progress = progress or Progress(clock.monotonic)
        # A copy of a message that hangs is answered soon: only transactions are work.
        self._handling = progress.of("handle messages")
        self._purge = Purge(
            self.consumer,
            sessions,
            clock=clock,
            limits=self._limits,
            peers=peers,
            work=progress.of("purge the inbox"),
        )
        self._in_hand = InHand()
        self._calls: OrderedDict[str, int] = OrderedDict()

    @property
    def stopped(self) -> Mapping[str, Stopped]:
        """The orchestrators of whose sagas the last purge had to keep more rows than it wanted to,
        and why."""
        return self._purge.stopped

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> list[Reply]:
        """One answer for each envelope, in their order; `settled` is what the orchestrator that
        sent the batch says of its sagas.

        Messages of one key take effect in their order: after one that comes again (FAILED, LOCKED,
        ONGOING, TOO_BUSY, an unknown type) the rest of its key is NOT_ATTEMPTED. One that wants its
        answer to go to another name than its sender's is REJECTED. Never raises for a message's
        trouble. A copy of a message that is in hand in this process joins it for
        `limits.alone.lock` seconds, and is ONGOING then.

        Raises what the database raises when it is away or full, or when the outcome of a commit is
        not known: then the same batch, sent again, finds out.
        """
        self._purge.note(envelopes, settled)
        until = self._clock.monotonic() + self._limits.answer_within - self._limits.alone.total
        batch = _Batch([None] * len(envelopes))
        ids = {envelope.id for envelope in envelopes}
        in_hand = await self._in_hand.others(ids, self._limits.alone.lock)
        rejected: dict[int, Reply] = {}
        readable: list[tuple[int, Arrival]] = []
        held: set[tuple[bool, str]] = set()
        for position, envelope in enumerate(envelopes):
            arrival = self._read(envelope)
            if isinstance(arrival, Reply):
                rejected[position] = arrival
                if holds_key(arrival):
                    held.add(order_key(envelope))
            elif order_key(envelope) in held:
                batch.replies[position] = _NOT_ATTEMPTED
            elif envelope.id in in_hand:
                batch.replies[position] = _IN_HAND
                held.add(order_key(envelope))
            else:
                readable.append((position, arrival))
        with self._in_hand.taken(ids - in_hand):
            for part in split(readable):
                await self._process(part, batch, until)
        if rejected:
            _place(rejected, envelopes, batch.replies)
        return [reply for reply in batch.replies if reply is not None]

    async def purge(self) -> int:
        """Delete the rows that no sender asks for any more; returns how many. Bounded in work and
        in the length of each transaction, so call it now and then until it returns 0."""
        return await self._purge.run()

    def _read(self, envelope: Envelope) -> Arrival | Reply:
        handler = self._handlers.find(envelope.type)
        if handler is None:
            return self._unknown_type(envelope)
        if envelope.reply_to not in (None, envelope.source):
            return _not_for_another(envelope)
        try:
            check_size(envelope.type, envelope.data, self._limits.message_bytes)
            if envelope.undoes:
                _check_undo(envelope, handler.is_for_commands)
            message = decode(handler.message_class, envelope.data)
            digest = fingerprint(envelope)
        except MessageTooLarge as error:
            return Reply(Outcome.REJECTED, code="too-large", reason=_reason(error))
        except (InvalidMessage, ValueError) as error:
            return Reply(Outcome.REJECTED, code="invalid", reason=_reason(error))
        saga = envelope.correlation if handler.is_for_commands else None
        return Arrival(envelope, message, digest, saga)

    async def _process(self, part: Sequence[Slot], batch: _Batch, until: float) -> None:
        slots = [slot for slot in part if batch.admits(slot.arrival.envelope, slot.positions)]
        if not slots:
            return
        arrivals = [slot.arrival for slot in slots]
        try:
            replies = await self._transact(arrivals, self._limits.together, together=True)
        except RolledBack as rolled_back:
            slots = _suspects_last(slots, rolled_back)
        else:
            for slot, reply in zip(slots, replies, strict=True):
                batch.answer(slot.arrival.envelope, slot.positions, reply)
            return
        await self._one_by_one(slots, batch, until)

    async def _one_by_one(self, slots: Sequence[Slot], batch: _Batch, until: float) -> None:
        for slot in slots:
            envelope = slot.arrival.envelope
            if not batch.admits(envelope, slot.positions):
                continue
            if self._clock.monotonic() > until:
                reply = _too_busy("the time for this batch was over")
            else:
                reply = await self._alone(slot.arrival)
            batch.answer(envelope, slot.positions, reply)

    async def _alone(self, arrival: Arrival) -> Reply:
        reply = _too_busy("other transactions were in its way")
        for _ in range(_TRIES):
            try:
                (reply,) = await self._transact([arrival], self._limits.alone, together=False)
                break
            except RolledBack as rolled_back:
                if rolled_back.trouble is not Trouble.CROSSED:
                    return self._answer_to(arrival, rolled_back)
        return reply

    def _answer_to(self, arrival: Arrival, rolled_back: RolledBack) -> Reply:
        if rolled_back.reply is not None:
            return rolled_back.reply
        if rolled_back.trouble is Trouble.LOCKED:
            return _too_busy("another transaction held a lock for too long")
        envelope, error = arrival.envelope, rolled_back.error
        log.error(
            "%s failed at %s %s",
            self.consumer,
            envelope.type,
            envelope.id,
            exc_info=error,
            extra=fields_of(envelope),
        )
        return Reply(Outcome.FAILED, code="failed", reason=_reason(error))

    async def _transact(
        self, arrivals: Sequence[Arrival], pace: Pace, *, together: bool
    ) -> list[Reply]:
        """Raises as `InboxTransaction.run` does."""
        with self._handling:
            async with self._sessions() as session:
                work = InboxTransaction(
                    session,
                    self._handlers,
                    arrivals,
                    together=together,
                    now=self._clock.now(),
                    attempt_of=lambda id: self._calls.get(id, 0) + 1,
                    told=self._told,
                )
                try:
                    replies = await work.run(pace, self._limits.answer_within)
                except BaseException:
                    self._remember_calls(work.called)
                    raise
        for arrival in arrivals if self._calls else ():
            self._calls.pop(arrival.envelope.id, None)
        return replies

    def _remember_calls(self, called: Sequence[Arrival]) -> None:
        for arrival in called:
            id = arrival.envelope.id
            self._calls[id] = self._calls.pop(id, 0) + 1
            if len(self._calls) > _MAX_REMEMBERED:
                self._calls.popitem(last=False)

    def _unknown_type(self, envelope: Envelope) -> Reply:
        versions = ", ".join(self._handlers.versions_of(envelope.type))
        known = f"; it knows {versions}" if versions else ""
        reason = f"{self.consumer} has no handler for {envelope.type}{known}"
        return Reply(Outcome.REJECTED, code="unknown-type", reason=reason)


def _place(
    rejected: Mapping[int, Reply], envelopes: Sequence[Envelope], replies: list[Reply | None]
) -> None:
    """Put the rejections among the answers, unless something before them comes again."""
    waiting: set[tuple[bool, str]] = set()
    for position, envelope in enumerate(envelopes):
        key = order_key(envelope)
        reply = rejected.get(position)
        if reply is not None:
            replies[position] = reply = _NOT_ATTEMPTED if key in waiting else reply
        else:
            reply = replies[position]
        if reply is not None and holds_key(reply):
            waiting.add(key)


def _suspects_last(slots: Sequence[Slot], rolled_back: RolledBack) -> list[Slot]:
    """The key that was in hand when the time was over goes last: the others then get their answer
    in any case."""
    if rolled_back.trouble not in (Trouble.SLOW, Trouble.LOCKED):
        return list(slots)
    keys = {order_key(arrival.envelope) for arrival in rolled_back.in_hand}
    return sorted(slots, key=lambda slot: order_key(slot.arrival.envelope) in keys)


def _check_undo(envelope: Envelope, is_command: bool) -> None:
    problem = ""
    if not is_command:
        problem = "an event cannot undo a command"
    elif envelope.id in envelope.undoes:
        problem = "a command cannot undo itself"
    elif len(envelope.undoes) > MAX_UNDOES:
        problem = f"it undoes {len(envelope.undoes)} commands, and at most {MAX_UNDOES} are allowed"
    if problem:
        raise ValueError(problem)


def _not_for_another(envelope: Envelope) -> Reply:
    reason = (
        f"{envelope.source} wants the answer to go to {envelope.reply_to}, and an answer goes to "
        "the sender alone; leave reply_to out, or give the sender's own name"
    )
    return Reply(Outcome.REJECTED, code="invalid", reason=fit(reason))


def _too_busy(reason: str) -> Reply:
    return Reply(Outcome.TOO_BUSY, code="too-busy", reason=reason, retry_after=1.0)


def _reason(error: BaseException) -> str:
    # A database error's own text would quote the statement with all its values.
    return described(getattr(error, "orig", None) or error)


_IN_HAND = Reply(
    Outcome.ONGOING,
    code="ongoing",
    reason="an earlier delivery of it is still in hand",
    retry_after=1.0,
)
_NOT_ATTEMPTED = Reply(
    Outcome.NOT_ATTEMPTED,
    code="not-attempted",
    reason="an earlier message of its key in this batch comes again",
)
