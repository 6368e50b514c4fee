"""A bank with plain handlers, on a synchronous database."""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.orm import Session, sessionmaker

import outbox
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.transactions.in_threads import InThreads
from outbox.replies import Outcome, Refused, Reply
from outbox.tables import inbox as inbox_table
from outbox.tables import outbox as outbox_table
from outbox.testing import FakeClock
from outbox.wire.envelope import Envelope
from tests.support.outbox.inboxes import (
    PATIENT,
    START,
    Book,
    Booked,
    Listed,
    Noted,
    Unbook,
    ledger,
)

DONE = Reply(Outcome.DONE, value={"balance": 1})


class PlainBank:
    """A bank on a synchronous database. The entry "slow" waits, in its thread, until `go_on`."""

    def __init__(self, engine: Engine, limits: InboxLimits | None = None) -> None:
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.began, self.go_on = threading.Event(), threading.Event()
        self.errors: list[Exception] = []
        self.over = threading.Event()
        """A slow handler has gone on to its end."""
        self.sessions = sessionmaker(engine)
        outbox.install(self.sessions, source="bank", routes={Noted: ["press"]})
        self.handlers = Handlers("bank")
        self.handlers.on(Book)(self._book)
        self.handlers.on(Unbook)(self._unbook)
        self.handlers.on_list(Listed)(self._listed)
        self.inbox = Inbox(
            self.handlers, self.sessions, clock=FakeClock(START), limits=limits or PATIENT
        )

    @property
    def runner(self) -> InThreads:
        runner = self.inbox._runner
        assert isinstance(runner, InThreads)
        return runner

    def _book(self, session: Session, command: Book, context: Context) -> Any:
        self.calls.append(command.entry)
        self.threads.add(threading.current_thread().name)
        session.execute(insert(ledger).values(entry=command.entry, by=context.id))
        if command.entry == "refused":
            return Refused("no", "no")
        if command.entry == "bad":
            raise ValueError("bad")
        if command.entry == "slow":
            self._dawdle(session, context)
        outbox.add(session, Noted(command.account))
        return Booked(balance=1)

    def _dawdle(self, session: Session, context: Context) -> None:
        self.began.set()
        self.go_on.wait(30)
        for _ in range(2):
            try:
                session.execute(insert(ledger).values(entry="too late", by=context.id))
                session.commit()
            except Exception as error:
                self.errors.append(error)
                session.rollback()
        self.over.set()

    def _unbook(self, session: Session, command: Unbook, context: Context) -> None:
        session.execute(delete(ledger).where(ledger.c.by.in_(context.undoes)))

    def _listed(self, session: Session, events: Any, contexts: Any) -> list[None]:
        for each, context in zip(events, contexts, strict=True):
            session.execute(insert(ledger).values(entry=each.entry, by=context.id))
        return [None] * len(events)

    async def receive(self, *envelopes: Envelope) -> list[Reply]:
        return await self.inbox.receive(envelopes)

    def _rows(self, statement: Any) -> list[Any]:
        with self.sessions() as session:
            return list(session.scalars(statement))

    @property
    def entries(self) -> list[str]:
        return self._rows(select(ledger.c.entry).order_by(ledger.c.number))

    @property
    def known(self) -> list[str]:
        return self._rows(select(inbox_table.c.id))

    @property
    def sent(self) -> int:
        return len(self._rows(select(outbox_table.c.seq)))
