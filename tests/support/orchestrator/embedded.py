"""A bank with an orchestrator in the same process: transfers that it books, confirms and notes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Connection, delete, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from starlette.routing import Mount

import orchestrator
import outbox
from orchestrator import Saga, compensatable, pivot, retriable
from orchestrator.embedding.attach import TABLES
from orchestrator.embedding.part import Part
from orchestrator.engine.engine import Engine
from outbox.contract import SagaEnded
from outbox.messages import SagaRef
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.outbox.inboxes import Book, Booked, Unbook, ledger, ledger_schema, write_entry

REFUSED = "refuse this"
"""The entry of a transfer that is not confirmed."""


@dataclass(frozen=True)
class Transfer:
    """The input of the saga."""

    account: str
    entry: str


@dataclass(frozen=True)
class Confirm(outbox.Command[None], type="bank.confirm.v1", key="account"):
    account: str
    entry: str


TRANSFER = SagaRef[Transfer]("transfer")

transfer = Saga(
    name="transfer",
    version=1,
    state=Transfer,
    key=lambda it: it.account,
    one_active=True,
    steps=[
        compensatable(
            "book",
            lambda it: Book(it.account, it.entry),
            compensation=lambda it: Unbook(it.account),
        ),
        pivot("confirm", lambda it: Confirm(it.account, it.entry)),
        retriable("note", lambda it: Book(it.account, f"{it.entry}, noted")),
    ],
)


@dataclass
class Ends:
    """The ends of runs that the bank heard of, by their ids."""

    told: dict[str, str] = field(default_factory=dict)
    holds: bool = False
    """Whether transfers are not confirmed yet."""


def add_handlers(service: outbox.Service, ends: Ends) -> None:
    """What the bank does."""

    @service.on(Book)
    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        await write_entry(session, command.entry, context.id)
        return Booked(1)

    @service.on(Unbook)
    async def unbook(session: AsyncSession, command: Unbook, context: outbox.Context) -> None:
        await session.execute(delete(ledger).where(ledger.c.by.in_(context.undoes)))

    @service.on(Confirm)
    async def confirm(
        session: AsyncSession, command: Confirm, context: outbox.Context
    ) -> outbox.Refused | outbox.Ongoing | None:
        if ends.holds:
            return outbox.Ongoing(0.2)
        if command.entry == REFUSED:
            return outbox.Refused("not-confirmed", "it is refused")
        return None

    @service.on(SagaEnded)
    async def note_end(_: AsyncSession, event: SagaEnded, _context: outbox.Context) -> None:
        ends.told[event.instance_id] = event.status


@dataclass
class Bank:
    """The application, and what is in it."""

    app: FastAPI
    service: outbox.Service
    orchestrator: orchestrator.Embedded
    ends: Ends

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The application, from its start to its end."""
        async with self.app.router.lifespan_context(self.app):
            yield

    @property
    def engine(self) -> Engine:
        """The engine of the orchestrator."""
        part = next(it.app for it in self.app.routes if isinstance(it, Mount))
        assert isinstance(part, Part)
        found = part.service.carrier
        assert isinstance(found, Engine)
        return found

    async def ask(self, account: str, entry: str, id: str | None = None) -> str:
        """Ask for a transfer by a message."""
        transfer = Transfer(account, entry)
        async with self.service.sessions.begin() as session:
            return self.service.start(
                session, TRANSFER, transfer, id=id, orchestrator=self.orchestrator.name
            )

    async def entries(self) -> list[str]:
        """What is in the ledger."""
        async with self.service.sessions() as session:
            return list(await session.scalars(select(ledger.c.entry).order_by(ledger.c.number)))


def bank_schema(connection: Connection) -> None:
    """The tables of the bank, and those of its orchestrator."""
    ledger_schema(connection)
    orchestrator_schema(connection, TABLES)


def bank(engine: AsyncEngine, **options: Any) -> Bank:
    """A bank with an orchestrator, both on that database; nothing has an address or a signing
    key."""
    service, ends, app = outbox.Service("bank", engine, peers={}), Ends(), FastAPI()
    add_handlers(service, ends)
    service.attach(app, messages=False)
    embedded = orchestrator.attach(
        app, engine, **{"sagas": [transfer], "peers": {"bank": service}, **options}
    )
    return Bank(app, service, embedded, ends)
