"""The relay: committed messages leave the outbox in order, however often processes die."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Engine, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox import sqlite
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.coordination.lease_keeper import LeaseKeeper
from outbox.coordination.loops import at_the_end, repeat
from outbox.coordination.owners import HolderName, is_surely_dead
from outbox.coordination.progress import Progress
from outbox.database.engines import reading, seeing_all
from outbox.database.twins import twin_of
from outbox.errors import Unrouted
from outbox.lanes import BUCKETS
from outbox.relay.courier import Courier, CourierStats
from outbox.relay.ports import RelayPorts, ReplySink
from outbox.relay.sender import sending_to
from outbox.relay.settings import RelaySettings
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.transports.base import Transport

log = logging.getLogger("outbox.relay")

_MOVED_AT_ONCE = 500
_LOOK_FOR_STRAYS = 600.0
"""Seconds between two looks, each of which reads all that waits."""


class Relay:
    """The relay of a service's outbox, with one transport for each destination.

    Any number of relays may share a database: each sends from the buckets that it has leased. A
    message leaves at least once; per lane and key in the order of the commits. A destination that
    is down delays its own messages, and no others.

    `owner` is a label, by which an operator recognises this relay in the database; any number of
    relays may have the same. The name that holds the leases has a random part besides, a new one in
    a process that was forked off; by it the relays of a machine know that one of them has died, and
    need not wait for its leases. A synchronous engine gets an asynchronous twin, made from its URL.
    `bell` and `tables` are those of `outbox.install(...)`; without the bell the relay only polls.
    `progress` is told of each step. Raises UnconfiguredSQLite, and IsolationRefused.
    """

    def __init__(
        self,
        engine: AsyncEngine | Engine,
        transports: Mapping[str, Transport],
        *,
        owner: str,
        clock: Clock,
        settings: RelaySettings | None = None,
        bell: Bell | None = None,
        sink: ReplySink | None = None,
        progress: Progress | None = None,
        tables: Tables = DEFAULT_TABLES,
        is_dead: Callable[[str], bool] = is_surely_dead,
        chance: Callable[[], float] = random.random,
    ) -> None:
        sqlite.require(engine)
        self._twin = twin_of(engine, name=owner) if isinstance(engine, Engine) else None
        engine = self._twin or engine
        assert isinstance(engine, AsyncEngine), "a synchronous engine has a twin"
        engine = seeing_all(engine)
        self._engine = engine
        self._label = owner
        self._reading = reading(engine)
        self._settings = settings or RelaySettings()
        self._bell = bell or Bell()
        self._progress = progress or Progress(clock.monotonic)
        name = HolderName(owner)
        tables.require(engine.sync_engine)
        self._tables = tables
        ports = RelayPorts.of(engine, tables, clock)
        self._store = ports.messages
        self._transports = dict(transports)
        self._couriers = {
            destination: Courier(
                engine,
                destination,
                transport,
                name=name,
                clock=clock,
                settings=self._settings,
                sink=sink,
                ports=ports,
                moved=self._progress.of(sending_to(destination)).moved,
                chance=chance,
            )
            for destination, transport in transports.items()
        }
        self._keeper = LeaseKeeper(
            engine,
            ports.leases,
            self._couriers,
            buckets=BUCKETS,
            name=name,
            clock=clock,
            lease=self._settings.lease,
            margin=self._settings.margin,
            is_dead=is_dead,
            gained=self._bell.ring,
        )

    @property
    def stats(self) -> Mapping[str, CourierStats]:
        """The counts of each destination's courier since the start."""
        return {name: courier.stats for name, courier in self._couriers.items()}

    @property
    def blocked(self) -> frozenset[str]:
        """The destinations that give no answer at present."""
        return frozenset(name for name, courier in self._couriers.items() if courier.is_blocked)

    async def run_once(self) -> int:
        """Make one round for every destination; returns how many messages were settled or buried.

        Errors of the database pass through.
        """
        if self._keeper.is_due:
            await self._keeper.tend()
        await self._move_due()
        return sum(await asyncio.gather(*(each.run_once() for each in self._couriers.values())))

    async def run(self, stop: asyncio.Event) -> None:
        """Repeat rounds until `stop` is set; then finish those under way, and give the leases back.

        Trouble with the database is logged and waited out.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(repeat(stop, self._tell_of_strays, "look for strays", self._progress))
            tasks.create_task(repeat(stop, self._tend_once, "tend the leases", self._progress))
            tasks.create_task(repeat(stop, self._schedule_once, "move what is due", self._progress))
            for name, courier in self._couriers.items():
                tasks.create_task(
                    repeat(stop, courier.step, sending_to(name), self._progress, self._bell)
                )
            await stop.wait()
            self._bell.ring()
        await at_the_end(self.aclose, "give the leases back, which expire by themselves")

    async def aclose(self) -> None:
        """Give the leases back and close the transports. Messages stay where they are."""
        try:
            await self._keeper.leave()
        finally:
            for transport in self._transports.values():
                await transport.aclose()
            if self._twin is not None:
                await self._twin.dispose()

    # The loops of run()

    async def _tend_once(self) -> float:
        return await self._keeper.tend() if self._keeper.is_due else self._keeper.pause()

    async def _schedule_once(self) -> float:
        return 0.0 if await self._move_due() else self._settings.poll

    async def _tell_of_strays(self) -> float:
        async with self._reading.connect() as connection:
            found = await _strays(connection, self._tables, self._transports)
        for destination, count in found.items():
            why = Unrouted.no_peer(destination, self._label, self._transports)
            waiting = "1 message waits" if count == 1 else f"{count} messages wait"
            log.warning("%s for %s: %s", waiting, destination, why)
        return _LOOK_FOR_STRAYS

    async def _move_due(self) -> int:
        if not self._couriers:
            return 0
        async with self._reading.connect() as connection:
            if not await self._store.any_due(connection, list(self._couriers)):
                return 0
        async with self._engine.begin() as connection:
            moved = await self._store.move_due(connection, list(self._couriers), _MOVED_AT_ONCE)
        if moved:
            self._bell.ring()
        return moved


async def _strays(
    connection: AsyncConnection, tables: Tables, known: Collection[str]
) -> Mapping[str, int]:
    """How many messages wait for each destination that is not `known`, by its name."""
    waiting = union_all(
        *(
            select(table.c.destination).where(table.c.destination.not_in(known))
            for table in (tables.outbox, tables.outbox_parked, tables.outbox_scheduled)
        )
    ).subquery()
    counted = select(waiting.c.destination, func.count()).group_by(waiting.c.destination)
    return {name: count for name, count in await connection.execute(counted)}
