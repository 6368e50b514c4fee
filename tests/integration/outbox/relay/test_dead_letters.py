"""Dead letters and keys that rest: listed, deleted, woken."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import dead_letters
from outbox.database.pages import MAX_LIMIT
from outbox.errors import InvalidSelection, NoSuchMessage
from outbox.tables import outbox_dead
from outbox.wire.envelope import headers_json
from tests.support.outbox.envelopes import an_envelope
from tests.support.outbox.letters import (
    NOON,
    a_letter,
    a_rest,
    an_id,
    at,
    bury,
    dead,
    numbers,
    of_saga,
    queue,
    rest,
)


async def test_a_dead_letter_shows_the_message_and_why_it_died(engine: AsyncEngine) -> None:
    await bury(engine, a_letter(1))
    async with engine.connect() as connection:
        page = await dead_letters.list_dead(connection)
    assert page.next_cursor is None
    assert page.items == [
        dead_letters.DeadLetter(
            id=an_id(1),
            destination="comments",
            type="articles.article-published.v1",
            key="key-1",
            payload='{"title":"Tides"}',
            saga=None,
            reason="reason 1",
            attempts=12,
            occurred_at=at(-99),
            died_at=at(1),
        )
    ]


async def test_pages_go_from_the_newest_to_the_oldest_without_a_gap(engine: AsyncEngine) -> None:
    # Pairs that died in the same moment, and one id that died for two destinations, across pages.
    await bury(engine, *(a_letter(n, died_at=at(n // 2)) for n in range(10)))
    await bury(engine, a_letter(4, destination="search", died_at=at(2), reason="reason 4s"))
    seen: list[str] = []
    cursor = None
    async with engine.connect() as connection:
        for _ in range(6):
            page = await dead_letters.list_dead(connection, limit=2, cursor=cursor)
            seen += numbers(page.items)
            cursor = page.next_cursor
    assert seen == ["9", "8", "7", "6", "5", "4s", "4", "3", "2", "1", "0"]
    assert cursor is None


async def test_a_page_goes_on_where_it_was_while_letters_come_and_go(engine: AsyncEngine) -> None:
    await bury(engine, *(a_letter(n) for n in range(4)))
    async with engine.begin() as connection:
        first = await dead_letters.list_dead(connection, limit=2)
        await connection.execute(insert(outbox_dead), [a_letter(9)])
        await dead_letters.redrive(connection, [first.items[-1].id])
        rest_of = await dead_letters.list_dead(connection, cursor=first.next_cursor)
    assert numbers(first.items) == ["3", "2"]
    assert numbers(rest_of.items) == ["1", "0"]


async def test_letters_of_one_destination_are_listed_alone(engine: AsyncEngine) -> None:
    await bury(engine, *(a_letter(n) for n in range(3)))
    await bury(engine, *(a_letter(n, destination="search") for n in range(2, 6)))
    async with engine.connect() as connection:
        first = await dead_letters.list_dead(connection, destination="search", limit=3)
        second = await dead_letters.list_dead(
            connection, destination="search", limit=3, cursor=first.next_cursor
        )
    assert numbers(first.items) == ["5", "4", "3"]
    assert numbers(second.items) == ["2"]


async def test_a_letter_that_no_code_can_read_is_listed_all_the_same(engine: AsyncEngine) -> None:
    await bury(engine, *(a_letter(n, headers=text) for n, text in enumerate(["{", "[]", "7", ""])))
    async with engine.connect() as connection:
        page = await dead_letters.list_dead(connection)
    assert [(letter.saga, letter.key) for letter in page.items] == [
        (None, f"key-{n}") for n in (3, 2, 1, 0)
    ]


async def test_the_saga_of_a_command_is_shown(engine: AsyncEngine) -> None:
    event = an_envelope(correlation=an_id(5))
    await bury(engine, of_saga(1, an_id(5)), a_letter(2, headers=headers_json(event)))
    async with engine.connect() as connection:
        page = await dead_letters.list_dead(connection)
    assert [letter.saga for letter in page.items] == [None, an_id(5)]


@pytest.mark.parametrize("list_it", [dead_letters.list_dead, dead_letters.list_held])
async def test_a_wrong_limit_or_cursor_is_refused(engine: AsyncEngine, list_it: Any) -> None:
    async with engine.connect() as connection:
        for limit in (0, -1, MAX_LIMIT + 1):
            with pytest.raises(InvalidSelection, match="choose one between 1 and 200"):
                await list_it(connection, limit=limit)
        with pytest.raises(InvalidSelection, match=r"'x' is not a cursor of this list"):
            await list_it(connection, cursor="x")


async def test_old_letters_are_purged_the_first_buried_first_and_in_bounded_steps(
    engine: AsyncEngine,
) -> None:
    await bury(engine, *(a_letter(n) for n in range(6)), a_letter(3, destination="search"))
    async with engine.begin() as connection:
        assert await dead_letters.purge_dead(connection, before=at(5), limit=2) == 2
    assert (an_id(1), "comments") not in await dead(engine)
    assert (an_id(2), "comments") in await dead(engine)
    async with engine.begin() as connection:
        purge = dead_letters.purge_dead
        assert await purge(connection, before=at(5), destination="comments") == 3
        assert await purge(connection, before=at(5), destination="comments") == 0
    assert await dead(engine) == {(an_id(5), "comments"), (an_id(3), "search")}
    assert not await queue(engine)


async def test_a_time_without_a_zone_purges_nothing(engine: AsyncEngine) -> None:
    await bury(engine, a_letter(1))
    async with engine.begin() as connection:
        with pytest.raises(InvalidSelection, match="has no time zone"):
            await dead_letters.purge_dead(connection, before=at(9).replace(tzinfo=None))
    assert len(await dead(engine)) == 1


async def test_a_step_is_bounded(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for limit in (0, -5, dead_letters.MAX_AT_ONCE + 1):
            with pytest.raises(InvalidSelection, match="the limit is"):
                await dead_letters.purge_dead(connection, before=NOON, limit=limit)
            with pytest.raises(InvalidSelection, match="the limit is"):
                await dead_letters.redrive_all(connection, "comments", limit=limit)


async def test_keys_that_rest_are_listed_page_by_page(engine: AsyncEngine) -> None:
    await rest(engine, *(a_rest(f"k{n}") for n in range(3)))
    await rest(engine, a_rest("k1", bucket=1), a_rest("ü", destination="search"))
    seen: list[tuple[str, int, str]] = []
    cursor = None
    async with engine.connect() as connection:
        for _ in range(3):
            page = await dead_letters.list_held(connection, limit=2, cursor=cursor)
            seen += [(each.destination, each.bucket, each.key) for each in page.items]
            cursor = page.next_cursor
        (only,) = (await dead_letters.list_held(connection, destination="search")).items
    assert cursor is None
    assert seen == [
        ("comments", 1, "k1"),
        ("comments", 17, "k0"),
        ("comments", 17, "k1"),
        ("comments", 17, "k2"),
        ("search", 17, "ü"),
    ]
    expected = dead_letters.RestingKey(
        "search", 17, "ü", an_id(1), 3, at(60), "failed: out of order"
    )
    assert only == expected


async def test_a_released_key_is_due_now_in_each_lane_and_its_attempts_still_count(
    engine: AsyncEngine,
) -> None:
    due = a_rest("a", bucket=33, next_at=at(-5))
    await rest(engine, a_rest("a"), a_rest("a", bucket=1), due)
    await rest(engine, a_rest("b"), a_rest("a", destination="search"))
    async with engine.begin() as connection:
        assert await dead_letters.release(connection, "comments", "a", now=NOON) == 3
        page = await dead_letters.list_held(connection)
    assert [(each.destination, each.key, each.next_at) for each in page.items] == [
        ("comments", "a", NOON),
        ("comments", "a", NOON),
        ("comments", "b", at(60)),
        ("comments", "a", at(-5)),
        ("search", "a", at(60)),
    ]
    assert {each.attempts for each in page.items} == {3}


async def test_a_key_that_does_not_rest_cannot_be_released(engine: AsyncEngine) -> None:
    await rest(engine, a_rest("a"))
    async with engine.begin() as connection:
        with pytest.raises(NoSuchMessage, match="the key 'b' does not rest for comments; list"):
            await dead_letters.release(connection, "comments", "b", now=NOON)
        with pytest.raises(NoSuchMessage):
            await dead_letters.release(connection, "search", "a", now=NOON)
