"""Dead letters that are sent again, under their own ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from outbox import dead_letters
from outbox.errors import BelongsToSaga, ForgottenByReceiver, InvalidSelection, NoSuchMessage
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.safe_text import told
from outbox.tables import outbox
from outbox.wire.envelope import from_row, headers_json
from tests.support.databases.databases import Kind
from tests.support.databases.meeting import until_another_waits_for
from tests.support.fixtures import MakeEngine
from tests.support.outbox.envelopes import an_envelope
from tests.support.outbox.letters import (
    NOON,
    a_letter,
    a_rest,
    an_id,
    at,
    bury,
    dead,
    of_saga,
    queue,
    rest,
)
from tests.support.outbox.relays import (
    DONE,
    FAILED,
    Destination,
    commit,
    drain,
    make_relay,
    message,
    run_until,
)


async def test_a_redriven_letter_is_the_same_message_at_the_end_of_its_queue(
    engine: AsyncEngine,
) -> None:
    await bury(engine, a_letter(1), a_letter(2))
    waiting = {name: value for name, value in a_letter(3).items() if name in outbox.c}
    async with engine.begin() as connection:
        await connection.execute(insert(outbox), [waiting])
        assert await dead_letters.redrive(connection, [an_id(1)]) == 1
    last = (await queue(engine))[-1]
    expected = an_envelope(id=an_id(1), key="key-1", time=at(-99))
    assert expected == from_row(
        last["id"],
        last["type"],
        last["aggregateid"],
        last["occurred_at"],
        last["payload"],
        last["headers"],
    )
    assert (last["destination"], last["bucket"]) == ("comments", 17)
    assert last["aggregatetype"] == "articles"
    assert await dead(engine) == {(an_id(2), "comments")}


async def test_letters_that_are_redriven_together_keep_the_order_of_their_making(
    engine: AsyncEngine,
) -> None:
    # They died in another order than they came into being.
    await bury(engine, *(a_letter(n, died_at=at(-n)) for n in range(6)))
    async with engine.begin() as connection:
        assert await dead_letters.redrive(connection, [an_id(n) for n in (3, 1, 5, 1)]) == 3
    assert [row["id"] for row in await queue(engine)] == [an_id(n) for n in (1, 3, 5)]


async def test_an_id_is_redriven_to_each_destination_or_to_the_named_one(
    engine: AsyncEngine,
) -> None:
    for number in (1, 2):
        await bury(engine, a_letter(number), a_letter(number, destination="search"))
    async with engine.begin() as connection:
        assert await dead_letters.redrive(connection, [an_id(1)]) == 2
        assert await dead_letters.redrive(connection, [an_id(2)], destination="search") == 1
    assert await dead(engine) == {(an_id(2), "comments")}
    assert {(row["id"], row["destination"]) for row in await queue(engine)} == {
        (an_id(1), "comments"),
        (an_id(1), "search"),
        (an_id(2), "search"),
    }


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([an_id(1), "x" * 90], InvalidSelection, r"'x{50}' is not the id of a message; give"),
        ([an_id(1), an_id(8)], NoSuchMessage, rf"1 of the 2 messages .* {an_id(8)}; list"),
        ([an_id(1), an_id(2)], NoSuchMessage, rf"are no dead letters for comments.* {an_id(2)}"),
        ([an_id(1), an_id(3)], BelongsToSaga, rf"{an_id(3)} is a command of the saga {an_id(5)}"),
    ],
)
async def test_one_wrong_id_and_nothing_is_redriven(
    engine: AsyncEngine, ids: list[str], error: type[Exception], message: str
) -> None:
    await bury(engine, a_letter(1), a_letter(2, destination="search"), of_saga(3, an_id(5)))
    before = await dead(engine)
    async with engine.begin() as connection:
        with pytest.raises(error, match=message):
            await dead_letters.redrive(connection, ids, destination="comments")
    assert await dead(engine) == before
    assert not await queue(engine)


async def test_ids_that_are_none_or_too_many_are_refused(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for ids in ([], [an_id(n) for n in range(1001)]):
            with pytest.raises(InvalidSelection, match=f"{len(ids)} ids .* between 1 and 1000"):
                await dead_letters.redrive(connection, ids)
        with pytest.raises(InvalidSelection, match="is not the id"):
            await dead_letters.redrive(connection, [an_id(1).upper()])


async def test_a_rolled_back_redrive_changes_nothing(engine: AsyncEngine) -> None:
    await bury(engine, a_letter(1))
    async with engine.connect() as connection:
        await dead_letters.redrive(connection, [an_id(1)])
        await connection.rollback()
    assert await dead(engine) == {(an_id(1), "comments")}
    assert not await queue(engine)


async def test_everything_of_a_destination_is_redriven_in_bounded_steps(
    engine: AsyncEngine,
) -> None:
    await bury(engine, *(a_letter(n) for n in range(5)), a_letter(9, destination="search"))
    steps = []
    async with engine.begin() as connection:
        while moved := await dead_letters.redrive_all(connection, "comments", limit=2):
            steps.append(moved)
    assert steps == [2, 2, 1]
    assert [row["id"] for row in await queue(engine)] == [an_id(n) for n in range(5)]
    assert await dead(engine) == {(an_id(9), "search")}


async def test_redriving_everything_leaves_the_commands_of_sagas_to_them(
    engine: AsyncEngine,
) -> None:
    # These only look like a saga's: a reply without a saga, an event within one, a quoting title.
    others = [
        an_envelope(reply_to="articles"),
        an_envelope(correlation=an_id(5)),
        an_envelope(source='"replyto":"correlationid":'),
    ]
    await bury(engine, *(of_saga(n) for n in range(3)))
    await bury(engine, *(a_letter(5 + n, headers=headers_json(e)) for n, e in enumerate(others)))
    async with engine.begin() as connection:
        assert await dead_letters.redrive_all(connection, "comments", limit=3) == 3
        assert await dead_letters.redrive_all(connection, "comments", limit=3) == 0
    assert await dead(engine) == {(an_id(n), "comments") for n in range(3)}


async def test_two_people_who_redrive_the_same_letters_send_each_once(
    engine: AsyncEngine, make_engine: MakeEngine, database: Any
) -> None:
    await bury(engine, *(a_letter(n) for n in range(20)))
    other = make_engine(database)
    begun = asyncio.Event()

    async def first() -> int:
        async with engine.begin() as connection:
            moved = await dead_letters.redrive_all(connection, "comments")
            begun.set()
            if database.kind is Kind.POSTGRESQL:
                await until_another_waits_for(connection)
            return moved

    async def second() -> int:
        await begun.wait()
        async with other.begin() as connection:
            return await dead_letters.redrive_all(connection, "comments")

    assert list(await asyncio.gather(first(), second())) == [20, 0]
    assert len(await queue(engine)) == 20


async def test_a_session_does_as_well_as_a_connection(engine: AsyncEngine) -> None:
    await bury(engine, a_letter(1), a_letter(2))
    await rest(engine, a_rest("a"))
    sessions = async_sessionmaker(engine)
    session: AsyncSession
    async with sessions.begin() as session:
        assert await dead_letters.redrive(session, [an_id(1)]) == 1
        assert len((await dead_letters.list_dead(session)).items) == 1
        assert await dead_letters.purge_dead(session, before=at(99)) == 1
        assert await dead_letters.release(session, "comments", "a", now=NOON) == 1
        assert [r.next_at for r in (await dead_letters.list_held(session)).items] == [NOON]
    assert len(await queue(engine)) == 1


async def test_a_redriven_message_leaves_or_dies_again_after_as_many_attempts(
    engine: AsyncEngine,
) -> None:
    (id_,) = await commit(engine, message("a"))
    destination = Destination(answer=lambda _: FAILED)
    relay = make_relay(engine, destination)
    for _ in range(2):
        await run_until(relay, lambda: len(destination.ids) == 4, "it was tried four times")
        assert await dead(engine) == {(id_, "comments")}
        async with engine.begin() as connection:
            await dead_letters.redrive(connection, [id_])
        destination.received.clear()
    destination.answer = lambda _: DONE
    assert await drain(relay) == 1
    assert destination.ids == [id_]
    assert await dead(engine) == set()


async def test_a_released_key_is_tried_at_once(engine: AsyncEngine) -> None:
    destination = Destination(answer=lambda _: FAILED)
    relay = make_relay(engine, destination, retry=RetryPolicy(first=3600, ceiling=3600, jitter=0))
    ids = await commit(engine, message("a"), message("a"))
    await drain(relay)
    assert destination.ids == ids[:1]
    destination.answer = lambda _: DONE
    assert await drain(relay) == 0
    async with engine.begin() as connection:
        # A moment that is past for the database's clock too.
        await dead_letters.release(connection, "comments", "a", now=NOON.replace(year=2020))
    assert await drain(relay) == 2
    assert destination.ids == [ids[0], *ids]


# --- As new ------------------------------------------------------------------------------------


async def test_a_letter_that_is_redriven_keeps_when_it_was_due(engine: AsyncEngine) -> None:
    letter = a_letter(1) | {"headers": headers_json(an_envelope(due=NOON))}
    await bury(engine, letter)
    async with engine.begin() as connection:
        await dead_letters.redrive(connection, [an_id(1)])
    (row,) = await queue(engine)
    assert (row["id"], row["headers"]) == (an_id(1), letter["headers"])


async def test_a_letter_that_is_redriven_as_new_gets_one_id_for_all_and_is_due_now(
    engine: AsyncEngine,
) -> None:
    letter = a_letter(1) | {"headers": headers_json(an_envelope(due=at(-5)))}
    await bury(engine, letter, letter | {"destination": "another"}, a_letter(2))
    async with engine.begin() as connection:
        renamed = await dead_letters.redrive_as_new(
            connection, [an_id(1)], new_id=lambda: an_id(9), now=NOON
        )
    assert renamed == {an_id(1): an_id(9)}
    rows = await queue(engine)
    assert {(row["id"], row["destination"]) for row in rows} == {
        (an_id(9), letter["destination"]),
        (an_id(9), "another"),
    }
    for row in rows:
        names = ("type", "aggregateid", "occurred_at", "payload", "headers")
        sent = from_row(row["id"], *(row[name] for name in names))
        assert (sent.due, sent.data) == (NOON, letter["payload"].encode())
    assert {id for id, _ in await dead(engine)} == {an_id(2)}


async def test_a_sagas_command_is_not_redriven_as_new(engine: AsyncEngine) -> None:
    await bury(engine, of_saga(1))
    async with engine.begin() as connection:
        with pytest.raises(BelongsToSaga):
            await dead_letters.redrive_as_new(
                connection, [an_id(1)], new_id=lambda: an_id(9), now=NOON
            )
    assert await queue(engine) == []


TOO_OLD = told(Reply(Outcome.TOO_OLD, code="too-old", reason="it is older than what it remembers"))


async def test_what_the_receiver_called_too_old_is_redriven_only_as_new(
    engine: AsyncEngine,
) -> None:
    await bury(engine, a_letter(1), a_letter(2, reason=TOO_OLD))
    async with engine.begin() as connection:
        page = await dead_letters.list_dead(connection)
        assert {it.id for it in page.items if it.is_too_old} == {an_id(2)}
        with pytest.raises(ForgottenByReceiver, match=f"{an_id(2)} too-old.*as a new message"):
            await dead_letters.redrive(connection, [an_id(1), an_id(2)])
    assert await queue(engine) == []
    async with engine.begin() as connection:
        assert await dead_letters.redrive_all(connection, "comments") == 1
        assert await dead_letters.redrive_all(connection, "comments") == 0
        renamed = await dead_letters.redrive_as_new(
            connection, [an_id(2)], new_id=lambda: an_id(9), now=NOON
        )
    assert renamed == {an_id(2): an_id(9)}
    assert [row["id"] for row in await queue(engine)] == [an_id(1), an_id(9)]
