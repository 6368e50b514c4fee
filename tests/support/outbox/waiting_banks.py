"""A bank whose bookings wait for their answers, on either kind of database."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, sessionmaker

import outbox
from outbox.database.within import in_transaction
from outbox.inbox.rows import State
from outbox.replies import Reply
from outbox.tables import inbox as inbox_table
from outbox.tables import inbox_pending
from outbox.tables import outbox as outbox_table
from outbox.wire import strict_json
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.inboxes import Book, Unbook, ledger, plainly
from tests.support.outbox.services import NOWHERE, make_plain_service, make_service

NOTE = "the airline calls back"


@dataclass
class WaitingBank:
    """The bank, and looks at its database. `book` and `unbook` are what its handlers answer."""

    service: Any
    book: Any = field(default_factory=lambda: outbox.Pending(NOTE, timedelta(minutes=5)))
    unbook: Any = None
    undone: list[Mapping[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        is_plain = isinstance(self.service.sessions, sessionmaker)
        for cls, function in ((Book, self._book), (Unbook, self._unbook)):
            self.service.on(cls)(function if is_plain else plainly(function))

    async def receive(self, *envelopes: Envelope) -> list[Reply]:
        """The replies to these."""
        replies: list[Reply] = await self.service.inbox.receive(envelopes)
        return replies

    async def receive_one(self, envelope: Envelope) -> Reply:
        """The reply to this one."""
        (reply,) = await self.receive(envelope)
        return reply

    async def within(self, work: Callable[[Any], Any]) -> Any:
        """The result of this work in a transaction of the service."""
        if isinstance(self.service.sessions, sessionmaker):
            return await in_transaction(self.service.sessions, work)
        async with self.service.sessions.begin() as session:
            result = work(session)
            return await result if inspect.isawaitable(result) else result

    async def looked(self, work: Callable[[Session], Any]) -> Any:
        """The result of this work in a plain session."""
        return await in_transaction(self.service.sessions, work)

    async def states(self) -> dict[str, State]:
        """The state of every id that the inbox knows."""
        statement = select(inbox_table.c.id, inbox_table.c.state)
        rows = await self.looked(lambda session: session.execute(statement).all())
        return {id: State(state) for id, state in rows}

    async def kept(self) -> list[str]:
        """The ids of which more is kept than their row in the inbox."""
        rows = await self.looked(lambda it: it.execute(select(inbox_pending.c.id)).scalars().all())
        return list(rows)

    async def told(self) -> list[dict[str, Any]]:
        """What leaves through the outbox, oldest first."""
        statement = select(outbox_table.c.payload).order_by(outbox_table.c.seq)
        rows = await self.looked(lambda session: session.execute(statement).scalars().all())
        return [strict_json.loads(payload.encode()) for payload in rows]

    async def change(self, id: str, **values: Any) -> None:
        """Let what is kept of that command be this."""
        statement = update(inbox_pending).where(inbox_pending.c.id == id).values(**values)
        await self.looked(lambda session: session.execute(statement))

    def lose_its_ways(self) -> None:
        """Let it have no way to any other service from now on."""
        service = self.service
        outbox.install(service.sessions, source="bank", routes={}, clock=service.clock, peers=[])

    async def calling(self, id: str, *, until: timedelta, **values: Any) -> None:
        """Let it be a call to the outside whose time is over then."""
        now = self.service.clock.now()
        call = {"attempt": 1, "holder": "a process", "until": now + until}
        await self.change(id, **{**call, **values})

    def _book(self, session: Session, command: Book, context: outbox.Context) -> Any:
        session.execute(ledger.insert().values(entry=command.entry, by=context.id))
        return self.book

    def _unbook(self, session: Session, command: Unbook, context: outbox.Context) -> Any:
        self.undone.append(dict(context.undoes))
        session.execute(delete(ledger).where(ledger.c.by.in_(list(context.undoes))))
        return self.unbook


def make_waiting_bank(
    kind: str, database: Database, make_engine: MakeEngine, make_sync_engine: MakeSyncEngine
) -> WaitingBank:
    """A bank with its handlers `on a loop` or `in threads`, which can answer `sender`."""
    peers = {"sender": NOWHERE}
    if kind == "on a loop":
        return WaitingBank(make_service(make_engine(database), "bank", peers=peers))
    relay = make_engine(database)
    return WaitingBank(
        make_plain_service(make_sync_engine(database), "bank", peers=peers, relay_engine=relay)
    )
