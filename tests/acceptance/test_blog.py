"""Articles and comments as real processes: killed, flooded, spoken to twice and in disorder."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
import pytest

import articles
import comments
import outbox
from comments.contract import CloseThread, ReopenThread
from outbox.replies import Outcome, Reply
from outbox.testing import crash_points
from tests.support.blog.blog import envelope, new_id
from tests.support.faults.crashing import ELSEWHERE
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

pytestmark = pytest.mark.timeout(400)

# Where each point is reached when an event goes from articles to comments.
VICTIMS = {"outbox": "articles", "relay": "articles", "inbox": "comments"}
POINTS = sorted(crash_points(outbox, articles, comments) - ELSEWHERE)


def test_every_crash_point_has_a_victim() -> None:
    assert POINTS
    assert {point.partition(":")[0] for point in POINTS} == set(VICTIMS)


@pytest.mark.parametrize("victim", ["articles", "comments"])
async def test_events_arrive_once_and_in_order_wherever_a_service_is_killed(
    blog: RunningBlog, victim: str
) -> None:
    """P1, P2 and P6: at every crash point in turn, at its first or second hit."""
    (other,) = {"articles", "comments"} - {victim}
    await asyncio.gather(blog.start(other), blog.start(victim))
    article = await blog.publish()
    points = [point for point in POINTS if VICTIMS[point.partition(":")[0]] == victim]
    assert points
    await blog.children[victim].stop()
    for number, point in enumerate(points):
        child = await blog.start(victim, crash=f"{point}:{number % 2 + 1}")
        await _edit_until_dead(blog, article, asyncio.create_task(child.wait()))
        assert child.ending == "SIGKILL", f"{point}: {child.ending}\n{blog.log(victim)}"
    await blog.start(victim)
    await blog.edit(article)
    version = await blog.version(article)
    await blog.until_known(article, version)
    thread = await blog.thread(article)
    assert (thread["events"], thread["out_of_order"]) == (version, 0)


async def _edit_until_dead(blog: RunningBlog, article: str, dead: asyncio.Task[int]) -> None:
    async with asyncio.timeout(40):
        while not dead.done():
            try:
                await blog.edit(article)
            except httpx.TransportError:
                await asyncio.wait({dead}, timeout=5)
            await asyncio.wait({dead}, timeout=0.1)


async def test_a_relay_that_is_stopped_and_goes_on_disturbs_nothing(blog: RunningBlog) -> None:
    """SIGSTOP and SIGCONT while events flow."""
    await asyncio.gather(*(blog.start(name) for name in ("articles", "comments")))
    article = await blog.publish()
    for _ in range(3):
        await blog.edit(article)
        os.kill(blog.children["articles"].pid, signal.SIGSTOP)
        await asyncio.sleep(0.3)  # real time, for a real process
        os.kill(blog.children["articles"].pid, signal.SIGCONT)
    version = await blog.version(article)
    await blog.until_known(article, version)
    thread = await blog.thread(article)
    assert (thread["events"], thread["out_of_order"]) == (version, 0)


async def test_a_thousand_comments_race_with_the_closing_of_their_thread(
    blog: RunningBlog,
) -> None:
    """P9's half that stands: what was accepted is archived, and comes back, to the last one."""
    await asyncio.gather(*(blog.start(name) for name in ("articles", "comments")))
    article = await blog.publish()
    await blog.until_known(article)
    statuses: list[int] = []
    turns = asyncio.Semaphore(32)
    half = asyncio.Event()

    async def post(number: int) -> None:
        async with turns:
            comment = {"article_id": article, "author": "bob", "content": str(number)}
            statuses.append(
                (await blog.ask("comments", "POST", "/comments", json=comment)).status_code
            )
            if len(statuses) == 300:
                half.set()

    async def close() -> Reply:
        await half.wait()
        return await _send(blog, saga, CloseThread(article))

    saga = new_id()
    closing = asyncio.create_task(close())
    await asyncio.gather(*(post(number) for number in range(1000)))
    closed = await closing
    assert closed.outcome is Outcome.DONE
    assert set(statuses) <= {201, 409}
    accepted = statuses.count(201)
    assert 300 <= accepted < 1000
    assert closed.value == {"comments": accepted}
    assert (await blog.thread(article))["comments"] == 0
    late = {"article_id": article, "author": "bob", "content": "late"}
    assert (await blog.ask("comments", "POST", "/comments", json=late)).status_code == 409
    reopened = await _send(blog, saga, ReopenThread(article))
    assert reopened.value == {"comments": accepted}
    assert (await blog.thread(article))["comments"] == accepted


async def test_a_compensation_that_comes_before_its_action_bars_it(blog: RunningBlog) -> None:
    """P3, over HTTP: the action that comes late is answered "already undone" and does nothing."""
    await asyncio.gather(*(blog.start(name) for name in ("articles", "comments")))
    article = await blog.publish()
    await blog.until_known(article)
    saga, action = new_id(), new_id()
    undo = await _send(blog, saga, ReopenThread(article), undoes=(action,))
    assert undo.outcome is Outcome.NOTHING_TO_UNDO
    late = await _send(blog, saga, CloseThread(article), id=action)
    assert late.outcome is Outcome.ALREADY_UNDONE
    comment = {"article_id": article, "author": "bob", "content": "still open"}
    assert (await blog.ask("comments", "POST", "/comments", json=comment)).status_code == 201


async def test_a_duplicate_gets_the_stored_answer_also_after_a_restart(blog: RunningBlog) -> None:
    """P2, over HTTP and over the death of the process."""
    await asyncio.gather(*(blog.start(name) for name in ("articles", "comments")))
    article = await blog.publish()
    await blog.until_known(article)
    comment = {"article_id": article, "author": "bob", "content": "one"}
    assert (await blog.ask("comments", "POST", "/comments", json=comment)).status_code == 201
    saga, action = new_id(), new_id()
    first = await _send(blog, saga, CloseThread(article), id=action)
    await blog.children["comments"].kill()
    await blog.start("comments")
    second = await _send(blog, saga, CloseThread(article), id=action)
    assert first == second == Reply(Outcome.DONE, value={"comments": 1})


async def test_a_service_that_is_told_to_stop_ends_cleanly(blog: RunningBlog) -> None:
    await asyncio.gather(*(blog.start(name) for name in ("articles", "comments")))
    await blog.publish()
    assert await blog.children["articles"].stop() == 0
    assert await blog.children["comments"].stop() == 0


async def test_a_dead_destination_is_waited_for(blog: RunningBlog) -> None:
    await blog.start("articles")
    article = await blog.publish()
    await until(lambda: "comments takes nothing" in blog.log("articles"), what="it was tried")
    await blog.start("comments")
    await blog.until_known(article)


async def _send(
    blog: RunningBlog,
    saga: str,
    message: CloseThread | ReopenThread,
    *,
    id: str | None = None,
    undoes: tuple[str, ...] = (),
) -> Reply:
    return await blog.tell("comments", envelope(message, saga=saga, id=id, undoes=undoes))
