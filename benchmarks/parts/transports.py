"""What a transport costs: the same messages to the same service over HTTP and over gRPC."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import orjson

from benchmarks.figures import Figures
from benchmarks.hearing import pair
from benchmarks.hearing.services import HEARER, TALKER
from benchmarks.measuring import Load, closed_loop, median, percentile
from benchmarks.names import P50, P99, RATE, TRANSPORTS, at
from benchmarks.places import Place
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.service.ways import transport_to
from outbox.transports.base import Answered, Transport
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port

_CLOCK = SystemClock()
_TEXT = "x" * 280
_ONE, _MANY = 1, 64
"""Messages in a request."""
_AT_ONCE = 4
_WARM_UP = 32


async def measure(place: Place, figures: Figures, requests: int, rounds: int) -> None:
    """Requests of one message by one client, and of 64 messages by several, in turns over each
    transport; so many requests of one message in a round. The inbox and its database are behind
    both."""
    loads: dict[str, list[tuple[Load, int]]] = {}
    async with _ways(place) as ways:
        for way in ways.values():
            await _load(way, _WARM_UP, _ONE, 1)
        for _ in range(rounds):
            for name, way in ways.items():
                for size, clients in ((_ONE, 1), (_MANY, _AT_ONCE)):
                    load = await _load(way, requests // size or 1, size, clients)
                    row = at(f"{name}, {size} in a request", clients)
                    loads.setdefault(row, []).append((load, size))
    for row, measured in loads.items():
        latencies = [it for load, _ in measured for it in load.latencies]
        values = {
            RATE: median([load.rate * size for load, size in measured]),
            P50: percentile(latencies, 0.5) * 1000,
            P99: percentile(latencies, 0.99) * 1000,
        }
        figures.add((place.name, TRANSPORTS, row), values)


@asynccontextmanager
async def _ways(place: Place) -> AsyncIterator[Mapping[str, Transport]]:
    """Both ways to one service that runs until the end of the block."""
    port = free_port()
    options = {"source": TALKER, "keys": Keyring.from_text(SECRET), "clock": _CLOCK, "timeout": 20}
    async with pair.prepared(place) as services, AsyncExitStack() as stack:
        child = await services.start(HEARER, {"SAGABOX_GRPC_PORT": str(port)})
        stack.push_async_callback(child.stop)
        addresses = {"HTTP": services.url(HEARER), "gRPC": f"grpc://127.0.0.1:{port}"}
        ways = {name: transport_to(address, **options) for name, address in addresses.items()}
        for way in ways.values():
            stack.push_async_callback(way.aclose)
        yield ways


async def _load(way: Transport, requests: int, size: int, clients: int) -> Load:
    new_id = Ids(_CLOCK, os.urandom)
    batches = {str(number): _batch(new_id, size) for number in range(requests)}

    async def send(number: str) -> None:
        delivery = await way.deliver(batches[number])
        assert isinstance(delivery, Answered), delivery

    return await closed_loop(batches, [send] * clients)


def _batch(new_id: Ids, size: int) -> Sequence[Envelope]:
    now = _CLOCK.now()
    keys = [new_id() for _ in range(size)]
    return [
        Envelope(
            id=key,
            source=TALKER,
            type="talker.noted.v1",
            key=key,
            time=now,
            data=orjson.dumps({"key": key, "text": _TEXT}),
            due=now,
        )
        for key in keys
    ]
