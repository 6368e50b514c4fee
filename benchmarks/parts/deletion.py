"""How many articles are deleted a second, how long one takes, and what it costs, in every way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.blog import services
from benchmarks.blog.services import Services
from benchmarks.contenders.deletions import CONTENDERS, Contender, Deleter
from benchmarks.contenders.installed import Missing
from benchmarks.figures import Figures
from benchmarks.measuring import Load, median, percentile
from benchmarks.names import ALL, DELETION, P50, P99, PROCESSOR, RATE, row
from benchmarks.places import Place
from benchmarks.processes import used_by

STEPS = 4
_AT_LEAST = 24
_WARM_UP = 24
"""How many articles are deleted in each way before anything is measured."""


@dataclass
class Way:
    """What was measured of one way to delete, at one number of clients, over all rounds."""

    loads: list[Load] = field(default_factory=list)
    processor: dict[str, float] = field(default_factory=dict)
    """Seconds, by process; the load generator is `clients`."""

    def into(self, figures: Figures, place: str, which: str) -> None:
        """Add a rate and milliseconds to that row of the deletions; and to that of the processor
        time the milliseconds for one deletion by each process, and of all but the clients."""
        latencies = [it for load in self.loads for it in load.latencies]
        figures.add(
            (place, DELETION, which),
            {
                RATE: median([load.rate for load in self.loads]),
                P50: percentile(latencies, 0.5) * 1000,
                P99: percentile(latencies, 0.99) * 1000,
            },
        )
        spent = {name: it / len(latencies) * 1000 for name, it in self.processor.items()}
        servers = sum(it for name, it in spent.items() if name != "clients")
        figures.add((place, PROCESSOR, which), {ALL: servers, **spent})


async def measure(
    place: Place,
    figures: Figures,
    concurrent: Sequence[int],
    deletions: int,
    rounds: int,
    contenders: Sequence[Contender] = CONTENDERS,
) -> None:
    """Let each contender delete articles, in turns: `deletions` in a round by sagas at 64 clients,
    and as many by others as take about as long. Each is started for its turn alone."""
    ways = {(it.name, clients): Way() for it in contenders for clients in concurrent}
    async with sets(place, contenders) as both:
        for _ in range(rounds):
            for contender in contenders:
                if place.is_sqlite and not contender.runs_on_sqlite:
                    continue
                if contender.name in figures.skipped:
                    continue
                blog = both[contender.is_ordinary]
                try:
                    async with contender.running(blog, place, max(concurrent)) as deleter:
                        bench = _Bench(place, blog, deleter)
                        await bench.warm_up()
                        for clients in concurrent:
                            count = round(deletions * contender.share * (clients / 64) ** 0.5)
                            way = ways[contender.name, clients]
                            await bench.delete(way, clients, max(_AT_LEAST, clients, count))
                except Missing as error:
                    figures.skipped[contender.name] = str(error)
    for (name, clients), way in ways.items():
        if way.loads:
            way.into(figures, place.name, row(name, clients))


@asynccontextmanager
async def sets(
    place: Place, contenders: Sequence[Contender]
) -> AsyncIterator[dict[bool, Services]]:
    """The services with list handlers (False), and those with ordinary ones (True) where a
    contender wants them."""
    async with services.running(place.fresh, place.folder) as lists:
        if any(it.is_ordinary for it in contenders):
            async with services.running(place.fresh, place.folder, ordinary=True) as ordinary:
                yield {False: lists, True: ordinary}
        else:
            yield {False: lists}


class _Bench:
    """Measures one contender that runs."""

    def __init__(self, place: Place, blog: Services, deleter: Deleter) -> None:
        self._blog = blog
        self._deleter = deleter
        self._processes = {**blog.pids, **deleter.processes}
        if place.server is not None:
            self._processes["PostgreSQL"] = place.server.pid

    async def warm_up(self) -> None:
        await self._deleter.delete(await self._blog.publish(_WARM_UP), _WARM_UP // 2)

    async def delete(self, way: Way, clients: int, count: int) -> None:
        articles = await self._blog.publish(count)
        before = used_by(self._processes)
        way.loads.append(await self._deleter.delete(articles, clients))
        for name, seconds in used_by(self._processes).items():
            way.processor[name] = way.processor.get(name, 0) + seconds - before[name]
        await self._blog.until_idle()
        if not await self._blog.is_gone(articles[-1]):
            raise RuntimeError(f"article {articles[-1]} was deleted, and is still there")
