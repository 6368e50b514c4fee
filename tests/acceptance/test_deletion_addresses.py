"""Deletions end rightly while instances behind one name die, hang, move, come back and turn out to
be strangers, and while the name server lies or is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import dns.rcode
import pytest

from tests.support.blog.agreement import assert_agreement, until_all_is_sent
from tests.support.blog.blog import comments_schema
from tests.support.blog.deleting import Deletions
from tests.support.blog.instances import SEVERAL, Instances, instances
from tests.support.databases.databases import Database
from tests.support.discovery.dns_server import failing, silence
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.saga_writers import rows
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import free_port, until
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.timeout(400)]
IN_EVERY_RUN, IN_SOAK = 20, 200


@pytest.fixture
async def several(blog: RunningBlog) -> AsyncIterator[Instances]:
    blog.settings |= {"SAGABOX_LEASE": "3", "SAGABOX_DELIVERY_TIMEOUT": "1"}
    async with instances(blog) as made:
        yield made


async def dies_and_comes_back(it: Instances) -> None:
    for name in SEVERAL:
        await it.child(name).kill()
        await asyncio.sleep(0.3)  # deletions go on without it
        await it.restart(name)


async def moves(it: Instances) -> None:
    for name in SEVERAL:
        old = [label for label in it.blog.children if label.startswith(f"{name}-")][-1]
        await it.move(name, old)


async def hangs(it: Instances) -> None:
    for name in SEVERAL:
        label = [label for label in it.blog.children if label.startswith(f"{name}-")][-1]
        it.child(label).freeze()
        await asyncio.sleep(1.5)  # longer than a delivery may take
        it.child(label).thaw()


async def is_told_where_nothing_is(it: Instances) -> None:
    for name in SEVERAL:
        right = it.ports[name]
        it.tell(name, [free_port(), *right, it.first_port("orchestrator")])
        await asyncio.sleep(1.5)  # the lie is heard
        it.tell(name, right)


async def is_told_by_none(it: Instances) -> None:
    rightly = it.names.wire
    for wire in (failing(dns.rcode.NXDOMAIN), silence):
        it.names.wire = wire
        label = [label for label in it.blog.children if label.startswith("comments-")][-1]
        await it.child(label).kill()
        await asyncio.sleep(1.2)  # the lie is heard
        await it.restart(label)
    it.names.wire = rightly


TROUBLES: Mapping[str, Callable[[Instances], Awaitable[None]]] = {
    "an instance dies and comes back": dies_and_comes_back,
    "an instance moves": moves,
    "an instance hangs": hangs,
    "names lead where nothing is, and to another service": is_told_where_nothing_is,
    "the name server denies them, or is away": is_told_by_none,
}


async def a_stranger_is_among_them(it: Instances, stranger: Database) -> None:
    label = await it.add("comments", database_url=stranger.url)
    await it.until_seen("comments", it.child(label).spec.url)


async def under(
    trouble: Callable[[Instances], Awaitable[None]], several: Instances, count: int
) -> None:
    """So many deletions, while that happens."""
    deletions = Deletions(several.blog)
    await deletions.prepare(count)
    await asyncio.gather(deletions.ask_all_at_once(), trouble(several))
    await deletions.assert_ended_rightly()


async def all_kinds(several: Instances, stranger: Database, count: int, tally: Count) -> None:
    """Each kind of trouble, the stranger last; then the databases agree, and it got nothing."""
    await several.start_all()
    for trouble in TROUBLES.values():
        await under(trouble, several, count)
    await a_stranger_is_among_them(several, stranger)
    await under(dies_and_comes_back, several, count)

    async def is_found_out() -> bool:
        # It says who it is when it is asked; it may have been too busy to answer until now.
        await several.blog.until_ended(await several.blog.delete(await several.blog.publish()))
        seen = (await several.seen("comments"))["addresses"]
        return [it["state"] for it in seen].count("stranger") == 1

    await until(is_found_out, deadline=30, what="the stranger is known for one")
    await until_all_is_sent(several.blog.databases)
    await assert_agreement(several.blog.databases)
    assert rows(stranger, "SELECT count(*) FROM inbox")[0][0] == 0
    tally("deletions with several instances behind one name", count * (len(TROUBLES) + 1))


async def test_p4_p9_deletions_end_rightly_under_six_kinds_of_trouble_with_several_instances(
    several: Instances, database_factory: DatabaseFactory, count: Count
) -> None:
    await all_kinds(several, database_factory(comments_schema), IN_EVERY_RUN, count)
    seen = (await several.seen("comments"))["addresses"]
    # The one that came back last may still be left out, until there is something to send.
    assert sum(it["requests"] > 0 for it in seen if it["state"] != "stranger") == 2


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_p4_p9_ten_times_as_many_deletions_end_rightly_with_several_instances(
    several: Instances, database_factory: DatabaseFactory, count: Count
) -> None:
    await all_kinds(several, database_factory(comments_schema), IN_SOAK, count)
