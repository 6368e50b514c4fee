"""Deletions end rightly while nodes die or hang, and while the way to the participants loses and
doubles what it carries."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from orchestrator.store.sharding import SHARDS
from tests.support.blog.deleting import Deletions, start_all
from tests.support.faults.http_proxy import HttpProxy, http_proxy
from tests.support.http.servers import Exchange
from tests.support.orchestrator.saga_writers import SECOND, Writers, connect
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

pytestmark = pytest.mark.timeout(400)
FIRST = "postgres"
on_postgresql = pytest.mark.databases("postgresql")
on_sqlite = pytest.mark.databases("sqlite")


async def step(blog: RunningBlog, saga: str, name: str) -> dict[str, Any]:
    shown = await blog.saga(saga)
    assert shown is not None
    found: dict[str, Any] = next(it for it in shown["steps"] if it["name"] == name)
    return found


async def intervene(blog: RunningBlog, saga: str, verb: str, **more: str) -> None:
    asked = {"actor": "ada", "reason": "the threads were spoiled", **more}
    answer = await blog.ask("orchestrator", "POST", f"/sagas/{saga}/{verb}", json=asked)
    assert answer.status_code == 202, answer.text


# Two nodes


@pytest.fixture
async def writers(blog: RunningBlog) -> Writers:
    """Two orchestrators on one database are about to be started, with short leases."""
    blog.settings |= {"SAGABOX_LEASE": "3", "SAGABOX_DELIVERY_TIMEOUT": "0.7"}
    return Writers(blog.databases["orchestrator"])


async def start_two(blog: RunningBlog, writers: Writers) -> None:
    await asyncio.gather(start_all(blog), start_second(blog, writers))
    writers.pids[FIRST].add(blog.children["orchestrator"].pid)
    await until_shared(blog, writers)


async def start_second(blog: RunningBlog, writers: Writers) -> None:
    child = await blog.begin_second(writers.second_url)
    writers.pids[SECOND].add(child.pid)
    await child.ready()


async def until_shared(blog: RunningBlog, writers: Writers) -> None:
    def shared() -> bool:
        children = blog.children["orchestrator"], blog.children["orchestrator-2"]
        return all(len(writers.shards_of(it.pid)) == len(SHARDS) / 2 for it in children)

    await until(shared, deadline=20, what="each orchestrator has half of the shards")


async def until_first_has_all(blog: RunningBlog, writers: Writers) -> None:
    pid = blog.children["orchestrator"].pid
    await until(
        lambda: writers.shards_of(pid) == frozenset(SHARDS),
        deadline=20,
        what="the first orchestrator has all shards",
    )


@on_postgresql
async def test_p4_p7_deletions_go_on_while_one_of_two_orchestrators_is_killed_and_comes_back(
    blog: RunningBlog, writers: Writers
) -> None:
    await start_two(blog, writers)
    deletions = Deletions(blog)

    async def second_works() -> bool:
        # Which of the two has the shard of a run is chance.
        await deletions.prepare(2)
        await deletions.ask()
        return len(writers.wrote(SECOND)) > 3

    await until(second_works, deadline=30, what="the second one works")
    await deletions.prepare(16)
    known = len(deletions.sagas)
    asking = asyncio.create_task(deletions.ask())
    await until(lambda: len(deletions.sagas) > known, what="more are asked for")
    assert not asking.done()
    await blog.children["orchestrator-2"].kill()
    await asking
    await deletions.prepare(8)
    asking = asyncio.create_task(deletions.ask())
    await start_second(blog, writers)
    await asking
    await until_shared(blog, writers)
    await deletions.prepare(8)
    await deletions.ask()
    await deletions.assert_ended_rightly()
    writers.assert_only_holders_wrote()


@on_postgresql
async def test_p7_an_orchestrator_that_hung_past_its_lease_writes_nothing_of_its_old_shards(
    blog: RunningBlog, writers: Writers
) -> None:
    """It hangs in the middle of a commit, with another thing to be done queued behind that; and
    when it wakes up, it is kept for a while from finding out that its lease is gone."""
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(http_proxy(blog.url("comments"), HttpProxy.plainly))
        blog.participants = {"articles": blog.url("articles"), "comments": gate.address}
        # It must lose its lease by hanging, and not before, because the machine is busy.
        blog.settings["SAGABOX_LEASE"] = "9"
        await start_two(blog, writers)
        second = blog.children["orchestrator-2"]
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=second.spec.url, timeout=30, trust_env=False)
        )

        async def tell_second(saga: str, verb: str) -> asyncio.Task[httpx.Response]:
            """Returns once it has left, so that what is asked later comes later."""
            body, has_left = {"reason": "lunch", "actor": "ada"}, asyncio.Event()

            async def note(event: str, _: object) -> None:
                if event == "http11.send_request_body.complete":
                    has_left.set()

            path, traced = f"/sagas/{saga}/{verb}", {"trace": note}
            asking = asyncio.create_task(client.post(path, json=body, extensions=traced))
            await until(has_left.is_set, what=f"the second one is told to {verb}")
            return asking

        deletions = Deletions(blog)

        async def ask_for(count: int) -> str:
            """More deletions, which wait at the gate; the saga of one of them, of the second."""
            gate.is_open = False
            await deletions.prepare(count)
            known = set(deletions.asked)
            await deletions.ask()
            new = set(deletions.asked) - known
            await until(lambda: new & writers.wrote(SECOND), what="the second one has some of them")
            return min(new & writers.wrote(SECOND))

        async def until_closing(saga: str, status: str) -> None:
            async def reached() -> bool:
                return bool((await step(blog, saga, "close thread"))["status"] == status)

            await until(reached, what=f"closing the thread is {status}")

        # One that is paused where it waits for nothing: no process has to write it.
        paused = await ask_for(12)
        await until_closing(paused, "SENT")
        assert (await (await tell_second(paused, "pause"))).status_code == 202
        gate.is_open = True
        await until_closing(paused, "DONE")
        busy = await ask_for(16)
        with connect(blog.databases["orchestrator"]) as holder, holder.transaction():
            holder.execute("SELECT 1 FROM saga WHERE id = %s FOR UPDATE", [busy])
            # An undo takes several statements: one alone would be committed while its node hangs.
            in_hand = await tell_second(busy, "cancel")
            await until(lambda: writers.is_blocked(SECOND), what="the second one is in a commit")
            queued = await tell_second(paused, "resume")
            # What was asked later is answered, so the other has come as far as it can.
            for _ in range(5):
                assert (await client.get(f"/sagas/{paused}")).json()["paused"]
            os.kill(second.pid, signal.SIGSTOP)
        try:
            await until_first_has_all(blog, writers)
            gate.is_open = True
            for saga in {*deletions.asked} - {paused}:
                await blog.until_ended(saga)
            assert busy in writers.wrote(FIRST)
        finally:
            with writers.kept_from_renewing(second.pid):
                os.kill(second.pid, signal.SIGCONT)
                answers = await asyncio.gather(in_hand, queued)
        writers.assert_only_holders_wrote()
        assert [it.status_code for it in answers] == [503, 503]
        await until_shared(blog, writers)
        await intervene(blog, paused, "resume")
        await deletions.prepare(8)
        await deletions.ask()
        await deletions.assert_ended_rightly()
        writers.assert_only_holders_wrote()


@on_sqlite
async def test_a_second_orchestrator_on_sqlite_is_refused_and_the_first_works_on(
    blog: RunningBlog,
) -> None:
    await start_all(blog)
    deletions = Deletions(blog)
    await deletions.prepare(4)
    second = await blog.begin_second(blog.databases["orchestrator"].url)
    asking = asyncio.create_task(deletions.ask())
    assert await asyncio.wait_for(second.wait(), 30) == 2
    told = blog.log("orchestrator-2")
    path = blog.databases["orchestrator"].path
    assert f"error: another orchestrator runs on {path}\n" in told
    assert "next: stop that one, or let both use a PostgreSQL database" in told
    assert "Traceback" not in told
    await asking
    await deletions.assert_ended_rightly()


# A way that doubles and loses


@pytest.mark.parametrize(
    "way", [HttpProxy.twice, HttpProxy.without_every_third_answer], ids=["duplicates", "losses"]
)
async def test_p2_p3_deletions_end_rightly_on_a_way_with(
    blog: RunningBlog, way: Callable[[HttpProxy, Exchange], Awaitable[None]]
) -> None:
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(http_proxy(blog.url(name), way))
            for name in ("articles", "comments")
        }
        blog.participants = {name: proxy.address for name, proxy in proxies.items()}
        await start_all(blog)
        deletions = Deletions(blog)
        await deletions.prepare(8)
        await deletions.ask()
        await deletions.assert_ended_rightly()
        for proxy in proxies.values():
            assert len(proxy.seen) > 3
            # Everything once more, long after it was over, and the last of it first.
            for request in reversed(proxy.seen.copy()):
                assert (await proxy.forward(request)).status_code == 200
        await deletions.assert_ended_rightly()
