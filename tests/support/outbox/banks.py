"""Processes that run the bank of `tests.support.outbox.bank`, and a press that hears of it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from orchestrator.cli.processes.child import Child, Spec
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.messages import Event, Message
from outbox.replies import Reply
from outbox.service.ways import transport_to
from outbox.transports.base import Answered
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
E = TypeVar("E", bound=Event)
_ids = Ids(SystemClock(), os.urandom)


@dataclass
class Listener:
    """A peer that hears events. `heard` are those that its inbox took, in their order, each by its
    word."""

    address: str
    heard: list[str] = field(default_factory=list)


@asynccontextmanager
async def listening(
    engine: AsyncEngine, name: str, event: type[E], word: Callable[[E], str], *, at: int = 0
) -> AsyncIterator[Listener]:
    """A peer with that name, on this database, which hears events of that class; at that port, or
    at any free one."""
    service, app = make_service(engine, name), FastAPI()
    service.attach(app)
    async with serving(app, at=at) as address:
        found = Listener(address)

        @service.on(event)
        async def hear(_: AsyncSession, told: E, _context: outbox.Context) -> None:
            found.heard.append(word(told))

        yield found


@asynccontextmanager
async def press(engine: AsyncEngine) -> AsyncIterator[Listener]:
    """The press, which hears of bookings by their entries."""
    async with listening(engine, "press", Noted, lambda noted: noted.entry) as found:
        yield found


@dataclass
class Running:
    """One service, its address, and the processes that have run it."""

    url: str
    spec: Spec
    begin: Callable[[Spec], Awaitable[Child]] = Child.start
    children: list[Child] = field(default_factory=list)

    async def start(self) -> Child:
        """Start it, or start it again, and return when it is ready."""
        child = await self.begin(self.spec)
        self.children.append(child)
        guardian().entrust_process(child.pid)
        await child.ready()
        return child

    async def take(self, *envelopes: Envelope) -> Sequence[Reply]:
        """Deliver these; the replies."""
        keys = Keyring.from_text(SECRETS)
        transport = transport_to(
            self.url, source="test", keys=keys, clock=SystemClock(), timeout=60
        )
        try:
            delivery = await transport.deliver(envelopes)
        finally:
            await transport.aclose()
        assert isinstance(delivery, Answered), delivery
        return delivery.replies

    async def book(self, entry: str, id: str | None = None) -> Reply:
        """Deliver a booking of this entry to a bank; the reply."""
        [reply] = await self.take(booking(entry, id))
        return reply

    @property
    def log(self) -> str:
        """What its processes have printed."""
        return self.spec.log.read_text("utf-8")


def booking(entry: str, id: str | None = None, type: str = "bank.book.v1") -> Envelope:
    """An envelope with the command to book it, on an account of its own; or with the event of that
    type that says the same."""
    id = id or _ids()
    return envelope_of(Book(id, entry), type, id)


def envelope_of(message: Message, type: str, id: str | None = None) -> Envelope:
    """An envelope with this message, which left now."""
    now = SystemClock().now()
    return Envelope(
        id=id or _ids(),
        source="test",
        type=type,
        key=message.message_key,
        time=now,
        due=now,
        data=encode(message),
    )


@asynccontextmanager
async def running(
    command: Sequence[str],
    folder: Path,
    *,
    peers: Mapping[str, str],
    environment: Mapping[str, str],
    path: Path = ROOT,
    begin: Callable[[Spec], Awaitable[Child]] = Child.start,
) -> AsyncIterator[Running]:
    """A service that this command runs, which logs into this folder; PORT in it stands for its
    port, and `path` is where its modules are. `begin` starts a process of it: `zygote.start` takes
    a tenth of the time. What still runs at the end is stopped."""
    port = free_port()
    spec = Spec(
        "service",
        [it.replace("PORT", str(port)) for it in command],
        {
            **os.environ,
            "PYTHONPATH": str(path),
            "SAGABOX_PEERS": ",".join(f"{name}={it}" for name, it in peers.items()),
            "SAGABOX_SECRETS": SECRETS,
            **environment,
        },
        f"http://127.0.0.1:{port}",
        folder / "service.log",
    )
    found = Running(spec.url, spec, begin)
    try:
        yield found
    finally:
        for child in found.children:
            if child.running:
                await child.stop()
            guardian().release_process(child.pid)


@asynccontextmanager
async def bank(
    command: Sequence[str],
    database: Database,
    folder: Path,
    *,
    press_at: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Running]:
    """The same for a bank."""
    more = {"BANK_DATABASE_URL": database.sync_url, **(environment or {})}
    async with running(command, folder, peers={"press": press_at}, environment=more) as found:
        yield found


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
