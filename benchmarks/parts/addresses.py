"""Messages to one instance of a service, and to two on one database in turn."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from benchmarks.figures import Figures
from benchmarks.hearing.pair import prepared
from benchmarks.hearing.services import HEARER, TALKER
from benchmarks.measuring import Load, median, percentile
from benchmarks.names import ADDRESSES, ONE_INSTANCE, P50, P99, RATE, ROUND_ROBIN
from benchmarks.places import Place
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.transports.base import Answered
from outbox.transports.http.signing import Keyring
from outbox.transports.http.transport import HttpTransport
from outbox.wire.envelope import Envelope
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port

_BATCH, _AT_ONCE = 100, 8


async def measure(place: Place, figures: Figures, messages: int, rounds: int) -> None:
    """So many messages in a round, by requests of 100, of which 8 are under way."""
    measured: dict[str, list[Load]] = {ONE_INSTANCE: [], ROUND_ROBIN: []}
    async with prepared(place) as pair, AsyncExitStack() as stack:
        second = free_port()
        for port in (None, second):
            child = await pair.start(HEARER, at=port)
            stack.push_async_callback(child.stop)
        ways = {}
        for row, urls in {
            ONE_INSTANCE: [pair.url(HEARER)],
            ROUND_ROBIN: [pair.url(HEARER), f"http://127.0.0.1:{second}"],
        }.items():
            ways[row] = HttpTransport(
                ",".join(urls),
                source=TALKER,
                to=HEARER,
                keys=Keyring.from_text(SECRET),
                clock=SystemClock(),
            )
            stack.push_async_callback(ways[row].aclose)
            await _sent(ways[row], _BATCH * _AT_ONCE)
        for _ in range(rounds):
            for row, way in ways.items():
                measured[row].append(await _sent(way, messages))
    for row, loads in measured.items():
        latencies = [it for load in loads for it in load.latencies]
        values = {
            RATE: median([_BATCH * load.rate for load in loads]),
            P50: percentile(latencies, 0.5) * 1000,
            P99: percentile(latencies, 0.99) * 1000,
        }
        figures.add((place.name, ADDRESSES, row), values)


async def _sent(way: HttpTransport, messages: int) -> Load:
    """The requests for so many messages."""
    new_id, clock = Ids(SystemClock(), os.urandom), SystemClock()
    requests = iter([_batch(new_id, clock) for _ in range(messages // _BATCH)])
    latencies: list[float] = []

    async def send() -> None:
        for envelopes in requests:
            begun = time.perf_counter()
            delivery = await way.deliver(envelopes)
            assert isinstance(delivery, Answered), delivery
            latencies.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(_AT_ONCE)))
    return Load(time.perf_counter() - begun, latencies)


def _batch(new_id: Ids, clock: SystemClock) -> Sequence[Envelope]:
    return [
        Envelope(
            id=(id_ := new_id()),
            source=TALKER,
            type="talker.noted.v1",
            key=id_,
            time=clock.now(),
            data=b'{"key":"%s","text":"%s"}' % (id_.encode(), b"x" * 280),
        )
        for _ in range(_BATCH)
    ]
