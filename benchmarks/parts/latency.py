"""How long an event takes from its commit to its handler, across processes."""

from __future__ import annotations

import asyncio
import random

from benchmarks.figures import Figures
from benchmarks.hearing import pair
from benchmarks.hearing.pair import Pair
from benchmarks.hearing.said import Said, Write, beside, waking
from benchmarks.hearing.services import TALKER
from benchmarks.http_client import Connection
from benchmarks.measuring import closed_loop, percentile
from benchmarks.names import IDLE, LATENCY, P50, P99, UNDER_LOAD
from benchmarks.places import Place
from outbox.coordination.bell import Bell

_WRITERS = 8
_LOUDER = 50
"""How many events are written under load, for each one that is written alone."""
_SEED = 1


async def measure(place: Place, figures: Figures, times: int) -> None:
    """`times` events, each alone: written by a process beside the sending one, which wakes that
    as each process of a service does, and by the sending one itself; then many that are written by
    8 at once, beside it."""
    bell = Bell()
    async with pair.running(place) as services, waking(services, bell):
        said = Said(services)
        by_another, within = beside(services, bell), _within(services)
        rests = random.Random(_SEED)
        rows: dict[str, list[float]] = {}
        for row, write in ((IDLE, by_another), ("idle, written by the service itself", within)):
            for _ in range(times):
                key = await said.write(write)
                await said.until_heard()
                rows.setdefault(row, []).append((await said.latencies([key]))[0])
                # So that it does not always come at the same moment of the relay's rest.
                await asyncio.sleep(rests.uniform(0, 1))
        keys: list[str] = []

        async def loud(_: str) -> None:
            keys.append(await said.write(by_another))

        await closed_loop(map(str, range(_LOUDER * times)), [loud] * _WRITERS)
        await said.until_heard()
        rows[UNDER_LOAD] = await said.latencies(keys)
    for row, latencies in rows.items():
        values = {P50: percentile(latencies, 0.5) * 1000, P99: percentile(latencies, 0.99) * 1000}
        figures.add((place.name, LATENCY, row), values)


def _within(services: Pair) -> Write:
    async def write(key: str) -> None:
        connection = await Connection.open(services.url(TALKER))
        answer = await connection.request("POST", f"/notes/{key}", {})
        await connection.close()
        if answer.status != 201:
            raise RuntimeError(f"POST /notes/{key} was answered {answer.status}")

    return write
