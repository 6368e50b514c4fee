"""A round: people use the blog, several things go wrong at once, then all heals, and everything
that was accepted must end and be as it should."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

from tests.support.blog.agreement import assert_agreement, until_all_is_sent
from tests.support.blog.deleting import until_all_have_ended
from tests.support.blog.soak_report import SoakReport
from tests.support.blog.traffic import Traffic, wrong_with
from tests.support.databases.postgres import PostgresServer
from tests.support.faults.chaos import World, world
from tests.support.orchestrator.saga_writers import assert_histories_are_whole
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import BUSY, until
from tests.support.repository.reporting import Count

DEADLINE = 100.0
"""Seconds for the healing of a round, on a machine that has nothing else to do."""


async def play(
    all_: World, report: SoakReport, faults: Sequence[str], *, people: int = 4, at_once: int = 3
) -> None:
    """These faults, so many at once, and what has come of it."""
    traffic, stop = Traffic(all_.blog, all_.chance), asyncio.Event()
    using = asyncio.create_task(traffic.run(stop, people, pause=0.3))
    waiting = [*faults]

    async def trouble() -> None:
        while waiting:
            await asyncio.sleep(all_.chance.random())
            if waiting:
                await all_.inject(waiting.pop())

    await asyncio.gather(*(trouble() for _ in range(at_once)))
    all_.heal()
    healed = time.monotonic()
    # Where the troubles took all the time that there was. Without them the report says so.
    with contextlib.suppress(AssertionError):
        await until(traffic.has_both_ends, DEADLINE / BUSY, "deletions of both kinds are asked for")
    stop.set()
    await using
    all_.check_that_all_run()
    found = [*all_.violations, *traffic.mistakes, *await _wrong(all_, report, traffic)]
    all_.violations.clear()
    report.violations += [f"round {report.rounds} {faults}: {it}" for it in found]
    report.recoveries.append(time.monotonic() - healed)
    report.rounds += 1
    report.faults = Counter(all_.injected)
    report.answers += Counter(traffic.answers)


async def _wrong(all_: World, report: SoakReport, traffic: Traffic) -> list[str]:
    """What must not be, when everything has healed."""
    blog, found = all_.blog, []
    end = time.monotonic() + DEADLINE * BUSY

    def left() -> float:
        return max(10.0, (end - time.monotonic()) / BUSY)

    for life in traffic.lives:
        status, wrong = await wrong_with(blog, life, left())
        report.ends[status] += 1
        if wrong:
            found.append(f"article {life.article}: {wrong}; {life}")
    try:
        await until_all_have_ended(blog, left())
        await until_all_is_sent(blog.databases, left())
        await assert_agreement(blog.databases)
        assert_histories_are_whole(blog.databases["orchestrator"])
        all_.writers.assert_only_holders_wrote(all_of_them=False)
    except AssertionError as error:
        found.append(" ".join([str(error), *getattr(error, "__notes__", ())]))
    return found


def tally(report: SoakReport, count: Count) -> None:
    """For the end of the test run."""
    count("faults of real processes, databases and networks", report.faults.total())
    count("sagas of real processes under these faults", report.ends.total())


@asynccontextmanager
async def scenario(
    blog: RunningBlog, server: PostgresServer, count: Count
) -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Gives a function that plays a round of the given faults; at the end nothing may be wrong."""
    report = SoakReport(seed=1)
    async with world(blog, server, Random(report.seed)) as all_:

        async def round_of(*faults: str, at_once: int = 1) -> World:
            await play(all_, report, faults, at_once=at_once)
            return all_

        yield round_of
    tally(report, count)
    assert report.violations == [], report.text()
    assert report.ends["COMPLETED"] > 0, report.text()
    assert report.ends["COMPENSATED"] > 0, report.text()
