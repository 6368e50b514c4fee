"""Operations on an outbox whose relays go on meanwhile, on both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import SystemClock
from outbox.errors import (
    BelongsToSaga,
    ForgottenByReceiver,
    InvalidSelection,
    NoSuchMessage,
    OutboxError,
)
from outbox.operations import selection as selections
from outbox.operations.operations import Operations
from outbox.operations.selection import Selection
from outbox.relay.relay import Relay
from outbox.replies import Reply
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.tables import DEFAULT_TABLES, Tables, outbox_dead, outbox_held, outbox_scheduled
from outbox.testing import FakeClock
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database
from tests.support.databases.locks import until_it_waits
from tests.support.fixtures import MakeEngine
from tests.support.outbox.inboxes import Names
from tests.support.outbox.letters import a_letter, an_id, at, bury, dead, of_saga, queue
from tests.support.outbox.relays import (
    DONE,
    FAILED,
    Destination,
    commit,
    counts,
    drain,
    make_relay,
    message,
    row,
    run_until,
)

ONCE = RetryPolicy(first=0.02, factor=1.0, ceiling=0.02, jitter=0.0, attempts=1)


def operations(engine: AsyncEngine, tables: Tables = DEFAULT_TABLES) -> Operations:
    return Operations(engine, tables, SystemClock(), Names())


class Blocking:
    """A destination that fails these messages, with its relay, which blocks their keys."""

    def __init__(self, engine: AsyncEngine, bad: list[str]) -> None:
        self.bad = bad
        self.destination = Destination(answer=self._answer)
        self.relay: Relay = make_relay(
            engine, self.destination, retry=ONCE, on_exhaustion=OnExhaustion.BLOCK_KEY
        )

    def _answer(self, envelope: Envelope) -> Reply:
        return FAILED if envelope.id in self.bad else DONE


async def test_after_a_redrive_a_blocked_key_goes_on_in_its_order(engine: AsyncEngine) -> None:
    ids = await commit(engine, *(message("k") for _ in range(3)))
    bad = [ids[0]]
    blocking = Blocking(engine, bad)
    await drain(blocking.relay)
    bad.clear()
    assert (await operations(engine).redrive(Selection(key="k"))).held_messages == 1
    (late,) = await commit(engine, message("k"))
    sent = blocking.destination
    await run_until(blocking.relay, lambda: late in sent.ids, "the key goes on")
    assert sent.ids == [ids[0], *ids, late]


async def test_what_fails_again_after_a_redrive_blocks_again(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"), message("k"))
    blocking = Blocking(engine, [ids[0]])
    await drain(blocking.relay)
    await operations(engine).redrive(Selection(ids=(ids[0],)))
    sent = blocking.destination
    await run_until(blocking.relay, lambda: len(sent.ids) == 2, "it is tried again")
    page, _ = await operations(engine).held(Selection(), only_blocked=True)
    assert [it.id for it in page.items] == [ids[0]]


@pytest.mark.parametrize("buried_by", [None, "ann"])
async def test_after_a_drop_the_later_messages_of_the_key_go_on(
    engine: AsyncEngine, buried_by: str | None
) -> None:
    ids = await commit(engine, *(message("k") for _ in range(3)))
    blocking = Blocking(engine, [ids[0]])
    await drain(blocking.relay)
    (late,) = await commit(engine, message("k"))
    await operations(engine).drop(Selection(ids=(ids[0],)), buried_by=buried_by)
    sent = blocking.destination
    await run_until(blocking.relay, lambda: late in sent.ids, "the key goes on")
    assert sent.ids == [*ids, late]
    found = await counts(engine)
    assert found == {
        "outbox": 0,
        "outbox_held": 0,
        "outbox_parked": 0,
        "outbox_dead": 0 if buried_by is None else 1,
    }


@pytest.mark.parametrize("buried_by", [None, "ann"])
async def test_a_message_that_was_dropped_is_dropped_and_redriven_no_more(
    engine: AsyncEngine, buried_by: str | None
) -> None:
    ids = await commit(engine, message("k"))
    await drain(Blocking(engine, ids).relay)
    does, named = operations(engine), Selection(ids=tuple(ids))
    assert (await does.drop(named, buried_by=buried_by)).held_messages == 1
    for dry_run in (True, False):
        with pytest.raises(NoSuchMessage, match=ids[0]):
            await does.drop(named, buried_by="bob", dry_run=dry_run)
    if buried_by is None:
        with pytest.raises(NoSuchMessage, match=ids[0]):
            await does.redrive(named)
    else:
        done = await does.redrive(named)
        assert (done.dead_letters, done.held_messages) == (1, 0)


async def test_of_two_operators_who_drop_a_message_one_alone_did(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"))
    await drain(Blocking(engine, ids).relay)
    named = Selection(ids=tuple(ids))
    both = await asyncio.gather(
        *(operations(engine).drop(named, buried_by=it) for it in ("ann", "bob")),
        return_exceptions=True,
    )
    assert sorted(type(it).__name__ for it in both) == ["Changed", "NoSuchMessage"]
    assert await dead(engine) == {(ids[0], "comments")}


async def test_a_key_of_which_the_only_message_is_dropped_is_held_no_longer(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, message("k"))
    blocking = Blocking(engine, ids)
    await drain(blocking.relay)
    await operations(engine).drop(Selection(key="k"))

    async def held() -> int:
        return (await counts(engine))["outbox_held"]

    for _ in range(3):
        await blocking.relay.run_once()
    assert await held() == 0


async def test_a_message_whose_key_rests_is_tried_at_once_by_its_id_alone(
    engine: AsyncEngine,
) -> None:
    slow = RetryPolicy(first=600.0, factor=1.0, ceiling=600.0, jitter=0.0, attempts=9)
    ids = await commit(engine, message("k"))
    destination = Destination(answer=lambda _: FAILED)
    relay = make_relay(engine, destination, retry=slow)
    await relay.run_once()
    assert (await operations(engine).redrive(Selection(key="k"))).held_messages == 0
    assert (await operations(engine).redrive(Selection(ids=tuple(ids)))).held_messages == 1
    await run_until(relay, lambda: len(destination.ids) == 2, "it is tried again")
    page, _ = await operations(engine).held(Selection())
    assert [it.attempts for it in page.items] == [2]


@pytest.mark.databases("postgresql")  # the processes of a SQLite file share one clock
@pytest.mark.parametrize("change", ["redrive", "drop"])
async def test_a_key_that_an_operator_frees_goes_on_where_the_clock_of_his_machine_is_ahead(
    engine: AsyncEngine, change: str
) -> None:
    ids = await commit(engine, message("k"), message("k"))
    bad = [ids[0]]
    blocking = Blocking(engine, bad)
    await drain(blocking.relay)
    bad.clear()
    clock = FakeClock(SystemClock().now() + timedelta(hours=1))
    ahead = Operations(engine, DEFAULT_TABLES, clock, Names())
    if change == "redrive":
        await ahead.redrive(Selection(key="k"))
    else:
        await ahead.drop(Selection(key="k"))
    sent = blocking.destination
    await run_until(blocking.relay, lambda: ids[1] in sent.ids, "the key goes on")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions of up to three messages."""
    for module in ("operations", "selection"):
        monkeypatch.setattr(f"outbox.operations.{module}.MAX_AT_ONCE", 3)


@pytest.mark.usefixtures("small_steps")
async def test_many_letters_are_redriven_in_several_transactions(engine: AsyncEngine) -> None:
    await bury(engine, *(a_letter(number) for number in range(5)))
    done = await operations(engine).redrive(Selection(destination="comments"))
    assert done.dead_letters == 5
    assert [it["id"] for it in await queue(engine)] == [an_id(it) for it in range(5)]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("change", ["redrive", "redrive_as_new", "drop"])
async def test_all_letters_that_ids_name_are_changed_in_one_transaction(
    engine: AsyncEngine, change: str
) -> None:
    """Also as many as a transaction takes otherwise, or more: an id may have died twice."""
    await bury(
        engine, *(a_letter(it, destination=to) for it in range(2) for to in ("comments", "mail"))
    )
    does, named = operations(engine), Selection(ids=(an_id(0), an_id(1)))
    if change == "drop":
        done = await does.drop(named)
    else:
        done = await does.redrive(named, as_new=change == "redrive_as_new")
    assert done.dead_letters == 4
    assert await dead(engine) == set()


@pytest.mark.usefixtures("small_steps")
async def test_all_scheduled_messages_that_ids_name_are_moved_in_one_transaction(
    engine: AsyncEngine,
) -> None:
    now, made = SystemClock().now(), [message("k") for _ in range(3)]
    async with engine.begin() as connection:
        for bucket, envelope in made:
            values = row(bucket, envelope, "comments") | {"due_at": now + timedelta(days=9)}
            await connection.execute(insert(outbox_scheduled).values(**values))
    named = Selection(ids=tuple(envelope.id for _, envelope in made))
    assert (await operations(engine).reschedule(named, now)).scheduled == 3
    assert (await operations(engine).drop_scheduled(named)).scheduled == 3


@pytest.mark.databases("postgresql")  # SQLite has one writer at a time
@pytest.mark.parametrize("change", ["drop_scheduled", "reschedule", "drop", "redrive", "drop_held"])
async def test_where_one_of_those_that_ids_name_goes_meanwhile_none_is_changed(
    engine: AsyncEngine, make_engine: MakeEngine, database: Database, change: str
) -> None:
    """A relay has sent it, or another operator has changed it, in a transaction under way."""
    now = SystemClock().now()
    if change in ("drop_scheduled", "reschedule"):
        table, id = outbox_scheduled, outbox_scheduled.c.id
        made = [message("k"), message("k")]
        ids = [envelope.id for _, envelope in made]
        async with engine.begin() as connection:
            for bucket, envelope in made:
                values = row(bucket, envelope, "comments") | {"due_at": now + timedelta(days=9)}
                await connection.execute(insert(outbox_scheduled).values(**values))
    elif change == "drop_held":
        table, id = outbox_held, outbox_held.c.head_id
        ids = await commit(engine, message("one"), message("two"))
        await drain(Blocking(engine, ids).relay)
    else:
        table, id = outbox_dead, outbox_dead.c.id
        ids = [an_id(0), an_id(1)]
        await bury(engine, a_letter(0), a_letter(1))
    does, named = operations(make_engine(database)), Selection(ids=tuple(ids))

    async def changed() -> None:
        match change:
            case "drop_scheduled":
                await does.drop_scheduled(named)
            case "reschedule":
                await does.reschedule(named, now)
            case "redrive":
                await does.redrive(named)
            case _:
                await does.drop(named)

    async def standing() -> list[Any]:
        async with engine.connect() as connection:
            return list((await connection.execute(select(table).order_by(id))).all())

    before = await standing()
    async with engine.begin() as connection:
        await connection.execute(delete(table).where(id == ids[0]))
        changing = asyncio.create_task(changed())
        await until_it_waits(engine, changing)
    with pytest.raises(NoSuchMessage, match=ids[0]):
        await changing
    assert await standing() == before[1:]


@pytest.mark.usefixtures("small_steps")
async def test_letters_of_several_destinations_are_all_sent_again_as_new(
    engine: AsyncEngine,
) -> None:
    both = ("comments", "mail")
    await bury(engine, *(a_letter(it, destination=to) for it in range(4) for to in both))
    done = await operations(engine).redrive(Selection(older_than=at(99)), as_new=True)
    assert done.dead_letters == 8
    assert await dead(engine) == set()
    sent = {(it["id"], it["destination"]) for it in await queue(engine)}
    assert done.new_ids.keys() == {an_id(it) for it in range(4)}
    assert sent == {(new, to) for new in done.new_ids.values() for to in both}


@pytest.mark.parametrize("change", ["redrive", "redrive_as_new", "drop", "bury"])
async def test_a_dry_run_refuses_the_ids_that_the_real_one_would(
    engine: AsyncEngine, change: str
) -> None:
    held = await commit(engine, message("k"))
    await drain(Blocking(engine, held).relay)
    await bury(engine, a_letter(0), a_letter(1, reason="too-old: long ago"), of_saga(2))
    does, gone = operations(engine), an_id(9)
    also: dict[str, dict[str, type[OutboxError]]] = {
        "redrive": {an_id(1): ForgottenByReceiver, an_id(2): BelongsToSaga},
        "redrive_as_new": {held[0]: NoSuchMessage, an_id(2): BelongsToSaga},
        "bury": {an_id(0): NoSuchMessage},
    }
    refused: dict[str, type[OutboxError]] = {gone: NoSuchMessage, **also.get(change, {})}

    async def changed(*ids: str, dry_run: bool) -> None:
        named = Selection(ids=ids)
        if change in ("drop", "bury"):
            buried_by = "ann" if change == "bury" else None
            await does.drop(named, buried_by=buried_by, dry_run=dry_run)
        else:
            await does.redrive(named, as_new=change == "redrive_as_new", dry_run=dry_run)

    fits = held[0] if change == "bury" else an_id(0)
    for id, error in refused.items():
        for dry_run in (True, False):
            with pytest.raises(error, match=id):
                await changed(fits, id, dry_run=dry_run)
    await changed(fits, dry_run=True)
    assert len(await dead(engine)) == 3


async def test_a_dry_run_counts_no_message_that_is_due_then_already(engine: AsyncEngine) -> None:
    due = SystemClock().now() + timedelta(days=9)
    async with engine.begin() as connection:
        for days in (0, 1):
            values = row(*message("k"), "comments") | {"due_at": due + timedelta(days=days)}
            await connection.execute(insert(outbox_scheduled).values(**values))
    for dry_run in (True, False):
        done = await operations(engine).reschedule(Selection(key="k"), due, dry_run=dry_run)
        assert done.scheduled == 1


async def test_two_operators_redrive_each_letter_once(engine: AsyncEngine) -> None:
    await bury(engine, *(a_letter(number) for number in range(20)))
    both = await asyncio.gather(
        *(operations(engine).redrive(Selection(destination="comments")) for _ in range(2))
    )
    assert sum(it.dead_letters for it in both) == 20
    assert len(await queue(engine)) == 20
    assert await dead(engine) == set()


async def test_a_moved_message_is_as_old_as_its_new_time_says(engine: AsyncEngine) -> None:
    now = SystemClock().now()
    bucket, envelope = message("k")
    async with engine.begin() as connection:
        values = row(bucket, envelope, "comments") | {"due_at": now + timedelta(days=9)}
        await connection.execute(insert(outbox_scheduled).values(**values))
    destination = Destination()
    relay = make_relay(engine, destination)
    await drain(relay)
    assert destination.ids == []
    due = now - timedelta(seconds=1)
    await operations(engine).reschedule(Selection(ids=(envelope.id,)), due)
    async with engine.connect() as connection:
        headers = (await connection.execute(select(outbox_scheduled.c.headers))).scalar_one()
    assert due.astimezone(UTC).isoformat().replace("+00:00", "Z") in headers
    await run_until(relay, lambda: destination.ids == [envelope.id], "it leaves")


@pytest.mark.parametrize(
    "filters",
    [
        {"ids": ("x",)},
        {"ids": tuple(an_id(it) for it in range(selections.MAX_AT_ONCE + 1))},
        {"older_than": datetime(2030, 1, 1)},  # noqa: DTZ001 - that it has no zone is the point
        {"key": "a\0b"},
    ],
)
def test_a_filter_that_can_fit_nothing_is_refused(filters: dict[str, object]) -> None:
    with pytest.raises(InvalidSelection):
        Selection(**filters)  # type: ignore[arg-type]  # they are of several types


async def test_ids_and_filters_must_both_fit(engine: AsyncEngine) -> None:
    await bury(engine, a_letter(1), a_letter(2, destination="mail"))
    with pytest.raises(NoSuchMessage, match=an_id(2)):
        await operations(engine).redrive(
            Selection(ids=(an_id(1), an_id(2)), destination="comments")
        )
    assert len(await dead(engine)) == 2
