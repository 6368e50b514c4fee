"""What a tail tells of an outbox between two looks."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.lanes import BLOCKED
from outbox.operations import tail as tails
from outbox.operations.selection import Selection
from outbox.operations.tail import Move, Tail
from outbox.relay.relay import Relay
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.tables import DEFAULT_TABLES, outbox, outbox_held
from outbox.testing import FakeClock
from tests.support.outbox.letters import a_letter, a_rest, an_id, bury, rest
from tests.support.outbox.relays import FAILED, Destination, commit, drain, make_relay, message

NOW = datetime(2030, 1, 1, tzinfo=UTC)
EVERYTHING = Selection()


async def told(tail: Tail, engine: AsyncEngine) -> list[tuple[str, str]]:
    async with engine.connect() as connection:
        return [(it.move.value, it.id) for it in await tail.look(connection, NOW)]


async def begun(engine: AsyncEngine, selection: Selection = EVERYTHING) -> Tail:
    tail = Tail(DEFAULT_TABLES, selection)
    assert await told(tail, engine) == []
    return tail


async def test_it_tells_what_came_and_what_left_since_the_last_look(engine: AsyncEngine) -> None:
    (before,) = await commit(engine, message("a"))
    tail = await begun(engine)
    first, second = await commit(engine, message("a"), message("b"))
    assert await told(tail, engine) == [("came", first), ("came", second)]
    async with engine.begin() as connection:
        await connection.execute(delete(outbox).where(outbox.c.id.in_([before, first])))
    assert await told(tail, engine) == [("left", before), ("left", first)]
    assert await told(tail, engine) == []


async def test_it_tells_that_a_message_rests_and_then_died_and_not_that_it_left(
    engine: AsyncEngine,
) -> None:
    tail = await begun(engine)
    (id,) = await commit(engine, message("k"))
    assert await told(tail, engine) == [("came", id)]
    clock = FakeClock()
    retry = RetryPolicy(first=1.0, factor=1.0, ceiling=1.0, jitter=0.0, attempts=2)
    relay = make_relay(engine, Destination(answer=lambda _: FAILED), clock=clock, retry=retry)
    await relay.run_once()
    assert await told(tail, engine) == [("rests", id)]
    async with engine.begin() as connection:
        await connection.execute(
            update(outbox_held).values(next_at=datetime(2001, 1, 1, tzinfo=UTC))
        )
    await drain(relay)
    assert await told(tail, engine) == [("died", id)]


async def test_it_tells_that_a_message_blocks_its_key_and_not_that_the_parked_ones_left(
    engine: AsyncEngine,
) -> None:
    tail = await begun(engine)
    first, _ = await commit(engine, message("k"), message("k"))
    assert [move for move, _ in await told(tail, engine)] == ["came", "came"]
    once = RetryPolicy(first=1.0, factor=1.0, ceiling=1.0, jitter=0.0, attempts=1)
    relay: Relay = make_relay(
        engine,
        Destination(answer=lambda _: FAILED),
        retry=once,
        on_exhaustion=OnExhaustion.BLOCK_KEY,
    )
    await drain(relay)
    assert await told(tail, engine) == [("blocks", first)]
    assert await told(tail, engine) == []


async def test_only_what_fits_the_filters_is_told(engine: AsyncEngine) -> None:
    tail = await begun(engine, Selection(destination="crm", key="k"))
    await commit(engine, message("k"), destination="mail")
    await commit(engine, message("other"), destination="crm")
    (id,) = await commit(engine, message("k"), destination="crm")
    await bury(engine, a_letter(1), a_letter(2, destination="crm", aggregateid="k"))
    await rest(engine, a_rest("k"), a_rest("k", destination="crm", next_at=BLOCKED))
    assert await told(tail, engine) == [("died", an_id(2)), ("blocks", an_id(1)), ("came", id)]


async def test_only_messages_of_the_chosen_type_are_said_to_rest(engine: AsyncEngine) -> None:
    bucket, envelope = message("k")
    other = await begun(engine, Selection(type="articles.never-published"))
    tail = await begun(engine, Selection(type=envelope.type))
    (id,) = await commit(engine, (bucket, envelope))
    await make_relay(engine, Destination(answer=lambda _: FAILED)).run_once()
    assert await told(tail, engine) == [("rests", id), ("came", id)]
    assert await told(other, engine) == []


async def test_what_died_for_one_destination_and_left_for_another_is_told_of_both(
    engine: AsyncEngine,
) -> None:
    both = message("k")
    (id,) = await commit(engine, both, destination="crm")
    await commit(engine, both, destination="mail")
    tail = await begun(engine)
    async with engine.begin() as connection:
        await connection.execute(delete(outbox))
    await bury(engine, a_letter(1, id=id, destination="crm"))
    async with engine.connect() as connection:
        happened = await tail.look(connection, NOW)
    assert [(it.move, it.destination) for it in happened] == [
        (Move.DIED, "crm"),
        (Move.LEFT, "mail"),
    ]


async def test_of_many_messages_the_newest_are_compared_and_old_ones_are_no_news(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "MOST", 3)
    ids = await commit(engine, *(message("k") for _ in range(5)))
    tail = await begun(engine)
    async with engine.begin() as connection:
        await connection.execute(delete(outbox).where(outbox.c.id == ids[4]))
    # The second of them is among the newest now, and has been there all the time.
    assert await told(tail, engine) == [("left", ids[4])]
    (new,) = await commit(engine, message("k"))
    assert await told(tail, engine) == [("came", new)]


async def test_what_fell_out_of_the_comparison_and_stays_is_not_said_to_have_left(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "MOST", 2)
    await commit(engine, message("k"), message("k"))
    tail = await begun(engine)
    new = await commit(engine, message("k"), message("k"))
    assert await told(tail, engine) == [("came", id) for id in new]
    assert all(move is not Move.LEFT for move, _ in await told(tail, engine))
