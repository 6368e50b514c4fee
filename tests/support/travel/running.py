"""The services of `examples/travel` and an orchestrator as real processes, for tests that kill
them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from orchestrator.cli.processes.child import Child, Spec
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database, Schema, schema_named
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    from travel import run

NAMES = ("orchestrator", *run.SERVICES)
_DEADLINE = 60.0  # seconds; a machine that has nothing else to do needs a few


class RunningTravel:
    """The four processes. Each can be killed and started again at any time."""

    def __init__(
        self, databases: Mapping[str, Database], folder: Path, client: httpx.AsyncClient
    ) -> None:
        ports = {name: free_port() for name in NAMES}
        urls = {name: database.url for name, database in databases.items()}
        urls["hotel"] = databases["hotel"].sync_url
        self.databases = databases
        self._folder = folder
        self._client = client
        self._at = run.addresses(ports)
        self._environment = run.environment(ports, urls)
        self._commands = run.commands(ports)
        self._children: dict[str, Child] = {}

    async def migrate(self) -> None:
        """Make all tables, as the example does."""
        await asyncio.gather(*(self._migrate(command) for command in run.migrations()))

    async def start(self, *names: str) -> None:
        """Start them; they are ready."""
        await asyncio.gather(*(self._start(name) for name in names))

    async def kill(self, name: str) -> None:
        """End it with SIGKILL."""
        child = self._children[name]
        await child.kill()
        guardian().release_process(child.pid)

    async def stop(self) -> None:
        """Stop what runs."""
        for name, child in self._children.items():
            await child.stop()
            guardian().release_process(child.pid)
            sys.stdout.write(
                f"--- {name}\n{child.spec.log.read_text()}\n"
            )  # pytest shows it on failure

    async def put(self, name: str, path: str, body: Mapping[str, int]) -> None:
        """Store something at a service."""
        answer = await self._client.put(self._at[name] + path, json=body)
        assert answer.status_code == 204, answer.text

    async def book(self, *, room: str, flight: str, card: str) -> str:
        """Book a trip; the hotel is asked until it answers. Returns the trip's id.

        An answer can be lost after the commit: then there is one more trip than was asked for.
        """
        trip = {"room": room, "flight": flight, "card": card}
        booked: list[str] = []

        async def asked() -> bool:
            try:
                answer = await self._client.post(self._at["hotel"] + "/trips", json=trip)
            except httpx.TransportError:
                return False
            assert answer.status_code == 202, answer.text
            booked.append(answer.json()["id"])
            return True

        await until(asked, _DEADLINE, "the hotel takes the trip")
        return booked[0]

    async def _migrate(self, command: list[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await process.communicate()
        assert process.returncode == 0, told.decode()

    async def _start(self, name: str) -> None:
        log = self._folder / f"{name}.log"
        spec = Spec(name, self._commands[name], self._environment, self._at[name], log)
        child = self._children[name] = await Child.start(spec)
        guardian().entrust_process(child.pid)
        await child.ready(_DEADLINE)


@asynccontextmanager
async def running_travel(
    make: Callable[[Schema], Database], folder: Path
) -> AsyncIterator[RunningTravel]:
    """The databases are there, and have their tables; the test starts the services."""
    databases = {name: make(schema_named("empty")) for name in NAMES}
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        travel = RunningTravel(databases, folder, client)
        try:
            await travel.migrate()
            yield travel
        finally:
            await travel.stop()
