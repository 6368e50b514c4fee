"""Several nodes on one PostgreSQL: each has its shards, and takes over what another leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from orchestrator import tables
from orchestrator.engine.settings import EngineSettings
from orchestrator.errors import IllegalSignal, Unavailable, UnknownRun
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Cancel
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store.sharding import SHARDS, shard_of
from orchestrator.store.signal_rows import StoredStart, dump_start
from outbox import tables as library
from outbox.clock import SystemClock
from outbox.ids import compose
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.orchestrator.engines import (
    QUICK,
    Node,
    Scripted,
    half_taken,
    running,
    two_running,
)
from tests.support.orchestrator.trips import BOOKING, Trip
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")


@pytest.fixture
async def nodes(
    database: Database, make_engine: MakeEngine, participants: dict[str, Scripted]
) -> AsyncIterator[list[Node]]:
    engines = [make_engine(database) for _ in range(2)]
    async with two_running(engines, [BOOKING], participants) as started:
        yield started


async def test_a_node_that_comes_gets_half_of_the_shards_from_one_that_has_all(
    database: Database, make_engine: MakeEngine, participants: dict[str, Scripted]
) -> None:
    soon = EngineSettings(relay=replace(QUICK, lease=3.0))
    first, second = [
        running(make_engine(database), [BOOKING], participants, settings=soon) for _ in range(2)
    ]
    async with first as one:
        await until(lambda: len(one.engine.shards) == 16, what="the first has all")
        async with second as other:
            await until(
                lambda: len(one.engine.shards) == len(other.engine.shards) == 8,
                deadline=20,
                what="the shards are shared out evenly",
            )


async def test_two_nodes_share_the_shards_and_every_run_ends_once(
    nodes: list[Node], participants: dict[str, Scripted]
) -> None:
    first, second = nodes
    assert first.engine.shards | second.engine.shards == set(SHARDS)
    assert not first.engine.shards & second.engine.shards
    started = [
        await nodes[number % 2].engine.start(BOOKING, Trip(str(number))) for number in range(60)
    ]
    for each in started:
        await first.until_status(each.instance_id, Status.COMPLETED)
    assert {shard_of(it.instance_id) for it in started[::2]} <= first.engine.shards
    lines = await first.rows(tables.saga_history)
    assert sum(line.happening == "ended" for line in lines) == 60
    for participant in participants.values():
        assert len(participant.seen) == len({it.id for it in participant.seen}) == 60


async def test_a_person_may_ask_any_node(
    nodes: list[Node], participants: dict[str, Scripted]
) -> None:
    first, second = nodes
    participants["hotels"].is_away = True
    started = await first.engine.start(BOOKING, Trip("one"))
    await second.engine.signal(started.instance_id, Cancel("ada", "not this one"))
    participants["hotels"].is_away = False
    await first.until_status(started.instance_id, Status.COMPENSATED)
    with pytest.raises(IllegalSignal) as refused:
        await second.engine.signal(started.instance_id, Cancel("ada", "again"))
    assert refused.value.status == "COMPENSATED"
    unknown = compose(1_700_000_000_000, 1)
    for node in nodes:
        with pytest.raises(UnknownRun):
            await node.engine.signal(unknown, Cancel("ada", "no such run"))
    assert await first.rows(tables.saga_signal) == []


async def test_the_news_for_an_alias_of_another_nodes_shard_is_settled(
    database: Database, make_engine: MakeEngine
) -> None:
    """Its row belongs to the shard of the run that has ended, not to that of the alias."""
    articles, comments = Scripted(), Scripted()
    articles.values["articles.hide-article.v1"] = {"title": "Tides", "version": 1}
    comments.values["comments.close-thread.v1"] = {"comments": 3}
    both = {"articles": articles, "comments": comments}
    article = compose(1_700_000_000_000, 1)
    engines = [make_engine(database) for _ in range(2)]
    async with two_running(engines, [delete_article], both) as (first, second):
        comments.is_away = True
        active = await first.engine.start(delete_article, Deletion(article))
        alias = next(
            it
            for it in (compose(_now(), number) for number in range(100))
            if shard_of(it) in second.engine.shards
        )
        kind, payload = dump_start(
            StoredStart("delete-article", {"article_id": article}, "articles")
        )
        async with first.database.engine.begin() as connection:
            await connection.execute(
                tables.saga_signal.insert().values(
                    shard=shard_of(alias),
                    saga_id=alias,
                    kind=kind,
                    payload=payload,
                    made_at=SystemClock().now(),
                )
            )

        async def has_alias() -> bool:
            return bool(await first.rows(tables.saga_alias))

        await until(has_alias, what="the alias")
        comments.is_away = False
        await first.until_status(active.instance_id, Status.COMPLETED)

        async def is_settled() -> bool:
            return not await first.rows(library.outbox)

        await until(is_settled, what="nothing is left to be sent")
    told = [it for it in articles.seen if it.type == "orchestrator.saga-ended.v1"]
    assert [it.correlation for it in told] == [alias]


def _now() -> int:
    return int(SystemClock().now().timestamp() * 1000)


async def test_a_node_that_dies_is_replaced_when_its_lease_has_run_out(
    database: Database, make_engine: MakeEngine, participants: dict[str, Scripted]
) -> None:
    participants["hotels"].is_away = True
    # As short as the test may take, and long enough for a process that stands still for a while.
    settings = EngineSettings(relay=replace(QUICK, lease=12.0))
    engines = [make_engine(database) for _ in range(2)]
    living, mortal = [
        running(it, [BOOKING], participants, settings=settings, owner=owner)
        for it, owner in zip(engines, ("heir", "mortal"), strict=True)
    ]
    async with AsyncExitStack() as stack:
        async with half_taken(engines[0], settings.relay):
            heir = await stack.enter_async_context(living)
        other = await mortal.__aenter__()
        await until(lambda: len(other.engine.shards) == 8, deadline=20, what="it has half")
        started = await other.engine.start(BOOKING, Trip("one"))
        assert shard_of(started.instance_id) not in heir.engine.shards
        await until(lambda: participants["trains"].seen, what="its first step")
        _let_it_die_with_its_leases(other)
        await mortal.__aexit__(None, None, None)
        participants["hotels"].is_away = False
        await heir.until_status(started.instance_id, Status.COMPLETED, deadline=30)
        await until(lambda: len(heir.engine.shards) == 16, deadline=20, what="it has all again")


def _let_it_die_with_its_leases(node: Node) -> None:
    async def nothing() -> None:
        pass

    node.engine._node.shards.leave = nothing  # type: ignore[method-assign]  # the dead give nothing back


async def test_a_node_without_shards_says_that_it_has_none(
    nodes: list[Node],
) -> None:
    first, _ = nodes
    first.engine._node.shards.forget(frozenset(SHARDS))
    with pytest.raises(Unavailable, match="no part"):
        await first.engine.start(BOOKING, Trip("one"))
