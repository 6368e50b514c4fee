"""Faults of processes, databases and networks, each of which mends itself after a while.

A new kind of fault joins `FAULTS`, and is then among those that a soak run chooses from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import httpx
from sqlalchemy.engine import make_url

from orchestrator.cli.terminal.errors import CommandError
from tests.support.databases.postgres import PostgresServer, Stop
from tests.support.faults.addresses import HEARD_WITHIN, Addresses, several
from tests.support.faults.crashing import POINTS
from tests.support.faults.network import Weather, Wire, wire
from tests.support.faults.tcp_proxy import CommitProxy, Loss, commit_proxy
from tests.support.orchestrator.saga_writers import SECOND, Writers
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

NODES = ("orchestrator", "orchestrator-2", "articles", "comments")
_LEASE = 3.0
_TRIES = 20


@dataclass
class World:
    """Services on a PostgreSQL server of their own, two orchestrators among them, with a wire to
    each of them and from each to its database."""

    blog: RunningBlog
    server: PostgresServer
    writers: Writers
    ways: Mapping[str, Wire]
    """To the services."""
    databases: Mapping[str, Wire]
    """From each node to its database."""
    commits: Mapping[str, CommitProxy]
    addresses: Addresses
    chance: Random
    injected: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _busy: dict[str, asyncio.Lock] = field(default_factory=dict)
    _server: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def begin(self, node: str, crash: str | None = None) -> None:
        """Start a node, again and again where its database is not there yet."""
        async with asyncio.timeout(120):
            while True:
                try:
                    await self._begin(node, crash)
                except CommandError as error:
                    child = self.blog.children[node]
                    if "exit code" not in child.ending:
                        await child.kill()
                    elif "exit code 2" not in child.ending:
                        raise AssertionError(f"{node} did not start: {error}") from error
                    await asyncio.sleep(0.2)  # its database may be back by then
                else:
                    return

    async def _begin(self, node: str, crash: str | None) -> None:
        if node == "orchestrator-2":
            url = make_url(self.writers.second_url).set(port=self.databases[node].port)
            child = await self.blog.begin_second(url.render_as_string(hide_password=False), crash)
            self.writers.pids[SECOND].add(child.pid)
            try:
                await child.ready()
            except CommandError:
                if crash is None or child.ending != "SIGKILL":
                    raise
            return
        try:
            await self.blog.start(node, crash)
        finally:
            # One that was not ready in time may have written all the same.
            if node == "orchestrator":
                self.writers.pids["postgres"].add(self.blog.children[node].pid)

    @asynccontextmanager
    async def _one_of(self, names: Sequence[str]) -> AsyncIterator[str]:
        """One of them that no other fault has in hand."""
        name = self.chance.choice(names)
        async with self._busy.setdefault(name, asyncio.Lock()):
            yield name

    async def inject(self, kind: str) -> None:
        """One fault of this kind, from its beginning to its end."""
        self.injected[kind] += 1
        await FAULTS[kind](self)

    def check_that_all_run(self) -> None:
        """Notes a node that has ended by itself."""
        for node in NODES:
            child = self.blog.children[node]
            if not child.running:
                self.violations.append(f"{node} ended by itself: {child.ending}")

    def heal(self) -> None:
        """Take back what does not mend itself."""
        for each in (*self.ways.values(), *self.databases.values()):
            each.become(Weather.FAIR)
        for proxy in self.commits.values():
            proxy.armed.clear()

    def _while(self) -> float:
        return 0.2 + self.chance.random() * 1.5


async def _kill(world: World) -> None:
    async with world._one_of(NODES) as node:
        await world.blog.children[node].kill()
        await asyncio.sleep(world._while() if world.chance.random() < 0.5 else 0)
        await world.begin(node)


async def _crash_point(world: World) -> None:
    async with world._one_of(NODES) as node:
        await world.blog.children[node].kill()
        point = world.chance.choice(sorted(POINTS))
        await world.begin(node, f"{point}:{world.chance.randint(1, 6)}")
        child = world.blog.children[node]
        await asyncio.wait({dead := asyncio.create_task(child.wait())}, timeout=4)
        if not dead.done():
            # It never got there, or not as often.
            await child.kill()
            await dead
        await world.begin(node)


async def _stop(world: World) -> None:
    async with world._one_of(NODES) as node:
        world.blog.children[node].freeze()
        await asyncio.sleep(_LEASE * (0.3 + 1.4 * world.chance.random()))
        world.blog.children[node].thaw()


async def _restart(world: World) -> None:
    async with world._one_of(NODES) as node:
        await world.blog.children[node].stop()
        await world.begin(node)


async def _terminate_backends(world: World) -> None:
    for _ in range(world.chance.randint(1, 5)):
        with contextlib.suppress(Exception):  # the server itself may be away by another fault
            await asyncio.to_thread(terminate_backends, world.server)
        await asyncio.sleep(0.2)  # new connections come meanwhile


def terminate_backends(server: PostgresServer) -> int:
    """End every connection to the server but this one; how many there were."""
    with server.connect() as connection:
        ended = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchone()
    assert ended is not None
    return int(ended[0])


def _restart_server(how: Callable[[PostgresServer], None]) -> Callable[[World], Awaitable[None]]:
    async def fault(world: World) -> None:
        async with world._server:
            await asyncio.to_thread(how, world.server)
            await asyncio.sleep(world._while() if world.chance.random() < 0.3 else 0)
            await asyncio.to_thread(world.server.start)

    return fault


def _weather(weather: Weather, places: str) -> Callable[[World], Awaitable[None]]:
    async def fault(world: World) -> None:
        wires: Mapping[str, Wire] = getattr(world, places)
        async with world._one_of([f"{places} {it}" for it in wires]) as name:
            chosen = wires[name.partition(" ")[2]]
            chosen.become(weather)
            await asyncio.sleep(world._while() * 2)
            chosen.become(Weather.FAIR)

    return fault


def _at_once(act: Callable[[Wire], None], places: str) -> Callable[[World], Awaitable[None]]:
    async def fault(world: World) -> None:
        wires: Mapping[str, Wire] = getattr(world, places)
        act(world.chance.choice([*wires.values()]))

    return fault


def _lost_commits(loss: Loss) -> Callable[[World], Awaitable[None]]:
    async def fault(world: World) -> None:
        async with world._one_of([f"commits {it}" for it in sorted(world.commits)]) as name:
            proxy = world.commits[name.partition(" ")[2]]
            before = len(proxy.lost)
            proxy.armed += [loss] * world.chance.randint(1, 4)
            await asyncio.sleep(world._while())
            # A node that stands still commits nothing meanwhile.
            with contextlib.suppress(AssertionError):
                await until(lambda: len(proxy.lost) > before, what="a COMMIT is lost")
            proxy.armed.clear()

    return fault


async def _address_dies(world: World) -> None:
    """A second one comes, is cut off, comes back, and goes for good."""
    async with world._one_of(_NAMED) as name:
        second = world.addresses.second[name.partition(" ")[2]]
        async with world.addresses.told(name, world.ways, second.port):
            await asyncio.sleep(HEARD_WITHIN)
            second.become(Weather.PARTED)
            await asyncio.sleep(world._while())
            second.become(Weather.FAIR)
            await asyncio.sleep(world._while())


async def _address_moves(world: World) -> None:
    """The second one takes the place of the first, and the first that of the second."""
    async with world._one_of(_NAMED) as name:
        second = world.addresses.second[name.partition(" ")[2]]
        async with world.addresses.told(name, world.ways, second.port, instead=True):
            await asyncio.sleep(HEARD_WITHIN + world._while())


async def _delete_one(blog: RunningBlog) -> None:
    """One deletion, from the publishing to the end, in spite of the other faults."""
    for attempt in range(_TRIES):
        try:
            article = await blog.publish()
            await blog.until_known(article)
            await blog.until_ended(await blog.delete(article))
            return
        except (AssertionError, httpx.HTTPError):
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(2)  # other faults last for seconds


async def _address_of_a_stranger(world: World) -> None:
    """A service of that name on another database is among them."""
    async with AsyncExitStack() as stack:
        # A process that starts now, while the others do not answer, could not know better.
        for busy in sorted((*NODES, "name comments", "ways articles", "ways comments")):
            await stack.enter_async_context(world._busy.setdefault(busy, asyncio.Lock()))
        await _delete_one(world.blog)
        async with world.addresses.told("name comments", world.ways, world.addresses.stranger):
            await asyncio.sleep(HEARD_WITHIN + world._while())
        world.violations += world.addresses.taken
        world.addresses.taken.clear()


_NAMED = ("name articles", "name comments")


FAULTS: Mapping[str, Callable[[World], Awaitable[None]]] = {
    "a process is killed": _kill,
    "a process dies at a crash point": _crash_point,
    "a process hangs, some past their leases": _stop,
    "a process is restarted in order": _restart,
    "all backends are terminated": _terminate_backends,
    "PostgreSQL: immediate restart": _restart_server(lambda it: it.stop(Stop.IMMEDIATE)),
    "PostgreSQL: postmaster killed": _restart_server(lambda it: it.kill()),
    "a service is cut off": _weather(Weather.PARTED, "ways"),
    "a service is silent": _weather(Weather.SILENT, "ways"),
    "a service is slow": _weather(Weather.SLOW, "ways"),
    "connections to a service are reset": _at_once(Wire.reset, "ways"),
    "connections to a service are half open": _at_once(Wire.lose, "ways"),
    "a database is cut off": _weather(Weather.PARTED, "databases"),
    "a database is silent": _weather(Weather.SILENT, "databases"),
    "a database is slow": _weather(Weather.SLOW, "databases"),
    "a database has a narrow way": _weather(Weather.NARROW, "databases"),
    "connections to a database are reset": _at_once(Wire.reset, "databases"),
    "connections to a database are closed": _at_once(Wire.cut, "databases"),
    "connections to a database are half open": _at_once(Wire.lose, "databases"),
    "an address dies and comes back": _address_dies,
    "an address moves": _address_moves,
    "an address belongs to another database": _address_of_a_stranger,
    "answers to COMMITs are lost": _lost_commits(Loss.ANSWER),
    "COMMITs are lost": _lost_commits(Loss.COMMIT),
    "COMMITs are late, and their clients gone": _lost_commits(Loss.DELAYED),
}
"""What can go wrong."""


@asynccontextmanager
async def world(blog: RunningBlog, server: PostgresServer, chance: Random) -> AsyncIterator[World]:
    """Everything is connected and runs."""
    blog.settings |= {"SAGABOX_LEASE": str(_LEASE), "SAGABOX_DELIVERY_TIMEOUT": "0.7"}
    async with AsyncExitStack() as stack:
        ways = {it: await stack.enter_async_context(wire(blog.url(it))) for it in blog.databases}
        commits: dict[str, CommitProxy] = {}
        databases: dict[str, Wire] = {}
        for node in NODES:
            url = blog.databases[node.removesuffix("-2")].url
            proxy = commits[node] = await stack.enter_async_context(commit_proxy(url, ""))
            databases[node] = await stack.enter_async_context(wire(f"//127.0.0.1:{proxy.port}"))
        for name in blog.databases:
            through = make_url(blog.databases[name].url).set(port=databases[name].port)
            address = through.render_as_string(hide_password=False)
            blog.settings[f"SAGABOX_DATABASE_URL_{name.upper()}"] = address
        addresses = await stack.enter_async_context(several(blog, ways))
        blog.settings["SAGABOX_PEERS"] = ",".join(map(addresses.peer, ways))
        made = World(
            blog,
            server,
            Writers(blog.databases["orchestrator"]),
            ways,
            databases,
            commits,
            addresses,
            chance,
        )
        await asyncio.gather(*(made.begin(node) for node in NODES))
        yield made
        for node in NODES:
            blog.children[node].thaw()
        await blog.stop()
