"""What of a group commit depends on the order of its parts, and on what others do meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.commits.items import Begin, Started, Tell
from orchestrator.engine.node import Node
from orchestrator.machine.signals import Pause, Replied, Resume, Terminate
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from outbox.clock import SystemClock
from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.tables import outbox
from outbox.testing import FakeClock
from tests.support.databases.locks import until_it_waits
from tests.support.orchestrator.nodes import make_node, make_ports
from tests.support.orchestrator.trips import BOOKING, Trip

FIRST, SECOND = (compose(1_900_000_000_000, number) for number in (1, 2))
OF_TRIPS = ("trains", "hotels", "payments", "mails")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def commit_what_there_is(node: Node) -> None:
    """Everything that waits in memory and in the database."""
    node.committer.look()
    while await node.committer.run_once():
        pass


def begin_trip() -> tuple[Begin, asyncio.Future[Started]]:
    done: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
    return Begin(FIRST, BOOKING, Trip("one"), done=done), done


async def sent(engine: AsyncEngine, type_: str) -> list[str]:
    """The keys of the messages of this type in the outbox, the oldest first."""
    of_outbox = outbox.c
    query = select(of_outbox.aggregateid).where(of_outbox.type == type_).order_by(of_outbox.seq)
    async with engine.connect() as connection:
        return list((await connection.scalars(query)).all())


# An alias and the end of its run


@pytest.mark.databases("postgresql")
async def test_an_alias_that_is_added_while_its_run_ends_is_told_of_the_end(
    engine: AsyncEngine,
) -> None:
    """The end waits for the alias, and looks for aliases only after it has waited."""
    clock = SystemClock()
    node = make_node(engine, [delete_article], ["articles", "comments"], clock=clock)
    await node.shards.tend_once()
    article = compose(1_900_000_000_000, 3)
    node.committer.put([Begin(FIRST, delete_article, Deletion(article))])
    await commit_what_there_is(node)
    store = make_ports(engine, clock).starts
    async with engine.connect() as another:
        assert await store.active(another, "delete-article", article) == FIRST
        await store.add_alias(
            another,
            SECOND,
            saga_id=FIRST,
            originator="articles",
            reason=None,
            trace=None,
            start_id=None,
            fingerprint=None,
        )
        node.committer.put([Tell(FIRST, Terminate("ada", "enough"))])
        ending = asyncio.create_task(node.committer.run_once())
        await until_it_waits(engine, ending)
        await another.commit()
    async with asyncio.timeout(10):
        await ending
    assert await sent(engine, "orchestrator.saga-ended.v1") == [SECOND]


# Signals


async def test_a_signal_for_a_run_that_begins_in_the_same_commit_comes_after_its_beginning(
    engine: AsyncEngine, clock: FakeClock
) -> None:
    node = make_node(engine, [BOOKING], OF_TRIPS, clock=clock)
    await node.shards.tend_once()
    begin, begun = begin_trip()
    paused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    node.committer.put([begin, Tell(FIRST, Pause("ada", "not yet"), done=paused)])
    await commit_what_there_is(node)
    assert begun.result() == Started(FIRST, is_new=True)
    assert paused.result() is None
    async with engine.connect() as connection:
        assert await connection.scalar(select(tables.saga.c.paused))


async def test_what_a_run_was_told_is_kept_by_the_commit_that_parks_it(
    engine: AsyncEngine, clock: FakeClock
) -> None:
    before = make_node(engine, [BOOKING], OF_TRIPS, clock=clock, owner="before")
    await before.shards.tend_once()
    begin, _ = begin_trip()
    before.committer.put([begin])
    await commit_what_there_is(before)
    await before.shards.leave()
    store = make_ports(engine, clock).signals
    async with engine.begin() as connection:
        command = await connection.scalar(select(outbox.c.id))
        assert command is not None
        reply = Reply(Outcome.DONE, value={"number": "12a"})
        kind, payload = signal_rows.dump(Replied(command, reply))
        await store.add(connection, [(FIRST, shard_of(FIRST), kind, payload)])
    without = make_node(engine, [], OF_TRIPS, clock=clock, owner="without")
    await without.shards.tend_once()
    await commit_what_there_is(without)
    async with engine.connect() as connection:
        assert await connection.scalar(select(tables.saga.c.parked)) is not None
        assert (await connection.scalars(select(tables.saga_signal.c.saga_id))).all() == [FIRST]
    await without.shards.leave()
    after = make_node(engine, [BOOKING], OF_TRIPS, clock=clock, owner="after")
    await after.shards.tend_once()
    await commit_what_there_is(after)
    assert len(await sent(engine, "hotels.reserve-room.v1")) == 1


# Memory


async def test_what_memory_has_of_a_run_counts_no_more_when_its_shard_comes_back(
    engine: AsyncEngine, clock: FakeClock
) -> None:
    first, second = (
        make_node(engine, [BOOKING], OF_TRIPS, clock=clock, owner=name)
        for name in ("first", "second")
    )
    await first.shards.tend_once()
    begin, _ = begin_trip()
    first.committer.put([begin])
    await commit_what_there_is(first)
    await first.shards.leave()
    await second.shards.tend_once()
    second.committer.put([Tell(FIRST, Pause("ada", "not yet"))])
    await commit_what_there_is(second)
    await second.shards.leave()
    await first.shards.tend_once()
    resumed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    # Were the run what it was before, this would be refused, and nothing written that tells it.
    first.committer.put([Tell(FIRST, Resume("ada", "now"), done=resumed)])
    await commit_what_there_is(first)
    assert resumed.result() is None
