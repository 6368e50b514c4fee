"""A bank whose answers come later, and looks at what they leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.limits import InboxLimits
from outbox.inbox.pending.complete import complete
from outbox.messages import Message
from outbox.replies import Pending, Refused
from outbox.tables import inbox_pending
from outbox.tables import outbox as outbox_table
from outbox.wire import strict_json
from outbox.wire.envelope import Envelope
from tests.support.outbox.inboxes import Bench, Book, Names, Unbook, envelope, ledger, write_entry

SAGA = Names()()
WAITS = Pending(note="the airline calls back", expect=timedelta(minutes=5))


class Bank:
    """Handlers that write, and answer what they are told to."""

    def __init__(self) -> None:
        self.book: Any = WAITS
        self.unbook: Any = None
        self.undone: list[Context] = []
        self.before_return: Callable[[], Awaitable[None]] | None = None
        self.handlers = Handlers("bank")
        self.handlers.on(Book)(self._book)
        self.handlers.on(Unbook)(self._unbook)

    async def _book(self, session: AsyncSession, command: Book, context: Context) -> Any:
        await write_entry(session, command.entry, context.id)
        await self._pause()
        return self.book

    async def _unbook(self, session: AsyncSession, command: Unbook, context: Context) -> Any:
        self.undone.append(context)
        if not isinstance(self.unbook, Refused):
            await session.execute(delete(ledger).where(ledger.c.by.in_(list(context.undoes))))
        await self._pause()
        return self.unbook

    async def _pause(self) -> None:
        if self.before_return is not None:
            await self.before_return()


def bench_of(engine: AsyncEngine, bank: Bank, limits: InboxLimits | None = None) -> Bench:
    """An inbox for that bank, which has a way to `sender`."""
    bench = Bench(engine, bank.handlers, limits=limits)
    outbox.install(bench.sessions, source="bank", routes={}, clock=bench.clock, peers=["sender"])
    return bench


def asked(id: str, message: Message, **rest: Any) -> Envelope:
    """A command of a saga that awaits its answer."""
    return envelope(id, message, correlation=SAGA, reply_to="sender", **rest)


async def answered(bench: Bench, bank: Bank, answers: Mapping[str, object]) -> None:
    async with bench.sessions.begin() as session:
        await session.run_sync(complete, bank.handlers, answers, bench.clock.now())


async def told(bench: Bench) -> list[dict[str, Any]]:
    """What leaves through the outbox, oldest first."""
    async with bench.sessions() as session:
        rows = await session.execute(select(outbox_table.c.payload).order_by(outbox_table.c.seq))
        return [strict_json.loads(payload.encode()) for payload in rows.scalars()]


async def kept(bench: Bench) -> Sequence[str]:
    """The ids of which more is kept than their row in the inbox."""
    async with bench.sessions() as session:
        return (await session.execute(select(inbox_pending.c.id))).scalars().all()
