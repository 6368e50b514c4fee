"""A consumer for tests of the inbox: entries of a ledger that commands add and take away.

Effects are rows of `ledger`, one for each time that a handler's writes were kept; so a message that
took effect twice shows as two rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, registry

from outbox.ids import compose
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.rows import State
from outbox.messages import Command, Event, Message, type_of
from outbox.replies import Reply
from outbox.tables import inbox as inbox_table
from outbox.tables import metadata
from outbox.testing import FakeClock
from outbox.wire.codec import encode
from outbox.wire.envelope import Envelope

R = TypeVar("R")

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
PATIENT = InboxLimits(transaction=20, lock=20, answer_within=50)
"""Limits that no test on a busy machine meets. What a test wants to be cut off has its own."""

ledger_metadata = MetaData()
ledger = Table(
    "ledger",
    ledger_metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("entry", String(100), nullable=False),
    Column("by", String(36), nullable=False),
)


def ledger_schema(connection: Connection) -> None:
    """The library's tables, and the ledger."""
    metadata.create_all(connection)
    ledger_metadata.create_all(connection)


@dataclass(frozen=True)
class Booked:
    balance: int


@dataclass(frozen=True)
class Book(Command[Booked], type="bank.book.v1", key="account"):
    """The action."""

    account: str
    entry: str = "an entry"


@dataclass(frozen=True)
class Unbook(Command[None], type="bank.unbook.v1", key="account"):
    """Its compensation: takes away what the commands in `Context.undoes` wrote."""

    account: str


@dataclass(frozen=True)
class Noted(Event, type="press.noted.v1", key="account"):
    account: str
    entry: str = "a note"


@dataclass(frozen=True)
class Listed(Event, type="press.listed.v1", key="account"):
    """An event for a list handler."""

    account: str
    entry: str = "a listed note"


class Names:
    """Ids in the order in which they are asked for, made at `moment`."""

    def __init__(self, moment: datetime = START) -> None:
        self.moment = moment
        self._tails = self._count()

    def __call__(self, moment: datetime | None = None) -> str:
        at = moment or self.moment
        return compose(round(at.timestamp() * 1000), next(self._tails) << 40)

    def _count(self) -> Iterator[int]:
        number = 0
        while True:
            number += 1
            yield number


def envelope(id: str, message: Message, **rest: Any) -> Envelope:
    """The envelope of `message` as the service `sender` sends it."""
    return Envelope(
        **{
            "id": id,
            "source": "sender",
            "type": str(type_of(message)),
            "key": message.message_key,
            "time": START,
            "data": encode(message),
            **rest,
        }
    )


def altered(original: Envelope, message: Message) -> Envelope:
    """The same envelope around another message."""
    return dataclasses.replace(original, data=encode(message))


async def write_entry(session: AsyncSession | Session, entry: str, by: str) -> None:
    """One effect."""
    statement = insert(ledger).values(entry=entry, by=by)
    if isinstance(session, AsyncSession):
        await session.execute(statement)
    else:
        session.execute(statement)


def plainly(function: Callable[..., R]) -> Callable[..., Coroutine[Any, Any, R]]:
    """A handler on the event loop from a plain function, which waits for the database alone."""

    async def handler(session: AsyncSession, *rest: Any) -> R:
        return await session.run_sync(function, *rest)

    return handler


def bank(*, without: type[Message] | None = None) -> Handlers:
    """Handlers that do what the messages say, and nothing surprising; `without` one, which a test
    adds itself."""
    handlers = Handlers("bank")
    for cls, function in ((Book, _book), (Unbook, _unbook), (Noted, _noted)):
        if cls is not without:
            handlers.on(cast(type[Event], cls))(function)
    if without is not Listed:
        handlers.on_list(Listed)(_listed)
    return handlers


async def _book(session: AsyncSession, command: Book, context: Context) -> Any:
    await write_entry(session, command.entry, context.id)
    return Booked(balance=1)


async def _unbook(session: AsyncSession, command: Unbook, context: Context) -> Any:
    await session.execute(delete(ledger).where(ledger.c.by.in_(context.undoes)))


async def _noted(session: AsyncSession, event: Noted, context: Context) -> None:
    await session.execute(insert(ledger).values(entry=event.entry, by=context.id))


async def _listed(
    session: AsyncSession, events: Sequence[Listed], contexts: Sequence[Context]
) -> list[None]:
    rows = [
        {"entry": event.entry, "by": context.id}
        for event, context in zip(events, contexts, strict=True)
    ]
    await session.execute(insert(ledger), rows)
    return [None] * len(events)


def handling(answer: Callable[[Any, Context], Any]) -> Handlers:
    """Handlers of which the one for `Book` writes its entry and then returns `answer(...)`."""
    handlers = bank(without=Book)

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        await write_entry(session, command.entry, context.id)
        return answer(command, context)

    return handlers


def outcomes(replies: Sequence[Reply]) -> list[str]:
    """The replies in a word each."""
    return [reply.outcome.value for reply in replies]


class Entry:
    """A row of the ledger, for the ORM."""

    def __init__(self, entry: str, by: str) -> None:
        self.entry = entry
        self.by = by


registry().map_imperatively(Entry, ledger)


class Bench:
    """An inbox on a database, and looks at what it left there."""

    def __init__(
        self,
        engine: AsyncEngine,
        handlers: Handlers | None = None,
        *,
        clock: FakeClock | None = None,
        limits: InboxLimits | None = None,
        sessions: async_sessionmaker[AsyncSession] | None = None,
    ) -> None:
        """The limits are `PATIENT`, unless others are given."""
        self.engine = engine
        self.clock = clock or FakeClock(START)
        self.handlers = handlers or bank()
        self.sessions = sessions or async_sessionmaker(engine)
        self._limits = limits or PATIENT
        self.inbox = Inbox(self.handlers, self.sessions, clock=self.clock, limits=self._limits)

    async def receive(self, *envelopes: Envelope, **rest: Any) -> list[Reply]:
        return await self.inbox.receive(envelopes, **rest)

    async def receive_one(self, envelope: Envelope) -> Reply:
        (reply,) = await self.inbox.receive([envelope])
        return reply

    async def outlasted(self, *envelopes: Envelope) -> list[Reply]:
        """The answers of a delivery that a handler outlasts, which is over soon. The transaction
        that goes on has the limits of the inbox."""
        self.inbox._limits = InboxLimits(transaction=0.1, lock=0.1, answer_within=0.4)
        try:
            return await self.inbox.receive(envelopes)
        finally:
            self.inbox._limits = self._limits

    async def entries(self) -> list[str]:
        """What took effect, in the order in which it was written."""
        async with self.sessions() as session:
            statement = select(ledger.c.entry).order_by(ledger.c.number)
            return list((await session.execute(statement)).scalars())

    async def states(self) -> dict[str, State]:
        """The state of every id that the inbox knows."""
        async with self.sessions() as session:
            rows = await session.execute(select(inbox_table.c.id, inbox_table.c.state))
            return {id: State(state) for id, state in rows}

    async def clear(self) -> None:
        """Forget everything."""
        async with self.sessions.begin() as session:
            for table in (inbox_table, ledger):
                await session.execute(delete(table))
