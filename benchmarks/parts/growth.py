"""Whether a list page, a start and a run take longer when a million runs have ended."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import orjson

from benchmarks.blog import services
from benchmarks.blog.deleting import BySaga
from benchmarks.blog.services import Services
from benchmarks.figures import Figures
from benchmarks.measuring import percentile
from benchmarks.names import GROWTH, RUN_COUNTS, with_runs
from benchmarks.places import Place
from benchmarks.seeding import copy_runs, tidy
from orchestrator.tables import PLAIN
from tests.support.processes.waiting import until

_PAGE = "/sagas?limit=50"
_JSON = {"content-type": "application/json"}
_FIRST_AND_LAST = (1, 10)
_ENDED_WITHIN = 60.0
_WARM_UP = 16


async def measure(
    place: Place, figures: Figures, times: int, counts: Sequence[int] = RUN_COUNTS
) -> None:
    """The p50 of each, one at a time and `times` often, with so many runs that have ended. Of a
    run's history its first and its last line are there."""
    async with services.running(place.fresh, place.folder) as blog:
        connection = (await blog.connect("orchestrator", 1))[0]
        await BySaga(connection)((await blog.publish(1))[0])
        page = orjson.loads((await connection.request("GET", _PAGE, {})).body)
        await connection.close()
        ended, there = page["items"][0]["id"], 1 + 2 * _WARM_UP
        await _timed(blog, _WARM_UP)
        engine = blog.engines["orchestrator"]
        for count in counts:
            await copy_runs(engine, ended, count - there, histories=_FIRST_AND_LAST)
            await tidy(engine)
            there = count
            for what, seconds in (await _timed(blog, times)).items():
                value = percentile(seconds, 0.5) * 1000
                figures.add((place.name, GROWTH, what), {with_runs(count): value})
            there += 2 * times


async def _timed(blog: Services, times: int) -> dict[str, list[float]]:
    articles = await blog.publish(2 * times)
    connection = (await blog.connect("orchestrator", 1))[0]

    async def read(_article: str) -> None:
        answer = await connection.request("GET", _PAGE, {})
        if answer.status != 200:
            raise RuntimeError(f"GET {_PAGE} was answered {answer.status}")

    async def start(article: str) -> None:
        body = orjson.dumps({"article_id": article})
        answer = await connection.request("POST", "/sagas/delete-article", _JSON, body)
        if answer.status != 202:
            raise RuntimeError(f"the start was answered {answer.status}: {answer.body!r}")

    runs = await _each(articles[:times], BySaga(connection))
    pages = await _each(articles[:times], read)
    starts = []
    for article in articles[times : 2 * times]:
        starts += await _each([article], start)
        await until(lambda: _all_ended(blog), _ENDED_WITHIN, what="the run has ended")
    await connection.close()
    return {"list page": pages, "start": starts, "run": runs}


async def _all_ended(blog: Services) -> bool:
    return await blog.count("orchestrator", PLAIN.saga, PLAIN.has_begun) == 0


async def _each(articles: Sequence[str], act: Callable[[str], Awaitable[None]]) -> list[float]:
    seconds = []
    for article in articles:
        began = time.perf_counter()
        await act(article)
        seconds.append(time.perf_counter() - began)
    return seconds
