"""A participant of a history with the real inbox on a database: its statements are the real ones,
and calls to the outside are made in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Insert, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.chances import Chances
from orchestrator.testing.virtual.process import ProcessClock
from orchestrator.testing.virtual.service import (
    CALLING,
    DONE,
    TIMEOUT,
    Effect,
    Handlers,
    Service,
    Told,
    ToTell,
)
from outbox import Context, Locked, Ongoing, Pending, Refused
from outbox import Handlers as Consumer
from outbox.errors import AlreadyAnswered, TooLate
from outbox.inbox.batches import Slot
from outbox.inbox.inbox import Inbox, InboxLimits
from outbox.inbox.outside.call import Call, Result
from outbox.inbox.outside.delivery import Delivery
from outbox.inbox.outside.results import Results, ResultTransaction
from outbox.inbox.pending.complete import complete
from outbox.inbox.pending.keeping import with_pended
from outbox.inbox.rows import Row, State
from outbox.inbox.runners import hold_to, runner_for
from outbox.inbox.transactions import store
from outbox.messages import Command, reply_type
from outbox.replies import Outcome, Reply
from outbox.wire.codec import decode_value
from outbox.wire.envelope import Envelope

metadata = MetaData()
effect = Table(
    "simulated_effect",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("service", String(100), nullable=False),
    Column("saga_id", String(36), nullable=False),
    Column("step", String(100), nullable=False),
    Column("letter", String(1), nullable=False),
)
"""What handlers wrote, in the transactions of the inbox."""


class ServiceWithInbox(Service):
    """A participant with the real inbox on the database."""

    def __init__(
        self,
        name: str,
        chances: Chances,
        handlers: Handlers,
        clock: ProcessClock,
        took_effect: Callable[[Effect], Awaitable[None]],
        begun: Callable[[Service, Envelope, int], None],
        sessions: async_sessionmaker[AsyncSession],
        commands: Sequence[type[Command[Any]]],
    ) -> None:
        super().__init__(name, chances, handlers, clock.now, took_effect, begun)
        consumer = Consumer(name)
        for command in commands:
            consumer.on(command)(self._handle)
        self._types = {str(it.message_type): it for it in commands}
        self._consumer = consumer
        self._sessions = sessions
        self._clock = clock
        self._inbox = Inbox(consumer, sessions, clock=clock)
        calling = Consumer(name)
        for command in commands:
            calling.outside(command, timeout=TIMEOUT, keyed=True, before=self._before)(_never)
        self._calling = Inbox(calling, sessions, clock=clock)
        # The calls are made in virtual time.
        self._calling.calls.begin = self._call_begins  # type: ignore[method-assign]  # by design
        self._calls: dict[tuple[str, int], Call] = {}
        limits = InboxLimits()
        self._runner = runner_for(sessions, commit_within=limits.answer_within)
        times = hold_to(calling, sessions, limits)
        self._results = Results(
            name, self._runner, times=times, limits=limits, clock=clock, told=None
        )
        self._slot: Slot | None = None
        self._decided: Reply | None = None

    async def _transact(self, slot: Slot) -> Reply:
        envelope = slot.arrival.envelope
        self._slot, self._decided = slot, None
        calls = self._handlers.calls_outside(envelope)
        (reply,) = await (self._calling if calls else self._inbox).receive([envelope])
        decided = self._decided
        is_kept = decided is not None and (decided.outcome is Outcome.DONE or decided.is_pending)
        if decided is not None and is_kept and not calls:
            await self._note(envelope, decided)
            if decided.is_pending:
                self._begun(self, envelope, 0)
        return reply

    def _call_begins(self, call: Call, delivery: Delivery) -> None:
        self._calls[call.id, call.attempt.number] = call
        self._begun(self, call.arrival.envelope, call.attempt.number)

    async def conclude(self, envelope: Envelope, attempt: int, result: Result) -> Told:
        ids = [envelope.id, *envelope.undoes]
        before = await self._look(ids)
        call = self._calls[envelope.id, attempt]
        work = ResultTransaction(self._results, call, result, lambda: False)
        await self._runner.handle(work, connect_within=10.0)
        after = await self._look(ids)
        if _attempt(before, envelope.id) == attempt and _attempt(after, envelope.id) == 0:
            # It is pending without a call now.
            self._begun(self, envelope, 0)
        return list(_told(envelope.id, before, after))

    async def _look(self, ids: Sequence[str]) -> dict[str, Row]:
        def look(session: Session) -> dict[str, Row]:
            found = store.read(session, self.name, ids, lock=False)
            return with_pended(session, self.name, found, self._clock.now())

        async with self._sessions() as session:
            return await session.run_sync(look)

    async def complete(self, envelope: Envelope, reply: Reply) -> Told:
        try:
            async with self._sessions.begin() as session:
                stored = await session.run_sync(self._complete, envelope, reply)
        except TooLate:
            return ()
        except AlreadyAnswered as error:
            raise Broken("P2, P3", f"nothing but this completes it: {error.problem}") from error
        if stored is None:
            return ()
        await self._note(envelope, stored)
        return [ToTell(envelope.id, stored)]

    def _complete(self, session: Session, envelope: Envelope, reply: Reply) -> Reply | None:
        """Complete it, and write what that means; the answer as it is stored, None where it was
        answered before."""
        known = store.read(session, self.name, [envelope.id], lock=False)[envelope.id].state
        answer = _given(reply, self._types[envelope.type])
        complete(session, self._consumer, {envelope.id: answer}, self._now())
        if known is not State.PENDING:
            return None
        stored = store.read(session, self.name, [envelope.id], lock=False)[envelope.id].reply
        session.execute(self._written(envelope, stored or DONE))
        return stored or DONE

    def _written(self, envelope: Envelope, reply: Reply) -> Insert:
        """The statement that writes what the answer means; that it was done, where it means that
        nothing took effect."""
        done = Effect.of(envelope, reply) or Effect.of(envelope, DONE)
        assert done is not None
        return insert(effect).values(
            service=self.name, saga_id=done.saga_id, step=done.step, letter=done.letter
        )

    async def _before(self, _: AsyncSession, message: Command[Any], __: Context) -> Any:
        assert self._slot is not None
        if self._decided is None:
            self._decided = self._handlers.accident(self._slot.arrival.envelope) or CALLING
        return None if self._decided.is_pending else _given(self._decided, type(message))

    async def _handle(self, session: AsyncSession, message: Command[Any], _: Context) -> Any:
        assert self._slot is not None
        envelope = self._slot.arrival.envelope
        # The inbox may call it twice for one attempt: in the batch, then alone.
        decided = self._decided = self._decided or self._handlers.run(envelope)
        # Written in any case: where nothing took effect, the inbox has to take it back.
        await session.execute(self._written(envelope, decided))
        return _given(decided, type(message))


def _given(reply: Reply, command: type[Command[Any]]) -> Any:
    """What a handler returns to answer so."""
    match reply.outcome:
        case Outcome.DONE:
            return None if reply.value is None else decode_value(reply_type(command), reply.value)
        case Outcome.REFUSED:
            return Refused("refused", "the rules say no")
        case Outcome.LOCKED:
            return Locked("another operation has it")
        case Outcome.ONGOING if reply.is_pending:
            return Pending("a person decides")
        case Outcome.ONGOING:
            return Ongoing(retry_after=1.0)
        case _:
            raise RuntimeError("the handler raised an error")


async def _never(_: Command[Any], __: Context) -> Any:
    """Stand for a call that is made in virtual time."""
    raise AssertionError("calls are made in virtual time")


def _attempt(rows: Mapping[str, Row], id: str) -> int | None:
    """The last attempt of the call that a pending command waits for."""
    row = rows[id]
    return row.pended.attempt if row.state is State.PENDING and row.pended else None


def _told(id: str, before: Mapping[str, Row], after: Mapping[str, Row]) -> Iterator[ToTell]:
    """What the result of the call for that command has told, by the rows before and after it."""
    for each, now in after.items():
        was = before[each]
        is_late = was.state in (State.UNDONE, State.BARRED) or (
            was.state is State.UNDOING and was.pended is not None and bool(was.pended.late_reply)
        )
        is_answered = now.state in (State.RAN, State.REFUSED)
        if is_answered and (is_late or (each == id and was.state is State.PENDING)):
            yield ToTell(each, now.reply or DONE, is_late)
