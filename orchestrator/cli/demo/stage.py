"""The stage of the demo: its services as processes, which it starts, kills, freezes and ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from orchestrator.cli.audit import reading
from orchestrator.cli.audit.databases import Databases, addresses, opened
from orchestrator.cli.demo.waiting import PATIENCE, until
from orchestrator.cli.processes.blog import Blog
from orchestrator.cli.processes.child import Child
from orchestrator.cli.processes.databases import bring_up_to_date
from orchestrator.cli.processes.ports import free_ports
from orchestrator.cli.processes.secrets import shared_secret
from orchestrator.cli.processes.services import SERVICES
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.ways.way import Way
from outbox.crashpoints import ENVIRONMENT_VARIABLE


def blog_in(folder: Path, way: Way) -> Blog:
    """A new blog with SQLite databases in the folder, on free ports, whose messages go that way.

    Raises CommandError where the folder holds databases already.
    """
    files = {name: folder / f"{name}.sqlite" for name in SERVICES}
    if any(file.exists() for file in files.values()):
        raise CommandError(
            f"{folder} has databases already",
            "the demo knows what is in its databases, and so needs new ones",
            "sagabox demo --folder ANOTHER",
        )
    found = free_ports(2 * len(SERVICES), spread=os.getpid())
    ports = dict(zip(SERVICES, found, strict=False))
    grpc_ports = dict(zip(SERVICES, found[len(SERVICES) :], strict=True))
    return Blog(
        databases={name: f"sqlite:///{file}" for name, file in files.items()},
        ports=ports,
        grpc_ports=grpc_ports if way.is_grpc else {},
        broker=way.broker,
        secret=shared_secret(folder / "secret"),
        logs=folder / "logs",
        # The user's settings for other services are not meant for these.
        base={name: it for name, it in os.environ.items() if not name.startswith("SAGABOX_")},
    )


class Stage:
    """The running services of one blog, and their databases for reading. `staged` makes it."""

    def __init__(self, blog: Blog, databases: Databases) -> None:
        self.blog = blog
        self.databases = databases
        self._children: dict[str, Child] = {}

    async def start(self, name: str, *, crash: str | None = None) -> Child:
        """Start a service, and return when it is ready. With `crash`, "NAME:HIT", it dies by
        SIGKILL when it gets to that crash point for the HIT-th time."""
        extra = {} if crash is None else {ENVIRONMENT_VARIABLE: crash}
        child = await Child.start(self.blog.spec(name, extra=extra))
        self._children[name] = child
        await child.ready()
        return child

    def child(self, name: str) -> Child:
        """The present run of the service."""
        return self._children[name]

    async def until_dead(self, name: str) -> str:
        """Wait until the service has ended by itself; returns how it ended. Raises CommandError."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._children[name].wait()
        except TimeoutError:
            raise CommandError(
                f"{name} was to die, and lives",
                "it did not get to its crash point",
                f"look at {self.blog.logs / name}.log",
                exit_code=ExitCode.OTHERWISE,
            ) from None
        return self._children[name].ending

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Freeze the service while the block lasts, so that requests to it wait."""
        child = self._children[name]
        child.freeze()
        try:
            yield
        finally:
            child.thaw()

    async def until_quiet(self) -> None:
        """Wait until no message is under way. Raises CommandError."""

        async def quiet() -> bool:
            marked = await reading.marks(self.databases)
            return not await reading.resting(self.databases, marked)

        await until(quiet, "every message has arrived")

    async def close(self) -> None:
        """Ask all services to end, and return when they have. Where this is cancelled meanwhile,
        they are killed before it raises that."""
        stopping = asyncio.gather(*(child.stop() for child in self._children.values()))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            self.kill()
            await stopping
            raise

    def kill(self) -> None:
        """End all services at once."""
        for child in self._children.values():
            child.send_kill()

    async def any_ended(self) -> str:
        """Wait until one of the services has ended; its name."""
        waits = {asyncio.create_task(it.wait()): name for name, it in self._children.items()}
        try:
            ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[ended.pop()]
        finally:
            for task in waits:
                task.cancel()


@asynccontextmanager
async def staged(blog: Blog) -> AsyncIterator[Stage]:
    """A stage with its databases made; the block starts the services. None runs when it is left;
    after an error or Ctrl-C they are killed."""
    await bring_up_to_date(blog.databases)
    async with opened(addresses(blog.databases)) as databases:
        stage = Stage(blog, databases)
        try:
            yield stage
        except BaseException:
            stage.kill()
            raise
        finally:
            await stage.close()
