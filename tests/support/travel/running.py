"""The services of `examples/travel`, an orchestrator and the provider as real processes, for tests
that kill them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from orchestrator.cli.processes.child import Child, Spec
from orchestrator.cli.terminal.errors import CommandError
from outbox.crashpoints import ENVIRONMENT_VARIABLE
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database, Schema
from tests.support.processes import zygote
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until
from tests.support.travel.books import Books
from tests.support.travel.schemas import SCHEMAS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    from travel import run

NAMES = run.NAMES
ROOM, SEAT = 90_00, 120_00
PRICE = ROOM + SEAT

_DEADLINE = 60.0  # seconds; a machine that has nothing else to do needs a few


class RunningTravel:
    """The five processes. Each can be killed and started again at any time."""

    def __init__(
        self, databases: Mapping[str, Database], folder: Path, client: httpx.AsyncClient
    ) -> None:
        ports = {name: free_port() for name in NAMES}
        urls = {name: database.url for name, database in databases.items()}
        urls["hotel"] = databases["hotel"].sync_url
        self.databases = databases
        self.books = Books(databases, folder / "provider.sqlite")
        self._folder = folder
        self._client = client
        self._at = run.addresses(ports)
        self._environment = run.environment(ports, urls)
        self._commands = run.commands(ports, self.books.ledger)
        serve = self._commands["orchestrator"][1:]
        self._commands["orchestrator"] = [sys.executable, "-m", "orchestrator.cli", *serve]
        self._children: dict[str, Child] = {}

    async def start(
        self, *names: str, crash: str | None = None, extra: Mapping[str, str] | None = None
    ) -> None:
        """Start them; they are ready, or killed already. `crash` is "NAME:HIT" of a crash point;
        `extra` is added to their environment."""
        more = {} if crash is None else {ENVIRONMENT_VARIABLE: crash}
        await asyncio.gather(*(self._start(name, {**more, **(extra or {})}) for name in names))

    async def kill(self, name: str) -> None:
        """End it with SIGKILL."""
        await self._children[name].kill()
        await self.until_dead(name)

    def send_kill(self, name: str) -> None:
        """The same, for one that `until_dead` waits for elsewhere."""
        self._children[name].send_kill()

    async def until_dead(self, name: str) -> None:
        """Return when it has ended; it must have been by SIGKILL."""
        child = self._children[name]
        await child.wait()
        guardian().release_process(child.pid)
        assert child.ending == "SIGKILL", f"{name}: {child.ending}"

    async def stop(self) -> None:
        """Stop what runs."""
        for name, child in self._children.items():
            await child.stop()
            guardian().release_process(child.pid)
            sys.stdout.write(
                f"--- {name}\n{child.spec.log.read_text()}\n"
            )  # pytest shows it on failure

    async def put(self, name: str, path: str, body: Mapping[str, object]) -> None:
        """Store something at a service."""
        answer = await self._client.put(self._at[name] + path, json=body)
        assert answer.is_success, answer.text

    async def open(self, rooms: int) -> None:
        """Give the services what they need for trips: rooms, whose suites are all promised to
        others; a flight; and two cards, of which 5678 bears too little.

        A trip with a suite is refunded, since that is known when all is paid.
        """
        for kind, number in (("double", rooms), ("suite", 0)):
            known = {"price": ROOM, "number": number, "spare": 10_000}
            await self.put("hotel", f"/rooms/{kind}", known)
        await self.put("flight", "/flights/SB7", {"price": SEAT, "seats": 10_000})
        for card, limit in (("1234", 100_000_00), ("5678", 100_00)):
            await self.put("payment", f"/cards/{card}", {"account": f"account-{card}"})
            await self.put("provider", f"/accounts/account-{card}", {"limit": limit})

    async def let(self, kind: str, **modes: object) -> None:
        """Let requests of that kind go wrong at the provider."""
        await self.put("provider", f"/modes/{kind}", modes)

    async def book(self, card: str = "1234", *, room: str = "double", flight: str = "SB7") -> str:
        """Book a trip; the hotel is asked until it answers. Returns the trip's id.

        An answer can be lost after the commit: then there is one more trip than was asked for.
        """
        trip = {"room": room, "flight": flight, "card": card}
        booked: list[str] = []

        async def book() -> None:
            answer = await self._client.post(self._at["hotel"] + "/trips", json=trip)
            assert answer.status_code == 202, answer.text
            booked.append(answer.json()["id"])

        await self.insist(book)
        return booked[0]

    async def insist(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask until the process that is asked answers."""

        async def asked() -> bool:
            try:
                await ask()
            except httpx.TransportError:
                return False
            return True

        await until(asked, _DEADLINE, "it answers")

    async def until_settled(self, deadline: float = 90) -> None:
        """Wait until each trip has ended and the hotel was told, or waits for a person."""

        def settled() -> bool:
            return all(it.is_settled for it in self.books.facts().values())

        try:
            await until(settled, deadline, "each trip ends, or waits for a person")
        except AssertionError as error:
            left = {id: it for id, it in self.books.facts().items() if not it.is_settled}
            error.add_note(f"left: {left}")
            raise

    async def _start(self, name: str, more: Mapping[str, str]) -> None:
        log = self._folder / f"{name}.log"
        environment = {**self._environment, **more}
        spec = Spec(name, self._commands[name], environment, self._at[name], log)
        child = self._children[name] = await zygote.start(spec)
        guardian().entrust_process(child.pid)
        try:
            await child.ready(_DEADLINE)
        except CommandError:
            if child.ending != "SIGKILL":
                raise


@asynccontextmanager
async def running_travel(
    make: Callable[[Schema], Database], folder: Path
) -> AsyncIterator[RunningTravel]:
    """The databases are there, with their tables; the test starts the services."""
    databases = {name: make(schema) for name, schema in SCHEMAS.items()}
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        travel = RunningTravel(databases, folder, client)
        try:
            yield travel
        finally:
            await travel.stop()
