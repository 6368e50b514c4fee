"""What a service reads: the queue of its own name, at each broker that it was told of, and topics
of others."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import random
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from outbox.adding.installation import install
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.coordination.progress import Progress
from outbox.errors import InvalidService, UntrustedRequest
from outbox.inbox.answering import AnsweringInbox, add_answer
from outbox.inbox.inbox import Inbox
from outbox.inbox.runners import Sessions
from outbox.inbox.transactions.terms import Told
from outbox.relay.settings import RelaySettings
from outbox.replies import Reply
from outbox.runtime import HANDLERS_HAVE
from outbox.service.queue_reader import QueueReader
from outbox.tables import Tables
from outbox.transports.brokers.address import BrokerAddress, addresses_in
from outbox.transports.brokers.broker import Broker, Packet
from outbox.transports.brokers.consumer import Consumer
from outbox.transports.brokers.figures import QueueFigures
from outbox.transports.brokers.held.holding import Holding
from outbox.transports.brokers.held.policy import HeldPolicy
from outbox.transports.brokers.held.table import HeldTable
from outbox.transports.brokers.held.worker import HeldWorker
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.packets import unpacked
from outbox.transports.brokers.partition_reader import Receive, Unpack
from outbox.transports.brokers.topics.following import Followed, ForeignHolding
from outbox.transports.brokers.topics.mapping import Map, TheirId
from outbox.transports.brokers.topics.port import Start
from outbox.transports.brokers.topics.topic import Topic
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

log = logging.getLogger("outbox.service")

BROKER = "SAGABOX_BROKER"


class Reads(Protocol):
    """The service itself."""

    @property
    def name(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def engine(self) -> AsyncEngine: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def progress(self) -> Progress: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def new_id(self) -> Callable[[], str]: ...
    @property
    def bell(self) -> Bell: ...
    @property
    def reached(self) -> Collection[str]: ...
    @property
    def relay_settings(self) -> RelaySettings: ...
    @property
    def drain_seconds(self) -> float: ...
    def keys(self) -> Keyring: ...
    def another_inbox(self, told: Told) -> Inbox: ...


class Queues:
    """The queues of one service. `concurrency` gives how many batches are worked on at once, at
    each broker. `held` is the policy for what could not be handled."""

    def __init__(
        self, service: Reads, concurrency: Callable[[], int], held: HeldPolicy | None = None
    ) -> None:
        self._service = service
        self._concurrency = concurrency
        self._policy = held
        self._told: list[str | Callable[[], Broker]] = []
        self._followed: dict[str, Followed] = {}
        self._readers: Sequence[QueueReader] = ()

    @property
    def are_read(self) -> bool:
        """Whether the service reads any."""
        return bool(self._readers)

    def listen(self, broker: str | Callable[[], Broker]) -> None:
        """Read the queue there, too: at an address, or at the broker that is made at each start.
        Raises InvalidService where it is no address of a broker, and ExtraMissing."""
        if isinstance(broker, str):
            broker_at(broker)
        self._told.append(broker)

    def follow(
        self,
        topic: Topic | str,
        *,
        map: Map,
        id: TheirId = None,
        group: str | None = None,
        start: Start | str = Start.FIRST,
    ) -> None:
        """Follow a topic of others, from the start of the service to its end: an `outbox.Topic` or
        its text.

        `map` makes a declared event of each `outbox.ForeignMessage`, which a handler of this
        service then handles once; or None, where the message is for another receiver. A message has
        the `id` and `source` of the CloudEvent that it is as its id; or what `id` says: the name of
        a header, or a function. One that cannot be mapped, or has no id, is held. `group` is the
        name under which the broker keeps the position, the service's own unless given; without one
        there it begins at the `start`, first or new. A queue of RabbitMQ takes neither.

        Raises InvalidService, and ExtraMissing.
        """
        it = Followed.of(
            topic,
            map=map,
            id=id,
            group=group,
            start=start,
            service=self._service.name,
            clock=self._service.clock,
        )
        if it.queue in self._followed:
            raise InvalidService(
                f"{self._service.name} follows the topic {it.topic.name} twice",
                next_step="let one function map all that comes on it",
            )
        self._followed[it.queue] = it

    def forget(self) -> None:
        """Forget what read in a process from which this one was forked."""
        self._readers = ()

    async def trouble(self) -> tuple[str, str] | None:
        """Why the service is not ready on account of a queue, and what is to be done."""
        found = await asyncio.gather(*(it.trouble() for it in self._readers))
        return next((it for it in found if it is not None), None)

    async def figures(self) -> Sequence[QueueFigures]:
        """The figures of each queue."""
        return await asyncio.gather(*(it.figures() for it in self._readers))

    @asynccontextmanager
    async def being_read(self) -> AsyncIterator[None]:
        """Read until the block ends; then finish what is in hand. A broker that is away does not
        keep the block from beginning. Raises BrokerRefused, InvalidService and ExtraMissing."""
        told = [*dict.fromkeys(self._told or _from_environment())]
        if not told and not self._followed:
            yield
            return
        service = self._service
        inbox = service.another_inbox(add_answer)
        answering = AnsweringInbox(inbox, service.sessions)
        table, worker = self._held(answering, service.keys() if told else None)
        receive = _receiving(answering, service.inbox)
        async with AsyncExitStack() as closing:
            closing.callback(self.forget)
            readers = [
                *(self._reader(it, n, receive, table) for n, it in enumerate(told, start=1)),
                *(self._follower(it, receive, table) for it in self._followed.values()),
            ]
            for reader in readers:
                closing.push_async_callback(reader.aclose)
            for reader in readers:
                await reader.reach()
            self._readers = readers
            stop = asyncio.Event()
            running = [*(it.run(stop) for it in readers), worker.run(stop)]
            tasks = [asyncio.create_task(it) for it in running]
            for reader in readers:
                log.info("%s reads %s", service.name, reader)
            try:
                yield
            finally:
                stop.set()
                await _ended(tasks, service.drain_seconds)
                await inbox.drain(max(HANDLERS_HAVE, inbox.longest_work))

    def _reader(
        self, told: str | Callable[[], Broker], number: int, receive: Receive, holding: Holding
    ) -> QueueReader:
        service = self._service
        broker = broker_at(told) if isinstance(told, str) else told()
        consumer = self._consumer(
            broker, service.name, receive, holding, keys=service.keys(), number=number
        )
        where = str(BrokerAddress.parse(told)) if isinstance(told, str) else type(broker).__name__
        # Two may differ in what is not shown.
        return QueueReader(consumer, where if number == 1 else f"{where} ({number})")

    def _follower(self, it: Followed, receive: Receive, holding: Holding) -> QueueReader:
        table = ForeignHolding(holding)
        consumer = self._consumer(it.broker(), it.queue, receive, table, unpack=it.unpack)
        return QueueReader(consumer, it.where, ours=False)

    def _consumer(
        self,
        broker: Broker,
        queue: str,
        receive: Receive,
        holding: Holding,
        *,
        keys: Keyring | None = None,
        unpack: Unpack | None = None,
        number: int = 1,
    ) -> Consumer:
        service, pace = self._service, self._service.relay_settings
        return Consumer(
            broker,
            queue,
            receive,
            keys=keys,
            holding=holding,
            unpack=unpack,
            engine=service.engine,
            tables=service.tables,
            owner=service.name,
            clock=service.clock,
            progress=service.progress,
            concurrency=self._concurrency(),
            lease=pace.lease,
            margin=pace.margin,
            number=number,
        )

    def _held(
        self, answering: AnsweringInbox, keys: Keyring | None
    ) -> tuple[HeldTable, HeldWorker]:
        """The held table of the service, and what tries its messages again."""
        service = self._service
        sessions, bell = _asynchronous(service), Bell()
        table = HeldTable(
            sessions,
            service.name,
            clock=service.clock,
            chance=random,
            policy=self._policy,
            bell=bell,
        )

        def read(packet: Packet, queue: str) -> Envelope | None:
            if queue in self._followed:
                return self._followed[queue].mapping.read(packet)
            if keys is None:
                raise UntrustedRequest(
                    f"the packet is of the queue {queue}, which {service.name} does not read",
                    next_step="redrive it where that is read, or drop it",
                )
            return unpacked(packet, service.name, keys=keys)[0]

        worker = HeldWorker(
            answering,
            sessions,
            service.name,
            clock=service.clock,
            chance=random,
            read=read,
            policy=self._policy,
            bell=bell,
            progress=service.progress,
        )
        return table, worker


def _receiving(answering: AnsweringInbox, purging: Inbox) -> Receive:
    """The inbox as a consumer uses it: what orchestrators say of ended sagas is for the one whose
    purge runs."""

    async def receive(envelopes: Sequence[Envelope], settled: EndedSagas | None) -> Sequence[Reply]:
        purging.note(envelopes, settled)
        return await answering.receive(envelopes, settled)

    return receive


def _asynchronous(service: Reads) -> async_sessionmaker[AsyncSession]:
    """The sessions of the service, or the same ones on the engine of its relay."""
    if isinstance(service.sessions, async_sessionmaker):
        return service.sessions
    sessions = async_sessionmaker(service.engine, expire_on_commit=False)
    install(
        sessions,
        source=service.name,
        routes={},
        clock=service.clock,
        ids=service.new_id,
        bell=service.bell,
        peers=service.reached,
        tables=service.tables,
    )
    return sessions


async def _ended(tasks: Sequence[asyncio.Task[None]], within: float) -> None:
    _, late = await asyncio.wait(tasks, timeout=within)
    for task in late:
        log.warning("a batch of a broker took too long and was ended; it comes again")
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _from_environment() -> list[str]:
    try:
        return addresses_in(os.environ.get(BROKER, ""))
    except InvalidService as error:
        raise InvalidService(
            f"{BROKER} cannot be read: {error.problem}", next_step=error.next_step
        ) from None
