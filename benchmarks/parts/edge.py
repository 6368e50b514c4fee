"""What a request costs: one that writes a row, and one command through the receiver."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.blog import services
from benchmarks.blog.services import Services
from benchmarks.contenders.deletions import bare_calls
from benchmarks.figures import Figures
from benchmarks.measuring import Load, median, percentile
from benchmarks.names import EDGE, P50, P99, RATE, at
from benchmarks.places import Place

_WARM_UP = 64


async def measure(
    place: Place, figures: Figures, requests: int, rounds: int, concurrent: Sequence[int] = (1, 64)
) -> None:
    """`POST /comments` by so many clients at once, `requests` in a round by each number of them;
    and at 1 client the commands of deletions, each in a signed request of its own."""
    loads: dict[str, list[Load]] = {}
    async with services.running(place.fresh, place.folder) as blog:
        article = (await blog.publish(1))[0]
        await blog.comment(article, _WARM_UP, 8)
        await _command(blog, place, _WARM_UP // 4)
        for _ in range(rounds):
            for clients in concurrent:
                load = await blog.comment(article, requests, clients)
                loads.setdefault(at("POST /comments", clients), []).append(load)
            loads.setdefault(at("a command", 1), []).append(
                await _command(blog, place, requests // 4)
            )
    for row, measured in loads.items():
        latencies = [it for load in measured for it in load.latencies]
        values = {
            RATE: median([load.rate for load in measured]),
            P50: percentile(latencies, 0.5) * 1000,
            P99: percentile(latencies, 0.99) * 1000,
        }
        figures.add((place.name, EDGE, row), values)


async def _command(blog: Services, place: Place, deletions: int) -> Load:
    """The commands of so many deletions, one after the other."""
    articles = await blog.publish(deletions)
    async with bare_calls(blog, place, 1) as caller:
        load = await caller.delete(articles, 1)
        await blog.until_idle()
        return Load(load.seconds, caller.calls)
