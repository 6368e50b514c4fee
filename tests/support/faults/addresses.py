"""Names with addresses that come and go: a name server, a second way to each service, and a
service of another installation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from outbox.clock import SystemClock
from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.discovery.dns_server import NameServer, name_server, zone
from tests.support.faults.network import Wire, wire
from tests.support.http.servers import serving
from tests.support.processes.running import SECRET, RunningBlog

HEARD_WITHIN = 1.5
"""Seconds after which a service has looked for addresses again."""
_THEIRS = compose(1, 1)


@dataclass
class Addresses:
    """The name server tells the first way of each service, and more while a fault says so. `taken`
    says what the stranger took, which must be nothing."""

    names: NameServer
    records: dict[tuple[str, str], list[str]]
    second: Mapping[str, Wire]
    stranger: int = 0
    taken: list[str] = field(default_factory=list)

    def peer(self, name: str) -> str:
        """The service as a setting names it."""
        return f"{name}=http+srv://_{name}._tcp.test?server={self.names.address}"

    @asynccontextmanager
    async def told(
        self, name: str, ways: Mapping[str, Wire], port: int, *, instead: bool = False
    ) -> AsyncIterator[None]:
        """Tell this port of the service, too, or instead of the first one, until the block ends;
        `name` is such as "name comments"."""
        service = name.partition(" ")[2]
        first = ways[service].port
        self._tell(service, port, *(() if instead else (first,)))
        try:
            yield
        finally:
            self._tell(service, first)

    def _tell(self, service: str, *ports: int) -> None:
        self.records[f"_{service}._tcp.test", "SRV"] = [f"0 1 {it} host.test." for it in ports]


class _Inbox:
    """The inbox of a stranger, for which nothing is meant."""

    consumer = "comments"

    def __init__(self, taken: list[str]) -> None:
        self._taken = taken

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> Sequence[Reply]:
        """Take them, which must not be."""
        self._taken += [f"a stranger took {it.type} {it.id}" for it in envelopes]
        return [Reply(Outcome.DONE) for _ in envelopes]


@asynccontextmanager
async def several(blog: RunningBlog, ways: Mapping[str, Wire]) -> AsyncIterator[Addresses]:
    """All of it runs; each name has the address of its way."""
    records: dict[tuple[str, str], list[str]] = {("host.test", "A"): ["127.0.0.1"]}
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(name_server(zone(records)))
        second = {it: await stack.enter_async_context(wire(blog.url(it))) for it in ways}
        made = Addresses(names, records, second)
        inbox: Any = _Inbox(made.taken)
        app = FastAPI()
        keys = Keyring.from_text(SECRET)
        app.include_router(
            receiver(inbox, keys=keys, clock=SystemClock(), database=lambda: _THEIRS)
        )
        address = await stack.enter_async_context(serving(app))
        made.stranger = urlsplit(address).port or 0
        for name, way in ways.items():
            made._tell(name, way.port)
        yield made
