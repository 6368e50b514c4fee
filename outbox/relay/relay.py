"""The relay: committed messages leave the outbox in order, however often processes die."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import partial

from sqlalchemy import Engine, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox import sqlite
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.coordination.lease_keeper import LeaseKeeper
from outbox.coordination.loops import at_the_end, log_failure, repeat
from outbox.coordination.owners import HolderName, is_surely_dead
from outbox.coordination.progress import Progress
from outbox.coordination.wake_ups import WakeUps
from outbox.database.engines import reading, seeing_all
from outbox.database.schema.grants import require_grants
from outbox.database.twins import twin_of
from outbox.destinations.pause_rows import PauseRows
from outbox.destinations.watch import PauseWatch
from outbox.errors import GrantMissing, Unrouted
from outbox.lanes import BUCKETS
from outbox.relay.condition import Condition
from outbox.relay.courier import Courier
from outbox.relay.ports import RelayPorts, ReplySink
from outbox.relay.sender import sending_to
from outbox.relay.settings import DestinationSettings, RelaySettings
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
    `progress` is told of each step. `destinations` has settings of single ones, where those of
    `settings` say nothing. `read_elsewhere` are destinations whose messages others take. Raises
    UnconfiguredSQLite, and IsolationRefused.
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
        destinations: Mapping[str, DestinationSettings] | None = None,
        read_elsewhere: Collection[str] = (),
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
        self._holds = ports.holds
        self._transports = dict(transports)
        self._known = {*transports, *read_elsewhere}
        named, batch = destinations or {}, self._settings.batch
        own = {it: self._settings.own(it, named.get(it)) for it in transports}
        condition_of = partial(
            Condition, clock=clock, batch=batch, chance=chance, event=ports.event, pausable=True
        )
        conditions = {it: condition_of(it) for it in transports}
        self._couriers = {
            destination: Courier(
                engine,
                destination,
                transport,
                conditions[destination],
                name=name,
                clock=clock,
                settings=self._settings.of(destination, named.get(destination)),
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
            lost=self._progress.lose_leases,
        )
        self._clock = clock
        self._pauses = PauseWatch(
            engine,
            PauseRows(tables, postgres=engine.dialect.name == "postgresql", now=clock.now),
            conditions,
            {name: it.pause_after for name, it in own.items() if it.pause_after is not None},
            self._owns,
        )
        self._wake_ups = WakeUps(engine, self._bell, tables, is_alone=self._has_all_leases)

    @property
    def blocked(self) -> frozenset[str]:
        """The destinations that give no answer at present."""
        return frozenset(name for name, courier in self._couriers.items() if courier.is_blocked)

    @property
    def paused(self) -> Mapping[str, str]:
        """The destinations that are paused, each with its reason."""
        return self._pauses.paused

    async def run_once(self) -> int:
        """Make one round for every destination; returns how many messages were settled or buried.

        Errors of the database pass through.
        """
        if self._keeper.is_due:
            await self._keeper.tend()
        await self._pauses.look()
        await self._move_due()
        return sum(await asyncio.gather(*(each.run_once() for each in self._couriers.values())))

    async def run(self, stop: asyncio.Event) -> None:
        """Repeat rounds until `stop` is set; then finish those under way, and give the leases back.

        Trouble with the database is logged and waited out. Raises GrantMissing where the database
        can be asked at the start, and does not let its role do what the library does.
        """
        await self._require_grants()
        # Without a destination there is nothing to hear of.
        wake_ups = self._wake_ups.running() if self._couriers else nullcontext()
        async with wake_ups, asyncio.TaskGroup() as tasks:
            tasks.create_task(repeat(stop, self._tell_of_strays, "look for strays", self._progress))
            tasks.create_task(repeat(stop, self._tend_once, "tend the leases", self._progress))
            tasks.create_task(repeat(stop, self._look_once, "look for pauses", self._progress))
            tasks.create_task(repeat(stop, self._schedule_once, "move what is due", self._progress))
            tasks.create_task(repeat(stop, self._park_once, "park what waits", self._progress))
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

    def _has_all_leases(self) -> bool:
        now = self._clock.monotonic()
        return all(len(it.leases.usable(now)) == len(BUCKETS) for it in self._couriers.values())

    async def _owns(self, connection: AsyncConnection, destination: str) -> bool:
        epochs = self._couriers[destination].leases.usable(self._clock.monotonic())
        return bool(epochs) and bool(await self._store.fence(connection, destination, epochs))

    async def _require_grants(self) -> None:
        try:
            async with self._reading.connect() as connection:
                await connection.run_sync(require_grants, self._label, self._tables)
        except GrantMissing:
            await at_the_end(self.aclose, "close the transports")
            raise
        except Exception as error:
            log_failure(log, "could not look at the rights of the role", error)

    # The loops of run()

    async def _look_once(self) -> float:
        await self._pauses.look()
        return self._settings.poll

    async def _tend_once(self) -> float:
        if not self._pauses.has_looked:
            # No courier has a lease before, and none sends what must not leave.
            await self._pauses.look()
        return await self._keeper.tend() if self._keeper.is_due else self._keeper.pause()

    async def _schedule_once(self) -> float:
        return 0.0 if await self._move_due() else self._settings.poll

    async def _park_once(self) -> float:
        """Keep the hot table small behind keys that are blocked, perhaps for days."""
        moved = 0
        for name, courier in self._couriers.items():
            async with self._reading.connect() as connection:
                if not await self._holds.any_blocked(connection, name):
                    continue
            epochs = courier.leases.usable(self._clock.monotonic())
            if not epochs:
                continue
            async with self._engine.begin() as connection:
                await self._store.limit_idleness(connection, self._settings.lease / 4)
                ours = await self._store.fence(connection, name, epochs)
                moved += await self._holds.park_blocked(connection, name, ours, _MOVED_AT_ONCE)
        return 0.0 if moved else self._settings.sweep

    async def _tell_of_strays(self) -> float:
        async with self._reading.connect() as connection:
            found = await _strays(connection, self._tables, self._known)
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
