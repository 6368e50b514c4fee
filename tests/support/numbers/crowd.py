"""Eight writers, four relays, and one or two receivers, of which some die, hang or start anew."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import psutil  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

import outbox
from outbox.clock import SystemClock
from outbox.coordination.leases import fair_share
from outbox.crashpoints import ENVIRONMENT_VARIABLE
from outbox.lanes import BUCKETS
from outbox.tables import DEFAULT_TABLES
from tests.support.databases.databases import Database
from tests.support.numbers.numbers import KEYS, Counted, counter
from tests.support.numbers.services import DATABASE, LEASE, NOTES
from tests.support.outbox.banks import Running, running
from tests.support.processes import zygote
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import until

RELAYS, WRITERS = 4, 8
SHARED_WITHIN = 8 * LEASE
"""Seconds within which the buckets are shared fairly again; a machine that has nothing else to do
needs two leases."""
_ROLLED_BACK = 0.15  # of the transactions
_POINTS = {
    "sender": ("relay: after deliver, before settle", "relay: after fetch, before deliver"),
    "receiver": ("consumer: after handling, before done", "inbox: before commit"),
}
_PID = re.compile(r":(\d+):\d+:[0-9a-f]+$")


class _Withdrawn(Exception):
    """The writer does not want its transaction."""


@dataclass
class Node:
    """One process that is killed, stopped and started again."""

    running: Running
    points: Sequence[str]
    """The crash points at which it may die."""
    in_hand: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pid(self) -> int:
        """That of the process that runs now."""
        return self.running.children[-1].pid

    async def start(self) -> None:
        """Start it, or start it again."""
        await self.running.start()

    async def start_to_die(self, point: str, within: float) -> None:
        """Start it, and return when it has died at that point, or was killed after so long."""
        spec = self.running.spec
        environment = {**spec.environment, ENVIRONMENT_VARIABLE: point}
        child = await self.running.begin(replace(spec, environment=environment))
        self.running.children.append(child)
        guardian().entrust_process(child.pid)
        await asyncio.wait({dead := asyncio.create_task(child.wait())}, timeout=within)
        if not dead.done():
            await child.kill()
            await dead

    async def kill(self) -> None:
        """End it at once."""
        await self.running.children[-1].kill()

    async def leave(self) -> None:
        """Let it end by itself."""
        await self.running.children[-1].stop()

    def freeze(self) -> None:
        """It stands still."""
        self.running.children[-1].freeze()

    async def freeze_before_delivery(self) -> None:
        """It stands still with messages in its hand; or anywhere, where it gets none for long."""
        os.kill(self.pid, signal.SIGUSR1)
        stands = psutil.Process(self.pid)
        with contextlib.suppress(AssertionError):
            await until(lambda: stands.status() == psutil.STATUS_STOPPED, LEASE, "it stands still")
        self.freeze()

    def thaw(self) -> None:
        """It goes on, where it stood still."""
        for child in self.running.children[-1:]:
            child.thaw()


@dataclass
class Crowd:
    """All of them, and the databases of both services."""

    relays: Sequence[Node]
    receivers: Sequence[Node]
    sending: AsyncEngine
    receiving: AsyncEngine
    notes: Path
    faults: Counter[str] = field(default_factory=Counter)
    committed: int = 0
    rolled_back: int = 0

    async def write(self, chance: Random, stop: asyncio.Event) -> None:
        """Commit numbers, and withdraw some, until `stop` is set."""
        sessions = async_sessionmaker(self.sending)
        outbox.install(sessions, source="numbers", routes={Counted: ["ledger"]}, peers=["ledger"])
        while not stop.is_set():
            try:
                async with sessions.begin() as session:
                    # In one order, so that no two wait for each other.
                    for key in sorted(chance.sample(KEYS, chance.randint(1, 3))):
                        number = await session.scalar(
                            update(counter)
                            .where(counter.c.name == key)
                            .values(number=counter.c.number + 1)
                            .returning(counter.c.number)
                        )
                        outbox.add(session, Counted(key, int(number or 0)))
                    if chance.random() < _ROLLED_BACK:
                        raise _Withdrawn
            except _Withdrawn:
                self.rolled_back += 1
            else:
                self.committed += 1
            await asyncio.sleep(0.02)  # the pace of the writers, which leaves time to the others

    async def trouble(
        self, nodes: Sequence[Node], kinds: Sequence[str], chance: Random, seconds: float
    ) -> None:
        """These faults one after the other, over and over, for so long, and each at least once."""
        end = time.monotonic() + seconds
        for number, kind in enumerate(itertools.cycle(kinds)):
            if number >= len(kinds) and time.monotonic() >= end:
                return
            await asyncio.sleep(chance.random())  # a fault comes at any moment
            node = chance.choice(nodes)
            async with node.in_hand:
                await _FAULTS[kind](node, chance)
            self.faults[kind] += 1

    async def shares(self) -> Mapping[int, int]:
        """How many buckets each relay has, by its process id."""
        lease = DEFAULT_TABLES.outbox_lease
        wanted = (
            select(lease.c.owner, func.count())
            .where(lease.c.destination == "ledger", lease.c.expires_at > func.clock_timestamp())
            .group_by(lease.c.owner)
        )
        async with self.sending.connect() as connection:
            found = (await connection.execute(wanted)).all()
        by_pid: Counter[int] = Counter()
        for owner, number in found:
            told = _PID.search(owner)
            assert told is not None, owner
            by_pid[int(told[1])] += number
        return by_pid

    async def until_shared(self, *living: Node) -> float:
        """Return when these relays have all buckets, none of them more than its share; the seconds
        that it took."""
        began = time.monotonic()
        pids, most = {it.pid for it in living}, fair_share(len(living))

        async def is_fair() -> bool:
            shares = await self.shares()
            whole = sum(shares.values()) == len(BUCKETS)
            return whole and shares.keys() == pids and max(shares.values()) <= most

        await until(is_fair, SHARED_WITHIN, f"{len(living)} relays share the buckets fairly")
        return time.monotonic() - began

    async def waiting(self) -> int:
        """The number of messages that have not left."""
        tables = DEFAULT_TABLES
        parts = (tables.outbox, tables.outbox_parked, tables.outbox_dead, tables.outbox_held)
        async with self.sending.connect() as connection:
            found = [await connection.scalar(select(func.count()).select_from(it)) for it in parts]
        return sum(it or 0 for it in found)


async def _die(node: Node, chance: Random) -> None:
    await node.kill()
    await asyncio.sleep(chance.random())  # for so long it is away
    await node.start()


async def _die_at_a_point(node: Node, chance: Random) -> None:
    await node.kill()
    point = f"{chance.choice(node.points)}:{chance.randint(1, 3)}"
    await node.start_to_die(point, within=5 * LEASE)
    await node.start()


async def _hang(node: Node, chance: Random) -> None:
    node.freeze()
    await asyncio.sleep(LEASE * (1.1 + 0.7 * chance.random()))  # past its lease
    node.thaw()


async def _hang_before_delivery(node: Node, chance: Random) -> None:
    await node.freeze_before_delivery()
    await asyncio.sleep(LEASE * (1.1 + 0.7 * chance.random()))  # past its lease
    node.thaw()


async def _restart(node: Node, _: Random) -> None:
    await node.leave()
    await node.start()


DIES, DIES_AT = "is killed", "dies at a crash point"
HANGS, HANGS_AT = "is stopped past its lease", "is stopped past its lease before a delivery"
RESTARTS = "is restarted in order"
_FAULTS: Mapping[str, Callable[[Node, Random], Awaitable[None]]] = {
    DIES: _die,
    DIES_AT: _die_at_a_point,
    HANGS: _hang,
    HANGS_AT: _hang_before_delivery,
    RESTARTS: _restart,
}


@asynccontextmanager
async def crowd(
    sending: tuple[Database, AsyncEngine],
    receiving: tuple[Database, AsyncEngine],
    folder: Path,
    *,
    broker: str | None,
) -> AsyncIterator[Crowd]:
    """All of them run: through this broker to two receivers, or over HTTP to one."""
    notes = folder / "notes"
    notes.mkdir()
    async with AsyncExitStack() as stack:

        async def node(
            name: str, factory: str, peers: Mapping[str, str], environment: Mapping[str, str]
        ) -> Node:
            command = (
                *(sys.executable, "-m", "uvicorn", "--factory", "--log-level", "warning"),
                *("--no-access-log", "--port", "PORT"),
                f"tests.support.numbers.services:{factory}",
            )
            more = {NOTES: str(notes), **environment}
            made = running(
                command, folder / name, peers=peers, environment=more, begin=zygote.start
            )
            points = _POINTS[factory]
            found = Node(await stack.enter_async_context(made), points)
            stack.callback(found.thaw)
            await found.start()
            return found

        reads = {DATABASE: receiving[0].url, **({"SAGABOX_BROKER": broker} if broker else {})}
        receivers = [
            await node(f"receiver-{number}", "receiver", {}, reads)
            for number in range(2 if broker else 1)
        ]
        peers = {"ledger": broker or receivers[0].running.url}
        relays = [
            await node(f"relay-{number}", "sender", peers, {DATABASE: sending[0].url})
            for number in range(RELAYS)
        ]
        yield Crowd(relays, receivers, sending[1], receiving[1], notes)


def seed() -> int:
    """What chooses the faults and their victims: SAGABOX_SOAK_SEED, or the time."""
    return int(os.environ.get("SAGABOX_SOAK_SEED") or SystemClock().now().timestamp())
