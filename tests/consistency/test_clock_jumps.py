"""The clock of one orchestrator jumps by an hour, forward and back, while another one keeps time.

Until it is set right no service accepts its messages, so it is as if it had been cut off; it
writes nothing that is not its own, no deadline passes early, and nothing is lost.
"""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from orchestrator.cli.processes.child import Child
from outbox.clock import SystemClock
from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions, start_all
from tests.support.orchestrator.saga_writers import SECOND, Writers
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

pytestmark = [pytest.mark.timeout(900), pytest.mark.databases("postgresql")]
_LIBRARY = "faketime/libfaketime.so.1"


@pytest.fixture
def library() -> Path:
    """The library that tells a process another time."""
    found = sorted(Path("/usr/lib").glob(f"*/{_LIBRARY}"))
    if not found:
        pytest.skip("libfaketime is not installed; `.ci/run` installs Debian's package faketime")
    return found[0]


async def until_ahead(child: Child, seconds: int) -> None:
    """Wait until a service's clock is ahead of this one by so much."""
    async with httpx.AsyncClient(base_url=child.spec.url, timeout=60, trust_env=False) as client:

        async def is_ahead() -> bool:
            told = parsedate_to_datetime((await client.get("/livez")).headers["date"])
            ahead = told.timestamp() - SystemClock().now().timestamp()
            return abs(ahead - seconds) < 60

        await until(is_ahead, deadline=20, what=f"its clock is {seconds} s ahead")


async def until_second_writes(blog: RunningBlog, writers: Writers) -> None:
    """Ask for deletions until the second node has written another run: which of the two has the
    shard of one is chance."""
    known = writers.wrote(SECOND)

    async def it_did() -> bool:
        await blog.delete(await blog.publish())
        return bool(writers.wrote(SECOND) - known)

    await until(it_did, deadline=60, what="the second one writes another run")


async def test_p7_deletions_end_rightly_while_the_clock_of_one_of_two_nodes_jumps_by_an_hour(
    blog: RunningBlog, tmp_path: Path, library: Path
) -> None:
    blog.settings |= {"SAGABOX_LEASE": "3", "SAGABOX_DELIVERY_TIMEOUT": "0.7"}
    writers = Writers(blog.databases["orchestrator"])
    offset = tmp_path / "offset"
    offset.write_text("+0s\n", "utf-8")
    await start_all(blog)
    writers.pids["postgres"].add(blog.children["orchestrator"].pid)
    second = await blog.execute_second(
        writers.second_url,
        {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        },
    )
    writers.pids[SECOND].add(second.pid)
    await until(lambda: len(writers.shards_of(second.pid)) == 8, 60, "it has half of the shards")
    every = []
    for jump in ("+3600s", "-3600s", "+0s"):
        deletions = Deletions(blog)
        await deletions.prepare(8)
        # A node that was slow for a moment may have lost them, and gets some again.
        await until(lambda: bool(writers.shards_of(second.pid)), 60, "it has shards")
        asking = asyncio.create_task(deletions.ask())
        offset.write_text(f"{jump}\n", "utf-8")
        await until_ahead(second, int(jump.removesuffix("s")))
        await asking
        every.append(deletions)
        await until_second_writes(blog, writers)
        # Were the leases counted by its clock, they would be split by now.
        await asyncio.sleep(4)  # longer than its leases
        assert second.running, blog.log("orchestrator-2")
        writers.assert_only_holders_wrote()
    for deletions in every:
        await deletions.assert_ended_rightly(deadline=120)
    writers.assert_only_holders_wrote()
    await assert_agreement(blog.databases)
