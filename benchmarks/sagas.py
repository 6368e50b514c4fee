"""How fast sagas are, next to the same steps as plain calls to the same service processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import services
from benchmarks.deleting import STEPS
from benchmarks.measuring import Load, closed_loop, percentile
from benchmarks.services import Client, Services
from orchestrator import tables
from tests.support.databases.databases import Database, Schema

CONCURRENT = (1, 16, 64)
_AT_LEAST = 8
WARM_UP = 32
"""How many articles are deleted in each way before anything is measured."""


@dataclass
class Way:
    """What was measured of one way to delete, at one number of clients, over all rounds."""

    loads: list[Load] = field(default_factory=list)
    processor: dict[str, float] = field(default_factory=dict)
    """Seconds, by process; the load generator is `clients`."""

    @property
    def rate(self) -> float:
        """Deletions a second: the median of the rounds."""
        return statistics.median(load.rate for load in self.loads)

    @property
    def latencies(self) -> Sequence[float]:
        """Of all rounds, in seconds."""
        return [it for load in self.loads for it in load.latencies]

    def milliseconds(self, share: float) -> float:
        """That percentile of the latencies."""
        return percentile(self.latencies, share) * 1000


@dataclass
class Measured:
    """All of it, in one run on one kind of database."""

    sagas: dict[int, Way]
    plain: dict[int, Way]
    calls: list[float] = field(default_factory=list)
    """The seconds of each of the plain calls at 1 concurrent."""
    bare: list[float] = field(default_factory=list)
    """The seconds of a call that inserts one row in one transaction."""
    repeats: int = 0
    """Plain calls that had to be made again."""
    commits: float = 0
    """Of the engine, for each saga at the highest concurrency."""
    requests: float = 0
    """To participants, for each saga there; each is one commit at the participant."""


async def measure(
    fresh: Callable[[Schema], Database],
    folder: Path,
    deletions: int,
    rounds: int,
    concurrent: Sequence[int] = CONCURRENT,
) -> Measured:
    """Delete articles in both ways in turns: `deletions` in a round by sagas at the highest
    concurrency, fewer where fewer run at once, and fewer by plain calls, which take longer."""
    found = Measured({it: Way() for it in concurrent}, {it: Way() for it in concurrent})
    async with services.running(fresh, folder) as running:
        bench = _Bench(running, found)
        await bench.warm_up()
        for _ in range(rounds):
            for clients in concurrent:
                share = clients / max(concurrent)
                await bench.delete_by_sagas(clients, max(_AT_LEAST, round(deletions * share**0.5)))
                await bench.delete_by_calls(
                    clients, max(_AT_LEAST, round(deletions * share**0.5 / 3))
                )
            await bench.call_barely(deletions // 4)
        at_most = max(concurrent)
        done = sum(len(load.latencies) for load in found.sagas[at_most].loads)
        found.commits, found.requests = bench.commits / done, bench.requests / done
    return found


class _Bench:
    """Measures one round of one way, and adds it to what was found."""

    def __init__(self, running: Services, found: Measured) -> None:
        self._running = running
        self._found = found
        self.commits = 0
        self.requests = 0

    async def warm_up(self) -> None:
        articles = await self._running.publish(2 * WARM_UP)
        async with self._running.by_saga(WARM_UP // 2) as clients:
            await closed_loop(articles[:WARM_UP], clients)
        async with self._running.by_calls(WARM_UP // 2, []) as callers:
            await closed_loop(articles[WARM_UP:], callers)

    async def delete_by_sagas(self, clients: int, count: int) -> None:
        highest = clients == max(self._found.sagas)
        articles = await self._running.publish(count)
        before = await self._sent() if highest else (0, 0)
        async with self._running.by_saga(clients) as them:
            await self._delete(self._found.sagas[clients], articles, them)
        after = await self._sent() if highest else (0, 0)
        self.commits += after[0] - before[0]
        self.requests += after[1] - before[1]

    async def delete_by_calls(self, clients: int, count: int) -> None:
        calls: list[float] = []
        articles = await self._running.publish(count)
        # Connected only now: a service closes a connection that rests for long.
        async with self._running.by_calls(clients, calls) as them:
            await self._delete(self._found.plain[clients], articles, them)
            self._found.repeats += sum(it.repeats for it in them)
        if clients == 1:
            self._found.calls += calls

    async def call_barely(self, count: int) -> None:
        article = (await self._running.publish(1))[0]
        self._found.bare += await self._running.bare_calls(article, count)

    async def _sent(self) -> tuple[int, int]:
        # Each group commit leaves its id; they are kept for an hour.
        commits = await self._running.count("orchestrator", tables.saga_batch)
        return commits, await self._running.requests()

    async def _delete(self, way: Way, articles: Sequence[str], clients: Sequence[Client]) -> None:
        async with self._processors(way):
            way.loads.append(await closed_loop(articles, clients))
        await self._running.until_idle()
        if await self._running.exists(articles[-1]):
            raise RuntimeError(f"article {articles[-1]} was deleted, and is still there")

    @asynccontextmanager
    async def _processors(self, way: Way) -> AsyncIterator[None]:
        before = self._used()
        yield
        for name, seconds in self._used().items():
            way.processor[name] = way.processor.get(name, 0) + seconds - before[name]

    def _used(self) -> dict[str, float]:
        return self._running.processor_seconds() | {"clients": time.process_time()}


def show(found: Measured) -> None:
    """Print it, with the goals."""
    print(f"  deleting an article with {services.COMMENTS} comments, {STEPS} steps")
    print(
        "  a plain call is one command in a signed request of its own to POST /messages, answered"
    )
    print("  after its commit; a saga is one POST /sagas/delete-article that waits for the end")
    print(f"  {'concurrent, way':42} {'per s':>9} {'p50 ms':>9} {'p99 ms':>9}")
    for clients, sagas in found.sagas.items():
        plain = found.plain[clients]
        _line(f"{clients:3}  plain calls, one after the other", plain)
        ratio = sagas.rate / plain.rate
        goal = "  (goal >= 20)" if clients == max(found.sagas) else ""
        _line(f"{clients:3}  sagas", sagas, f"{ratio:8.2f} x{goal}")
    one = found.sagas[min(found.sagas)].milliseconds(0.5) / STEPS
    call, bare = percentile(found.calls, 0.5) * 1000, percentile(found.bare, 0.5) * 1000
    print(f"  p50 of one step at 1 concurrent (saga / {STEPS}) {one:26.2f} ms")
    print(
        f"    of a plain call of the same steps {call:36.2f} ms {one / call:8.2f} x  (goal <= 1.3)"
    )
    print(f"    of POST /comments, one row, no inbox {bare:33.2f} ms {one / bare:8.2f} x")
    most = max(found.sagas)
    print(f"  engine's commits for a saga at {most} {found.commits:35.2f}    (goal <= 1)")
    print(f"    and requests to participants (one commit each) {found.requests:19.2f}")
    for name, way in (("saga", found.sagas[most]), ("plain", found.plain[most])):
        done = len(way.latencies)
        used = ", ".join(f"{it} {way.processor[it] / done * 1000:.2f}" for it in way.processor)
        print(f"  processor ms for a deletion at {most}, {name:6} {used}")
    print(f"  plain calls that were turned away and made again: {found.repeats}")


def _line(name: str, way: Way, rest: str = "") -> None:
    p50, p99 = way.milliseconds(0.5), way.milliseconds(0.99)
    print(f"  {name:42} {way.rate:9.1f} {p50:9.2f} {p99:9.2f} {rest}")
