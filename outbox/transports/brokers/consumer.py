"""The consumer of a service's queue: it reads the partitions that its process has leased.

Leases share the partitions among the processes of a service, as they share its buckets among its
relays. Order does not depend on them: a broker's adapter lets one reader in at a time, each reads
a partition from its first packet that is not done, and the inbox knows what comes twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.adding.installation import MAX_DESTINATION_LENGTH
from outbox.clock import Clock
from outbox.coordination.given_back import GivenBack
from outbox.coordination.lease_keeper import LeaseKeeper
from outbox.coordination.lease_store import LeaseStore
from outbox.coordination.leases import Leases
from outbox.coordination.loops import at_the_end, log_failure, repeat
from outbox.coordination.owners import HolderName, is_surely_dead
from outbox.coordination.progress import Progress
from outbox.tables import READING, Tables
from outbox.transports.brokers.broker import Broker
from outbox.transports.brokers.held.holding import Holding
from outbox.transports.brokers.partition_reader import (
    BATCH,
    Counts,
    PartitionReader,
    Receive,
    Unpack,
)
from outbox.transports.http.signing import Keyring

log = logging.getLogger("outbox.brokers")

LEASE = 15.0
MARGIN = 5.0
CONCURRENCY = 8
"""Batches that one process handles at once."""


class Partitions:
    """The partitions that this process has leased; `changed` is called when they are others."""

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self.leases = Leases()
        self.excess: frozenset[int] = frozenset()
        """Those that are to be given back, once no batch of theirs is in hand."""
        self._given_back = GivenBack()

    def lease(self, leases: Leases) -> None:
        """Replace the leases by these, without those that are given back meanwhile."""
        self.leases = self._given_back.missing_in(leases)
        self._changed()

    async def give_up(self, buckets: Sequence[int]) -> None:
        """Begin no batch of these any more."""
        self.excess = frozenset(buckets)
        self._changed()

    @contextmanager
    def giving(self, partitions: Collection[int]) -> Iterator[None]:
        """Have these no longer, and let the block give them back."""
        with self._given_back.giving(self.leases, partitions) as self.leases:
            yield
        self.excess -= frozenset(partitions)

    def has(self, partition: int) -> bool:
        """Whether a batch of that partition may be begun."""
        usable = self.leases.usable(self._clock.monotonic())
        return partition in usable and partition not in self.excess


class Consumer:
    """The consumer of the queue of one service. `receive` is its inbox, which answers by messages.
    `number` tells the brokers apart at which one service reads, since each has its own leases.
    `engine` leads to the database of the leases. `owner` is a label, as for a relay. `unpack` reads
    packets of others, which no `keys` have signed."""

    def __init__(
        self,
        broker: Broker,
        queue: str,
        receive: Receive,
        *,
        keys: Keyring | None,
        holding: Holding | None,
        engine: AsyncEngine,
        tables: Tables,
        owner: str,
        clock: Clock,
        progress: Progress | None = None,
        unpack: Unpack | None = None,
        batch: int = BATCH,
        concurrency: int = CONCURRENCY,
        lease: float = LEASE,
        margin: float = MARGIN,
        number: int = 1,
    ) -> None:
        self._broker = broker
        self.queue = queue
        self.counts = Counts()
        self._progress = progress or Progress(clock.monotonic)
        self._wanted = asyncio.Event()
        self._partitions = Partitions(clock, self._wanted.set)
        self._engine = engine
        self._name = HolderName(f"{owner} reader")
        self._store = LeaseStore(
            tables, postgres=engine.dialect.name == "postgresql", now=clock.now
        )
        self._leased_as = _leased_as(queue, number)
        self._keeper = LeaseKeeper(
            engine,
            self._store,
            {self._leased_as: self._partitions},
            buckets=range(broker.partitions),
            name=self._name,
            clock=clock,
            lease=lease,
            margin=margin,
            is_dead=is_surely_dead,
            lost=self._progress.lose_leases,
        )
        room = asyncio.Semaphore(concurrency)

        def reader(partition: int) -> PartitionReader:
            return PartitionReader(
                broker,
                queue,
                partition,
                receive,
                keys,
                holding,
                may_read=lambda: self._partitions.has(partition),
                room=room,
                batch=batch,
                counts=self.counts,
                unpack=unpack,
            )

        self._reader = reader
        self._reading: dict[int, asyncio.Task[None]] = {}

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that it reads now."""
        return frozenset(self._reading)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set; then finish the batches in hand, and give the leases back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                repeat(stop, self._tend, f"tend the leases of {self.queue}", self._progress)
            )
            tasks.create_task(self._follow(stop))
        await at_the_end(self._leave, "give the leases back, which expire by themselves")

    async def waiting(self) -> int:
        """The number of packets of its queue that are not done. Raises what the broker raises."""
        return await self._broker.waiting(self.queue)

    async def aclose(self) -> None:
        """Close the connections to the broker."""
        await self._broker.aclose()

    async def _tend(self) -> float:
        return await self._keeper.tend() if self._keeper.is_due else self._keeper.pause()

    async def _follow(self, stop: asyncio.Event) -> None:
        """Let each leased partition be read, until `stop` is set."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wanted.clear()
                for partition in self._partitions.leases.epochs:
                    if partition not in self._reading and self._partitions.has(partition):
                        task = asyncio.create_task(self._reader(partition).run(stop))
                        self._reading[partition] = task
                        task.add_done_callback(lambda _: self._wanted.set())
                await self._settle()
                waiting = asyncio.create_task(self._wanted.wait())
                await asyncio.wait({stopping, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            stopping.cancel()
            await asyncio.gather(*self._reading.values(), return_exceptions=True)
            self._reading.clear()

    async def _settle(self) -> None:
        """Forget readers that ended, and give back what is in excess and not read any more."""
        for partition, task in [*self._reading.items()]:
            if task.done():
                del self._reading[partition]
        idle = [it for it in self._partitions.excess if it not in self._reading]
        if not idle:
            return
        try:
            with self._partitions.giving(idle):
                async with self._engine.begin() as connection:
                    await self._store.give_back(connection, self._name(), self._leased_as, idle)
        except Exception as error:
            log_failure(log, f"could not give back leases of {self.queue}", error)

    async def _leave(self) -> None:
        await self._keeper.leave()


def _leased_as(queue: str, number: int) -> str:
    """The name of the leases, which has room for 100 characters in the tables."""
    name = f"{READING}{queue}" if number == 1 else f"{READING}{queue} {number}"
    if len(name) <= MAX_DESTINATION_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_DESTINATION_LENGTH - 17]}-{digest}"
