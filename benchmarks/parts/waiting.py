"""The memory and the start of an orchestrator with runs that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import orjson

from benchmarks.blog import services
from benchmarks.blog.services import Services
from benchmarks.figures import Figures
from benchmarks.names import MEMORY, WAITING, with_runs
from benchmarks.places import Place
from benchmarks.processes import megabytes
from benchmarks.seeding import copy_runs, tidy
from tests.support.processes.waiting import until

_JSON = {"content-type": "application/json"}
_WATCHED = 10.0
_PAUSE = 0.1
_SILENT_WITHIN = 30.0


async def measure(place: Place, figures: Figures, counts: Sequence[int] = (1, 100_000)) -> None:
    """With so many runs that wait for a participant which is away: seconds from the start of the
    orchestrator until it is ready, and the most memory that it had within 10 s from then."""
    async with services.running(place.fresh, place.folder) as blog:
        run = await _waiting_run(blog)
        await blog.children["orchestrator"].stop()
        engine, there = blog.engines["orchestrator"], 1
        for count in counts:
            await copy_runs(engine, run, count - there, histories=(1, 2))
            await tidy(engine)
            there = count
            began = time.monotonic()
            child = await services.start(blog.blog, "orchestrator")
            try:
                await child.ready()
                values = {"seconds to start": time.monotonic() - began}
                values[MEMORY] = await _most_memory(child.pid)
                figures.add((place.name, WAITING, with_runs(count)), values)
            finally:
                await child.stop()


async def _waiting_run(blog: Services) -> str:
    article = (await blog.publish(1))[0]
    await blog.children["articles"].stop()
    connection = (await blog.connect("orchestrator", 1))[0]
    body = orjson.dumps({"article_id": article})
    answer = await connection.request("POST", "/sagas/delete-article", _JSON, body)
    run: str = orjson.loads(answer.body)["id"]

    async def silent() -> bool:
        # What it could not deliver it gives back to the table.
        metrics = (await connection.request("GET", "/metrics", {})).body.decode()
        return 'sagabox_relay_delivery_seconds_count{destination="articles"' in metrics

    await until(silent, _SILENT_WITHIN, what="the orchestrator knows that articles is away")
    await connection.close()
    return run


async def _most_memory(pid: int) -> float:
    most, end = 0.0, time.monotonic() + _WATCHED
    while time.monotonic() < end:
        most = max(most, megabytes(pid))
        await asyncio.sleep(_PAUSE)  # it is watched for a while
    return most
