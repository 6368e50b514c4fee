"""Processes that run the bank of `tests.support.outbox.bank`, and a press that hears of it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from orchestrator.cli.processes.child import Child, Spec
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.replies import Reply
from outbox.transports.base import Answered
from outbox.transports.http import HttpTransport
from outbox.transports.http.signing import Keyring
from outbox.wire.codec import encode
from outbox.wire.envelope import Envelope
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.http.servers import serving
from tests.support.outbox.inboxes import Book, Noted, ledger
from tests.support.outbox.services import SECRETS, make_service
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port

BIN = Path(sys.executable).parent
_ids = Ids(SystemClock(), os.urandom)


@dataclass
class Press:
    """The peer of the bank. `heard` are the entries that its inbox took, in their order."""

    address: str
    heard: list[str] = field(default_factory=list)


@asynccontextmanager
async def press(engine: AsyncEngine) -> AsyncIterator[Press]:
    """A press that listens, on this database."""
    service, app = make_service(engine, "press"), FastAPI()
    service.attach(app)
    async with serving(app) as address:
        found = Press(address)

        @service.on(Noted)
        async def noted(_: AsyncSession, event: Noted, _context: outbox.Context) -> None:
            found.heard.append(event.entry)

        yield found


@dataclass
class Bank:
    """One bank: its database, its address, and the processes that have run it."""

    database: Database
    url: str
    spec: Spec
    children: list[Child] = field(default_factory=list)

    async def start(self) -> Child:
        """Start it, or start it again, and return when it is ready."""
        child = await Child.start(self.spec)
        self.children.append(child)
        guardian().entrust_process(child.pid)
        await child.ready()
        return child

    async def send(self, *entries: str, id: str | None = None) -> Sequence[Reply]:
        """Deliver a booking of each entry; its replies. One may have an id of its own."""
        transport = HttpTransport(
            self.url, source="test", keys=Keyring.from_text(SECRETS), clock=SystemClock()
        )
        try:
            delivery = await transport.deliver([booking(it, id) for it in entries])
        finally:
            await transport.aclose()
        assert isinstance(delivery, Answered), delivery
        return delivery.replies

    @property
    def log(self) -> str:
        """What its processes have printed."""
        return self.spec.log.read_text("utf-8")


def booking(entry: str, id: str | None = None) -> Envelope:
    """An envelope with the command to book it, on an account of its own."""
    id = id or _ids()
    now = SystemClock().now()
    return Envelope(
        id=id,
        source="test",
        type="bank.book.v1",
        key=id,
        time=now,
        due=now,
        data=encode(Book(id, entry)),
    )


@asynccontextmanager
async def bank(
    command: Sequence[str],
    database: Database,
    folder: Path,
    *,
    press_at: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Bank]:
    """A bank that this command runs, in this folder; PORT in it stands for its port. What still
    runs at the end is killed."""
    port = free_port()
    spec = Spec(
        "bank",
        [it.replace("PORT", str(port)) for it in command],
        {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BANK_DATABASE_URL": database.sync_url,
            "SAGABOX_PEERS": f"press={press_at}",
            "SAGABOX_SECRETS": SECRETS,
            **(environment or {}),
        },
        f"http://127.0.0.1:{port}",
        folder / "bank.log",
    )
    found = Bank(database, spec.url, spec)
    try:
        yield found
    finally:
        for child in found.children:
            if child.running:
                await child.stop()
            guardian().release_process(child.pid)


def entries(engine: Engine) -> list[str]:
    """What is in the ledger."""
    with engine.connect() as connection:
        return list(connection.scalars(select(ledger.c.entry).order_by(ledger.c.number)))


@contextmanager
def pipe(folder: Path) -> Iterator[Path]:
    """A pipe at which a booking can wait."""
    path = folder / "pipe"
    os.mkfifo(path)
    yield path


async def reached(path: Path) -> Any:
    """Return when a booking waits at this pipe; closing what this returns lets it go on."""
    return await asyncio.to_thread(path.open, "wb")
