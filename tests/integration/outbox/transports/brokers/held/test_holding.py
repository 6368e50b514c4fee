"""What a consumer does with the held table: it asks which keys are held, and holds messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.outbox.holding import HoldingBench, to_hold, unread
from tests.support.outbox.inboxes import Book, Unbook


async def test_a_key_is_held_while_one_of_its_messages_is(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    first, other = bench.note("first"), bench.note("other", "bob")
    assert await bench.held_keys(first, other) == set()
    await bench.hold(first)
    assert await bench.held_keys(first, other) == {(False, "ada")}
    await bench.work()
    assert await bench.held_keys(first, other) == set()


async def test_only_the_first_message_of_a_key_has_a_turn(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"), bench.note("second"), bench.note("other", "bob"))
    await bench.hold(bench.note("third"))
    turns = [row["next_at"] is not None for row in await bench.rows()]
    assert turns == [True, False, True, False]


async def test_keys_that_no_database_takes_for_others_are_told_apart(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    keys = ["ada", "Ada", "ada ", '["', "ä", "a'b", "\\", "7", "null"]
    notes = [bench.note(f"note {n}", key) for n, key in enumerate(keys)]
    await bench.hold(*notes[::2])
    assert await bench.held_keys(*notes) == {(False, key) for key in keys[::2]}


async def test_undos_have_a_lane_of_their_own(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    action = bench.new(Book("ada"))
    undo = bench.new(Unbook("ada"), undoes=(action.id,))
    await bench.hold(action)
    assert await bench.held_keys(action, undo) == {(False, "ada")}
    await bench.hold(undo)
    assert await bench.held_keys(action, undo) == {(False, "ada"), (True, "ada")}


async def test_a_packet_that_comes_twice_is_held_once(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    note = bench.note("first")
    await bench.hold(note, note)
    await bench.hold(note)
    # A copy that left later has less time, and so other bytes.
    await bench.hold(replace(note, expires_in=5000), attempts=2)
    await bench.table.hold([unread(b"\xff\0"), unread(b"\xff\0")])
    await bench.table.hold([unread(b"\xff\0")])
    assert await bench.standing() == {"first": ("waiting", 1), "unread": ("dead", 0)}
    assert len(await bench.rows()) == 2


async def test_consumers_that_hold_the_same_at_once_hold_it_once(
    database: Database, make_engine: MakeEngine
) -> None:
    benches = [HoldingBench(make_engine(database)) for _ in range(4)]
    notes = [benches[0].note(f"note {n}", f"account {n % 3}") for n in range(12)]
    items = [to_hold(note) for note in notes]
    packet = unread(b"of no sender")
    await asyncio.gather(
        *(bench.table.hold([*items, packet]) for bench in benches),
    )
    rows = await benches[0].rows()
    assert len(rows) == 13
    assert sum(row["next_at"] is not None for row in rows) == 3


async def test_what_was_given_up_and_is_sent_again_is_tried_again(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    note = bench.note("first")
    await bench.hold(note, attempts=3)
    await bench.work()
    assert await bench.standing() == {"first": ("dead", 3)}
    await bench.hold(bench.note("second"))
    await bench.hold(note)
    assert await bench.standing() == {"first": ("waiting", 1), "second": ("waiting", 1)}
    # It has its old place again, before what came meanwhile.
    assert [row["next_at"] is not None for row in await bench.rows()] == [True, False]
    await bench.work()
    assert await bench.entries() == ["first", "second"]


async def test_what_no_attempt_will_help_is_kept_to_be_seen_and_holds_no_key(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine)
    wrong, second = bench.note("wrong"), bench.note("second")
    items = [replace(to_hold(wrong), is_dead=True), to_hold(second)]
    await bench.table.hold(items)
    await bench.table.hold(items)
    assert await bench.standing() == {"wrong": ("dead", 1), "second": ("waiting", 1)}
    await bench.work()
    assert await bench.standing() == {"wrong": ("dead", 1)}
    assert await bench.held_keys(wrong) == set()
    assert await bench.entries() == ["second"]


async def test_headers_and_errors_that_no_database_takes_are_held_all_the_same(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine)
    item = unread(b"\0\xff", {"sagabox-signature": "\0\ud800"})
    await bench.table.hold([item])
    (row,) = await bench.rows()
    assert row["body"] == b"\0\xff"
