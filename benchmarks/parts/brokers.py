"""What each transport carries, and how soon: over HTTP, over gRPC and through brokers."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import orjson
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks import names
from benchmarks.brokers import pipelined
from benchmarks.brokers.pipelined import Bodies, Publisher
from benchmarks.brokers.servers import KINDS, Kind, Running, fresh_prefix
from benchmarks.contenders.installed import Missing
from benchmarks.figures import Figures
from benchmarks.hearing import pair
from benchmarks.hearing.said import TEXT, Said, beside, waking
from benchmarks.hearing.services import HEARER, TALKER, schema
from benchmarks.measuring import median, percentile, rate
from benchmarks.outbox_rows import fill
from benchmarks.parts import outboxes
from benchmarks.places import Place
from outbox import sqlite
from outbox.clock import SystemClock
from outbox.coordination.bell import Bell
from outbox.ids import Ids
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.tables import DEFAULT_TABLES
from outbox.transports.base import Accepted, Delivery, Transport
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.packets import partition_of
from outbox.transports.brokers.transport import BrokerTransport
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope, to_structured
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port, until

_CLOCK = SystemClock()
_BATCH, _AT_ONCE = RelaySettings().batch, RelaySettings().width
"""Messages in a batch, and batches at once: as the relay has it, the client alone has it, too."""
_KEYS = 1000
_SEED = 1
_WITHIN = 600.0
REQUESTS = (names.HTTP, names.GRPC)


async def measure(
    place: Place,
    figures: Figures,
    messages: int,
    events: int,
    rounds: int,
    *,
    requests: Sequence[str] = REQUESTS,
    kinds: Sequence[Kind] = KINDS,
) -> None:
    """Through each broker so many messages are relayed until it has all, and published by its
    client alone, in turns. Then over each transport `events` events are written each alone, and so
    many messages at once, with the inbox of another service at the end."""
    for name in requests:
        values = await _whole_way(place, *_asked(name), messages, events)
        figures.add((place.name, names.BROKERS, name), values)
    for kind in kinds:
        try:
            async with kind.running() as server:
                published = await _published(place, kind, server, messages, rounds)
                whole = await _through(place, server, messages, events)
        except Missing as error:
            figures.skipped[kind.name] = str(error)
        else:
            figures.add((place.name, names.BROKERS, kind.name), {**published, **whole})
    await _beside(place, figures, messages, events)


async def _beside(place: Place, figures: Figures, messages: int, events: int) -> None:
    """Another outbox, which needs no broker and has no inbox."""
    try:
        found = await outboxes.measured(place, outboxes.OF_FASTSTREAM, messages, events)
    except Missing as error:
        figures.skipped[names.FASTSTREAM] = str(error)
        return
    values = {
        names.WHOLE_WAY: found[outboxes.DRAINED],
        names.P50: found[outboxes.HANDLER_P50],
        names.P99: found[outboxes.HANDLER_P99],
    }
    figures.add((place.name, names.BROKERS, names.FASTSTREAM), values)


# --- Until the broker has them ---------------------------------------------------------------


class _Counted:
    """A transport that tells when it has carried so many messages."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._missing = 0
        self._all = asyncio.Event()

    def expect(self, messages: int) -> None:
        """Count anew."""
        self._missing = messages
        self._all.clear()

    async def has_all(self) -> None:
        """Return when the last one of these was accepted."""
        async with asyncio.timeout(_WITHIN):
            await self._all.wait()

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await self._transport.deliver(envelopes)
        if isinstance(delivery, Accepted):
            self._missing -= len(envelopes)
            if self._missing <= 0:
                self._all.set()
        return delivery

    async def aclose(self) -> None:
        await self._transport.aclose()


async def _published(
    place: Place, kind: Kind, server: Running, messages: int, rounds: int
) -> Mapping[str, float]:
    prefix = fresh_prefix()
    address = server.address(prefix)
    for queue in (HEARER, pipelined.QUEUE):
        await server.create(f"{prefix}.{queue}")
    batches = list(_batches(messages, BrokerAddress.parse(address).partitions))
    ours: list[float] = []
    theirs: list[float] = []
    async with _relaying(place, address) as outbox, kind.alone(address) as publish:
        await outbox.carry(_BATCH)
        await publish(batches[0])
        for _ in range(rounds):
            ours.append(await outbox.carry(messages))
            theirs.append(await rate(lambda: _alone(publish, batches)))
    return {
        names.RELAYED: median(ours),
        names.ALONE: median(theirs),
        names.OF_ALONE: median(ours) / median(theirs),
    }


class _Outbox:
    """An outbox whose relay runs."""

    def __init__(self, engine: AsyncEngine, destination: _Counted, bell: Bell) -> None:
        self._engine = engine
        self._destination = destination
        self._bell = bell

    async def carry(self, messages: int) -> float:
        """Fill it with so many committed messages; how many a second the broker has."""
        self._destination.expect(messages)
        await fill(self._engine, messages, source=TALKER, to=HEARER)

        async def carried() -> int:
            self._bell.ring()
            await self._destination.has_all()
            return messages

        found = await rate(carried)
        await until(self._is_empty, _WITHIN, what="the outbox is empty")
        return found

    async def _is_empty(self) -> bool:
        async with self._engine.connect() as connection:
            left = select(func.count()).select_from(DEFAULT_TABLES.outbox)
            return await connection.scalar(left) == 0


@asynccontextmanager
async def _relaying(place: Place, address: str) -> AsyncIterator[_Outbox]:
    keys = Keyring.from_text(SECRET)
    engine = create_async_engine(place.fresh(schema).url)
    sqlite.configure(engine)
    way = _Counted(BrokerTransport(broker_at(address), to=HEARER, keys=keys, clock=_CLOCK))
    bell, stop = Bell(), asyncio.Event()
    relay = Relay(engine, {HEARER: way}, owner="bench", clock=_CLOCK, bell=bell)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(relay.run(stop))
            try:
                yield _Outbox(engine, way, bell)
            finally:
                stop.set()
    finally:
        await way.aclose()
        await engine.dispose()


async def _alone(publish: Publisher, batches: Sequence[Bodies]) -> int:
    left = iter(batches)

    async def client() -> None:
        for batch in left:
            await publish(batch)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_AT_ONCE):
            tasks.create_task(client())
    return sum(map(len, batches))


def _batches(messages: int, partitions: int) -> Iterable[Bodies]:
    """The bodies of the messages that `fill` writes, as the relay sends them."""
    new_id = Ids(_CLOCK, os.urandom)
    bodies = [
        (partition_of(key, partitions), to_structured(_noted(new_id(), key, number)))
        for number, key in ((it, f"key-{it % _KEYS}") for it in range(messages))
    ]
    return (bodies[it : it + _BATCH] for it in range(0, messages, _BATCH))


def _noted(id: str, key: str, number: int) -> Envelope:
    return Envelope(
        id=id,
        source=TALKER,
        type=f"{TALKER}.noted.v1",
        key=key,
        time=_CLOCK.now(),
        data=orjson.dumps({"key": f"event-{number}", "text": TEXT}),
    )


# --- Until the handler has them --------------------------------------------------------------

_Settings = Mapping[str, str]


def _asked(name: str) -> tuple[_Settings, _Settings]:
    """What the sender's and the receiver's environment say, for requests."""
    if name == names.HTTP:
        return {}, {}
    port = str(free_port())
    return {"SAGABOX_PEERS": f"{HEARER}=grpc://127.0.0.1:{port}"}, {"SAGABOX_GRPC_PORT": port}


async def _through(
    place: Place, server: Running, messages: int, events: int
) -> Mapping[str, float]:
    prefix = fresh_prefix()
    address = server.address(prefix)
    await server.create(f"{prefix}.{HEARER}")
    sender, receiver = {"SAGABOX_PEERS": f"{HEARER}={address}"}, {server.reading: address}
    return await _whole_way(place, sender, receiver, messages, events)


async def _whole_way(
    place: Place, sender: _Settings, receiver: _Settings, messages: int, events: int
) -> Mapping[str, float]:
    bell = Bell()
    async with pair.prepared(place) as services, AsyncExitStack() as stack:
        for name, settings in ((HEARER, receiver), (TALKER, sender)):
            child = await services.start(name, settings)
            stack.push_async_callback(child.stop)
        await stack.enter_async_context(waking(services, bell))
        said, write, rests = Said(services), beside(services, bell), random.Random(_SEED)
        keys: list[str] = []
        for _ in range(1 + events):
            keys.append(await said.write(write))
            await said.until_heard()
            # So that it does not always come at the same moment of a reader's rest.
            await asyncio.sleep(rests.uniform(0, 1))
        # With the first one connections and queues are made.
        latencies = await said.latencies(keys[1:])
        await fill(services.engines[TALKER], messages, source=TALKER, to=HEARER)
        committed = time.monotonic()
        bell.ring()
        await services.until_heard(len(keys) + messages, _WITHIN)
        last = max((await services.heard()).values())
    return {
        names.WHOLE_WAY: messages / (last - committed),
        names.P50: percentile(latencies, 0.5) * 1000,
        names.P99: percentile(latencies, 0.99) * 1000,
    }
