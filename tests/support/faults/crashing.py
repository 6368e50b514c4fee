"""Services that die at named points, are started again, and what must have come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import httpx

import articles
import comments
import orchestrator
import outbox
from orchestrator.cli.processes.child import Child
from outbox.testing import crash_points
from tests.support.blog.agreement import until_all_is_sent
from tests.support.blog.deleting import SERVICES, Deletions, start_all
from tests.support.processes.preparing import noting_crash_points
from tests.support.processes.running import RunningBlog

POINTS = frozenset(crash_points(outbox, orchestrator, articles, comments))
"""All crash points there are, from the source."""
THROUGH_A_BROKER = frozenset({"consumer: after handling, before done", "consumer: after done"})
"""Those that are reached where messages go through a broker."""
ELSEWHERE = THROUGH_A_BROKER | frozenset(
    {
        "held: after handling, before settle",
        "held: after settle",
        "inbox: completed, before commit",
        "outside: after before, before the call",
        "outside: after the call, before its result",
        "outside: after its result, before the reply",
        "retention: after commit",
        "retention: archived, before removal",
        "retention: file noted, before it is written",
        "retention: file written, before its manifest",
        "retention: file written, before its name",
        "retention: removed, before commit",
    }
)
"""Those of answers that come later, which the blog has not, and of what a consumer holds; tests of
the inbox and of the held table die there. Those that are reached through a broker alone. And those
of retention, which is off in the blog; its own tests die there."""
BY_ITSELF = 3.0
"""Seconds in which a service gets to work on what an earlier run of it has left."""


async def survey(blog: RunningBlog, folder: Path) -> Mapping[str, frozenset[str]]:
    """Which points each service reaches in a deletion and in one that is refused. All run then."""
    notes = {name: folder / f"{name}.points" for name in SERVICES}
    await asyncio.gather(
        *(blog.start(name, extra=noting_crash_points(notes[name])) for name in SERVICES)
    )
    deletions = Deletions(blog)
    await deletions.prepare(2)
    await deletions.ask()
    await deletions.assert_ended_rightly()
    await until_all_is_sent(blog.databases)
    await asyncio.gather(*(blog.children[name].kill() for name in SERVICES))
    await start_all(blog)
    return {name: frozenset(it.read_text("utf-8").splitlines()) for name, it in notes.items()}


async def die(blog: RunningBlog, victim: str, crash: str, deletions: Deletions) -> None:
    """Ask for the deletions while the service is on its way to that crash; it is dead then."""
    child = await blog.start(victim, crash=crash)
    dead = asyncio.create_task(child.wait())
    await deletions.ask_once()
    await work_until_dead(blog, dead)
    assert_killed(blog, victim, child)


async def die_again(blog: RunningBlog, victim: str, crash: str) -> bool:
    """Start it for another crash; whether what was left to be done was enough to get there."""
    child = await blog.start(victim, crash=crash)
    dead = asyncio.create_task(child.wait())
    await asyncio.wait({dead}, timeout=BY_ITSELF)
    by_itself = dead.done()
    await work_until_dead(blog, dead)
    assert_killed(blog, victim, child)
    return by_itself


def assert_killed(blog: RunningBlog, victim: str, child: Child) -> None:
    assert child.ending == "SIGKILL", f"{child.ending}\n{blog.log(victim)}"


async def work_until_dead(blog: RunningBlog, dead: asyncio.Task[int]) -> None:
    """More deletions, until the point is reached as often as it takes."""
    async with asyncio.timeout(90):
        while not dead.done():
            try:
                await blog.delete(await blog.publish())
            except httpx.TransportError:
                await asyncio.wait({dead}, timeout=5)
            await asyncio.wait({dead}, timeout=0.1)
