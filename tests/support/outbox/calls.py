"""A bank that charges cards at a provider: a command whose handler calls the outside, and its undo.

The same on both grounds: an asynchronous database with handlers on the event loop, and a
synchronous one with handlers in threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

import outbox
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.outside.delivery import Delivery
from outbox.inbox.outside.results import ResultTransaction
from outbox.inbox.pending.complete import complete, drop
from outbox.inbox.rows import State
from outbox.inbox.runners import Sessions
from outbox.inbox.transactions.terms import Told
from outbox.messages import Message
from outbox.replies import Reply
from outbox.tables import inbox as inbox_table
from outbox.tables import inbox_pending
from outbox.tables import outbox as outbox_table
from outbox.testing import FakeClock
from outbox.wire import strict_json
from outbox.wire.envelope import Envelope
from tests.support.outbox.inboxes import (
    PATIENT,
    START,
    Book,
    Booked,
    Names,
    Noted,
    Unbook,
    envelope,
    ledger,
    plainly,
)
from tests.support.processes.waiting import until

R = TypeVar("R")

SAGA = Names()()
BOOKED = Booked(balance=1)


class Lost(ConnectionError):
    """The provider took the request, and its answer was lost."""


@dataclass
class Provider:
    """The provider, and what the bank's functions do with it.

    `script` says what becomes of the next calls, one after another, and then of all others: a value
    or an error to give, after the effect where it `has_effect`. A call waits while it is `held`.
    """

    script: list[Any] = field(default_factory=list)
    is_async: bool = True
    asked: list[Context] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    """The keys under which it was charged or gave back: each once, since it honours keys."""
    gates: list[Gate] = field(default_factory=list)
    """One for each call that is to wait before it answers, in their order."""

    @classmethod
    def on(cls, sessions: Sessions) -> Provider:
        """One that is asked as fits the ground."""
        return cls(is_async=not isinstance(sessions, sessionmaker))

    def held(self) -> Gate:
        """Let the next call that has no gate yet wait at one."""
        gate = Gate()
        self.gates.append(gate)
        return gate

    @property
    def function(self) -> Callable[..., Any]:
        return self._asked if self.is_async else self._asked_in_thread

    async def _asked(self, command: Message, context: Context) -> Any:
        answer, gate = self._take(context)
        if gate is not None:
            gate.enter(context)
            await gate.opened_on_loop.wait()
        return self._give(answer, context)

    def _asked_in_thread(self, command: Message, context: Context) -> Any:
        answer, gate = self._take(context)
        if gate is not None:
            gate.enter(context)
            assert gate.opened.wait(30)
        return self._give(answer, context)

    def _take(self, context: Context) -> tuple[Any, Gate | None]:
        self.asked.append(context)
        answer = self.script.pop(0) if self.script else BOOKED
        return answer, next((it for it in self.gates if not it.entered.is_set()), None)

    def holds(self, context: Context) -> bool:
        """Whether that attempt waits at a gate."""
        return any(gate.inside == (context.id, context.attempt) for gate in self.gates)

    def _give(self, answer: Any, context: Context) -> Any:
        has_effect = not isinstance(answer, outbox.Refused | outbox.Locked | outbox.Ongoing)
        if has_effect and context.id not in self.effects:
            self.effects.append(context.id)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Gate:
    """A place where a call waits."""

    def __init__(self) -> None:
        self.inside: tuple[str, int] | None = None
        """The key and the number of the attempt that waits here."""
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.opened_on_loop = asyncio.Event()

    def enter(self, context: Context) -> None:
        """Stand there, unless it is open."""
        self.inside = context.id, context.attempt
        if self.opened.is_set():
            self.inside = None
        self.entered.set()

    async def is_entered(self) -> None:
        """Wait until a call is there."""
        await until(self.entered.is_set, what="the provider is asked")

    def open(self) -> None:
        """Let it go on."""
        self.opened.set()
        self.opened_on_loop.set()
        self.inside = None


class Bank:
    """An inbox on one of the grounds, whose commands ask the provider; and looks at what it left.

    `before` and `after` are plain functions, which wait for the database alone. What `before` gives
    is what `first` says.
    """

    def __init__(
        self,
        sessions: Sessions,
        provider: Provider,
        *,
        keyed: bool = True,
        timeout: float = 30.0,
        key_valid_for: timedelta = timedelta(hours=24),
        undo: str = "outside",
        limits: InboxLimits | None = None,
        told: Told | None = None,
        is_patient: bool = False,
    ) -> None:
        """Where it is not patient, a delivery does not wait for a call that stands at a gate. For
        all others it waits as long as a busy machine needs."""
        self.sessions = sessions
        self.provider = provider
        self.clock = FakeClock(START)
        self.first: Any = {"card": 7}
        self.after_raises: list[Exception] = []
        self.refunds = Provider(is_async=provider.is_async, script=[])
        self.undone: list[Context] = []
        self.handlers = Handlers("bank")
        on_ground = _ground(sessions)
        self.handlers.outside(
            Book,
            timeout=timeout,
            keyed=keyed,
            key_valid_for=key_valid_for,
            before=on_ground(self._before),
            after=on_ground(self._after),
        )(provider.function)
        if undo == "outside":
            self.refunds.script = [None] * 100
            self.handlers.outside(Unbook, timeout=timeout, keyed=keyed)(self.refunds.function)
        else:
            self.handlers.on(Unbook)(on_ground(self._unbook))
        self.handlers.on(Noted)(on_ground(self._noted))
        if outbox.adding.installation.is_installed(sessions) is False:
            outbox.install(sessions, source="bank", routes={}, clock=self.clock, peers=["sender"])
        self.inbox = Inbox(
            self.handlers, sessions, clock=self.clock, limits=limits or PATIENT, told=told
        )
        if not is_patient:
            self._wait = self.inbox.calls.wait
            self._waits_at_gates = timeout <= 1
            setattr(self.inbox.calls, "wait", self._wait_unless_held)  # noqa: B010 - as mypy wants it

    async def _wait_unless_held(self, delivery: Delivery, *, until: float, at_most: float) -> None:
        waiting = asyncio.ensure_future(self._wait(delivery, until=at_most, at_most=at_most))
        while not waiting.done():
            awaited = [it.call.context for it in self.inbox.calls._awaited(delivery)]
            if not self._waits_at_gates and all(map(self._is_held, awaited)):
                waiting.cancel()
                delivery.is_over = True
            await asyncio.wait({waiting}, timeout=0.005)

    def _is_held(self, context: Context) -> bool:
        return self.provider.holds(context) or self.refunds.holds(context)

    def _before(self, session: Session, command: Book, context: Context) -> Any:
        session.execute(insert(ledger).values(entry="before", by=context.id))
        return self.first

    def _after(
        self, session: Session, command: Book, reply: Booked | outbox.Refused, context: Context
    ) -> None:
        entry = "refused" if isinstance(reply, outbox.Refused) else f"after {reply.balance}"
        session.execute(insert(ledger).values(entry=entry, by=context.id))
        if self.after_raises:
            raise self.after_raises.pop(0)

    def _unbook(self, session: Session, command: Unbook, context: Context) -> Any:
        self.undone.append(context)
        session.execute(delete(ledger).where(ledger.c.by.in_(list(context.undoes))))

    def _noted(self, session: Session, event: Noted, context: Context) -> None:
        session.execute(insert(ledger).values(entry=event.entry, by=context.id))

    async def receive(self, *envelopes: Envelope) -> list[Reply]:
        return await self.inbox.receive(envelopes)

    async def ask(self, command: Envelope) -> Reply:
        (reply,) = await self.inbox.receive([command])
        return reply

    def asking(self, command: Envelope) -> asyncio.Task[Reply]:
        """Ask meanwhile."""
        return asyncio.create_task(self.ask(command))

    async def complete(self, id: str, answer: object) -> None:
        """Answer a pending command."""
        now = self.clock.now()
        await self._read(lambda it: complete(it, self.handlers, {id: answer}, now))

    async def drop(self, id: str) -> None:
        """Wait for it no longer."""
        now = self.clock.now()
        await self._read(lambda it: drop(it, "bank", id, "no provider knows", now))

    async def reaches(self, command: Envelope, state: State) -> None:
        """Wait until the command is in that state, and the thread that wrote it is done."""

        async def has_come() -> bool:
            return (await self.states())[command.id] is state

        await until(has_come, what=f"it is {state}")
        engine = self.sessions.kw["bind"]
        pool = getattr(engine, "sync_engine", engine).pool
        if isinstance(pool, QueuePool):
            await until(lambda: pool.checkedout() == 0, what="its connection is given back")

    async def has_told(self) -> bool:
        """Whether an answer leaves as a message."""
        return bool(await self.told())

    def fail_results(self, monkeypatch: pytest.MonkeyPatch, times: int) -> list[Exception]:
        """Let the database be away when results are to be written; what is left of that."""
        failures: list[Exception] = [ConnectionRefusedError("the database is away")] * times
        runner = self.inbox._runner
        handle = runner.handle

        async def failing(work: Any, *, connect_within: float) -> Any:
            if isinstance(work, ResultTransaction) and failures:
                raise failures.pop()
            return await handle(work, connect_within=connect_within)

        monkeypatch.setattr(runner, "handle", failing)
        return failures

    def hold_results(self, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
        """Let results not be written yet: the first event says that one is to be, the second one
        lets it go on."""
        writing, go_on = asyncio.Event(), asyncio.Event()
        runner = self.inbox._runner
        handle = runner.handle

        async def held(work: Any, *, connect_within: float) -> Any:
            if isinstance(work, ResultTransaction):
                writing.set()
                await go_on.wait()
            return await handle(work, connect_within=connect_within)

        monkeypatch.setattr(runner, "handle", held)
        return writing, go_on

    async def entries(self) -> list[str]:
        """What was written, in its order."""
        return await self._read(lambda it: list(it.scalars(select(ledger.c.entry))))

    async def states(self) -> dict[str, State]:
        """The state of each id that the inbox knows."""
        columns = inbox_table.c.id, inbox_table.c.state
        rows = await self._read(lambda it: it.execute(select(*columns)).all())
        return {id: State(state) for id, state in rows}

    async def kept(self, id: str) -> Any:
        """The row that is kept of a pending command; None where there is none."""
        wanted = select(inbox_pending).where(inbox_pending.c.id == id)
        return await self._read(lambda it: it.execute(wanted).one_or_none())

    async def told(self) -> list[dict[str, Any]]:
        """The answers that leave as messages, oldest first."""
        wanted = select(outbox_table.c.payload).order_by(outbox_table.c.seq)
        found = await self._read(lambda it: list(it.scalars(wanted)))
        return [strict_json.loads(each.encode()) for each in found]

    async def let_pass(self, id: str) -> None:
        """Let the time of that command's call be over, on the database's clock too."""
        await self.change(id, until=datetime(2000, 1, 1, tzinfo=START.tzinfo))

    async def change(self, id: str, **values: Any) -> None:
        """Write what is kept of that command."""
        statement = update(inbox_pending).where(inbox_pending.c.id == id).values(**values)
        await self._read(lambda it: it.execute(statement))

    async def _read(self, look: Callable[[Session], R]) -> R:
        sessions = self.sessions
        if isinstance(sessions, sessionmaker):
            return await asyncio.to_thread(self._look, sessions, look)
        async with sessions.begin() as session:
            return await session.run_sync(look)

    def _look(self, sessions: sessionmaker[Session], look: Callable[[Session], R]) -> R:
        with sessions.begin() as session:
            return look(session)


def _ground(sessions: Sessions) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return (lambda it: it) if isinstance(sessions, sessionmaker) else plainly


def asked(id: str, message: Message, **rest: Any) -> Envelope:
    """A command of a saga that awaits its answer."""
    return envelope(id, message, **{"correlation": SAGA, "reply_to": "sender", **rest})


async def ended(bank: Bank) -> None:
    """Wait until the bank makes no call any more."""
    await until(lambda: bank.inbox.calls.taken == 0, what="its calls have ended")
