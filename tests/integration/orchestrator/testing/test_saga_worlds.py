"""The worlds that users' tests get: real handlers on SQLite, and what can go wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import orchestrator
import outbox
from orchestrator.errors import InvalidInput
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.testing import AsyncSagaWorld, CrashPoints, NotReached, SagaWorld
from outbox import Context, Handlers, Refused
from outbox.contract import SagaEnded
from outbox.messages import type_of
from outbox.testing import crash_points as all_crash_points
from tests.support.checkout import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples" / "testing_a_saga")
    from trips import (
        Base,
        Card,
        Charge,
        GiveRoomBack,
        HoldRoom,
        Hotel,
        Room,
        Trip,
        bank,
        book_trip,
        hotel,
    )

RUN = "0190a000-0000-7000-8000-000000000001"
ROME = Trip("Rome", card="1234")
SERVICES = {"hotel": hotel, "bank": bank}
Make = Callable[..., SagaWorld]


def fill(world: SagaWorld | AsyncSagaWorld) -> None:
    with world.session("hotel") as session:
        session.add(Hotel(name="Grand", free=2))
    with world.session("bank") as session:
        session.add(Card(number="1234"))


@pytest.fixture
def world(saga_world: Make) -> SagaWorld:
    made = saga_world(book_trip, participants=SERVICES, schema=Base.metadata)
    fill(made)
    return made


def left(world: SagaWorld | AsyncSagaWorld) -> tuple[int, int, int]:
    """Free rooms, rooms that are held or confirmed, and what the card was charged."""
    with world.session("hotel") as at_hotel, world.session("bank") as at_bank:
        free = at_hotel.get_one(Hotel, "Grand").free
        return free, at_hotel.query(Room).count(), at_bank.get_one(Card, "1234").charged


BOOKED, NOTHING = (1, 1, 100), (2, 0, 0)


def test_a_run_is_told_with_its_steps_and_its_history(world: SagaWorld) -> None:
    run = world.run(ROME)
    assert run.status is Status.COMPLETED
    assert set(run.steps.values()) == {StepStatus.DONE}
    assert run.state == ROME
    assert run.history[0].split() == ["0.000", "s", "started", "book-trip", "v1"]
    assert run.history[-1].endswith("ended  COMPLETED")
    assert left(world) == BOOKED


@pytest.mark.parametrize("step", ["hold room", "charge card"])
def test_a_refused_step_undoes_what_was_done(world: SagaWorld, step: str) -> None:
    world.refuse(step)
    run = world.run(ROME)
    assert (run.status, run.steps[step]) == (Status.COMPENSATED, StepStatus.REFUSED)
    assert left(world) == NOTHING


def test_a_handler_that_fails_takes_its_work_back_and_is_called_again(world: SagaWorld) -> None:
    world.fail("hold room", times=2)
    assert world.run(ROME).status is Status.COMPLETED
    assert left(world) == BOOKED


def test_a_compensation_that_fails_for_good_waits_for_a_person(world: SagaWorld) -> None:
    world.refuse("charge card")
    world.fail("hold room", undo=True)
    run = world.run(ROME)
    assert run.status is Status.STUCK
    assert "step 'hold room' is STUCK: its command became a dead letter" in run.problem
    assert left(world) == (1, 1, 0)
    assert world.repair(run).status is Status.COMPENSATED
    assert left(world) == NOTHING


def test_a_lock_is_waited_out(world: SagaWorld) -> None:
    world.lock("charge card", times=2)
    run = world.run(ROME)
    assert run.status is Status.COMPLETED
    assert sum("locked" in line for line in run.history) == 2


def test_a_person_can_cancel_while_a_step_is_under_way(world: SagaWorld) -> None:
    world.cancel("hold room")
    assert world.run(ROME).status is Status.COMPENSATED
    assert left(world) == NOTHING


def test_an_action_that_is_overtaken_by_its_compensation_has_no_effect(world: SagaWorld) -> None:
    world.overtake("hold room")
    run = world.run(ROME)
    assert run.status is Status.COMPENSATED
    assert world.effects(run) == []
    assert left(world) == NOTHING


@pytest.mark.parametrize(
    "trouble", [SagaWorld.duplicate, SagaWorld.arrive_again, SagaWorld.lose_answers]
)
def test_what_arrives_again_takes_effect_once(
    world: SagaWorld, trouble: Callable[[SagaWorld], None]
) -> None:
    trouble(world)
    run = world.run(ROME)
    assert [it.step for it in world.effects(run)] == ["hold room", "charge card", "confirm room"]
    assert left(world) == BOOKED


def test_a_crash_point_that_is_reached_lets_the_run_go_on_in_a_new_process(
    world: SagaWorld,
) -> None:
    world.crash_at("engine: after commit, before hand-over", hit=2)
    world.crash_at("inbox: before commit", hit=1)
    run = world.run(ROME)
    assert run.status is Status.COMPLETED
    assert left(world) == BOOKED
    seconds = float(run.history[-1].split()[0])
    assert seconds > 2, "an answer was waited for in vain, and a process was started again"


def test_what_never_goes_wrong_fails_the_test(world: SagaWorld) -> None:
    world.refuse("charge card")
    world.fail("confirm room", times=1)
    world.crash_at("inbox: before commit", hit=99)
    with pytest.raises(NotReached) as raised:
        world.run(ROME)
    assert str(raised.value).endswith(
        "step 'confirm room' fails 1 times; a process dies at 'inbox: before commit', time 99"
    )


def test_several_runs_follow_one_another(world: SagaWorld) -> None:
    statuses = [world.run(Trip(name, card="1234")).status for name in ("Rome", "Paris", "Oslo")]
    assert statuses == [Status.COMPLETED, Status.COMPLETED, Status.COMPENSATED]
    assert left(world) == (0, 2, 200)


def test_what_was_kept_can_be_restored(world: SagaWorld) -> None:
    world.keep()
    world.refuse("hold room")
    assert world.run(ROME).status is Status.COMPENSATED
    world.restore()
    assert world.run(ROME).status is Status.COMPLETED
    world.restore()
    assert left(world) == NOTHING


def test_a_world_that_kept_nothing_says_so_and_stays_as_it_is(world: SagaWorld) -> None:
    assert world.run(ROME).status is Status.COMPLETED
    before = left(world)
    with pytest.raises(RuntimeError, match=r"call keep\(\) first"):
        world.restore()
    assert left(world) == before != NOTHING


def test_the_fixture_crash_points_lets_processes_of_a_world_die(
    world: SagaWorld, crash_points: CrashPoints
) -> None:
    assert set(crash_points.names) == all_crash_points(outbox, orchestrator)
    with crash_points("inbox: after commit, before reply", hit=3):
        assert world.run(ROME).status is Status.COMPLETED
    missed = pytest.raises(AssertionError, match="was not reached 9 times")
    with missed, crash_points("inbox: before commit", hit=9):
        world.run(Trip("Paris", card="1234"))


async def test_an_async_test_awaits_its_runs(
    async_saga_world: Callable[..., AsyncSagaWorld],
) -> None:
    world = async_saga_world(book_trip, participants=SERVICES, schema=Base.metadata)
    fill(world)
    world.fail("confirm room")
    run = await world.run(ROME)
    assert run.status is Status.STUCK
    assert (await world.repair(run)).status is Status.COMPLETED
    async with world.sessions("hotel").begin() as session:
        assert (await session.get_one(Room, "Rome")).confirmed


async def test_a_plain_world_in_an_async_test_tells_which_one_to_take(
    tmp_path: Path, async_saga_world: Callable[..., AsyncSagaWorld]
) -> None:
    world = SagaWorld(book_trip, participants=SERVICES, schema=Base.metadata, folder=tmp_path)
    with pytest.raises(RuntimeError, match="ask for async_saga_world"):
        world.run(ROME)
    await world._close()


def test_plain_handlers_and_handlers_of_lists_work_too(saga_world: Make) -> None:
    plain, lists = Handlers("bank"), Handlers("hotel")

    @plain.on(Charge)
    def charge(session: Session, command: Charge, _: Context) -> Refused | None:
        session.get_one(Card, command.card).charged += 100
        return None

    @lists.on_list(HoldRoom)
    async def hold(
        session: AsyncSession, commands: Sequence[HoldRoom], _: Sequence[Context]
    ) -> list[None]:
        session.add_all(Room(trip=it.trip) for it in commands)
        return [None] * len(commands)

    @lists.on_list(GiveRoomBack)
    async def give_back(
        session: AsyncSession, commands: Sequence[GiveRoomBack], _: Sequence[Context]
    ) -> list[None]:
        for it in commands:
            await session.delete(await session.get_one(Room, it.trip))
        return [None] * len(commands)

    services = {"bank": plain, "hotel": lists}
    world = saga_world(book_trip, participants=services, schema=Base.metadata)
    fill(world)
    world.refuse("charge card")
    assert world.run(ROME).status is Status.COMPENSATED
    world.refuse("hold room")
    assert world.run(ROME).steps["hold room"] is StepStatus.REFUSED
    assert left(world) == NOTHING


def test_who_asks_for_a_run_is_told_of_its_end_and_events_stay_in_the_outbox(
    saga_world: Make,
) -> None:
    heard: list[str] = []
    telling = Handlers("bank")

    @telling.on(Charge)
    async def charge(session: AsyncSession, command: Charge, _: Context) -> None:
        outbox.add(session, SagaEnded("0190a000-0000-7000-8000-000000000001", "an example"))

    @telling.on(SagaEnded)
    async def note(_session: AsyncSession, event: SagaEnded, _: Context) -> None:
        heard.append(event.status)

    world = saga_world(
        book_trip,
        participants={"hotel": hotel, "bank": telling},
        schema={"hotel": Base.metadata},
        routes={"bank": {SagaEnded: ["elsewhere"]}},
        originator="bank",
    )
    with world.session("hotel") as session:
        session.add(Hotel(name="Grand", free=2))
    world.crash_at("outbox: after drain, before commit")
    assert world.run(ROME).status is Status.COMPLETED
    assert heard == ["COMPLETED"]
    ((type, data),) = world.sent("bank")
    assert (type, data["status"]) == (str(SagaEnded.message_type), "an example")


def hearing(hear: Callable[[SagaEnded], None]) -> dict[str, Handlers]:
    """The services, of which the bank hears of the ends of runs by this function."""
    telling = Handlers("bank")

    @telling.on(Charge)
    async def charge(session: AsyncSession, command: Charge, _: Context) -> None:
        pass

    @telling.on(SagaEnded)
    async def note(_session: AsyncSession, event: SagaEnded, _: Context) -> None:
        hear(event)

    return {"hotel": hotel, "bank": telling}


def test_a_run_gets_the_id_under_which_its_originator_knows_it(saga_world: Make) -> None:
    heard: list[str] = []
    services = hearing(lambda event: heard.append(event.instance_id))
    world = saga_world(book_trip, participants=services, schema=Base.metadata, originator="bank")
    fill(world)
    assert world.run(ROME, id=RUN).id == RUN
    assert heard == [RUN]
    with pytest.raises(ValueError, match="id= is 'trip 7': give a UUIDv7"):
        world.run(ROME, id="trip 7")


def test_a_mistake_in_the_handler_of_the_end_is_told(saga_world: Make) -> None:
    def fail(event: SagaEnded) -> None:
        raise KeyError("no such trip")

    services = hearing(fail)
    world = saga_world(book_trip, participants=services, schema=Base.metadata, originator="bank")
    fill(world)
    told = rf"does not rest: bank does not take {type_of(SagaEnded)}: failed: .*no such trip"
    with pytest.raises(AssertionError, match=told):
        world.run(ROME)


def test_a_mistake_in_a_handler_is_told_by_the_run(saga_world: Make) -> None:
    broken = Handlers("bank")

    @broken.on(Charge)
    async def charge(session: AsyncSession, command: Charge, _: Context) -> None:
        raise KeyError("no such thing")

    services = {"hotel": hotel, "bank": broken}
    world = saga_world(book_trip, participants=services, schema=Base.metadata)
    fill(world)
    run = world.run(ROME)
    assert run.status is Status.STUCK
    assert "KeyError: 'no such thing'" in run.problem


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda it: it.refuse("pay"), "has no step 'pay'; it has hold room, charge card"),
        (lambda it: it.refuse("confirm room"), "is retriable: it may not be refused"),
        (lambda it: it.overtake("charge card"), "has no compensation that could overtake it"),
        (lambda it: it.fail("charge card", undo=True), "has no compensation"),
        (lambda it: it.crash_at("anywhere", hit=0), "times are counted from 1"),
        (lambda it: it.sessions("hotels"), "'hotels' is no participant of this world"),
    ],
)
def test_a_wrong_wish_is_refused(
    world: SagaWorld, wrong: Callable[[SagaWorld], object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        wrong(world)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"participants": {"hotel": hotel}}, "sends commands to 'bank': name it in participants="),
        ({"schema": {"hotels": Base.metadata}}, "schema= names 'hotels', which is no participant"),
        ({"routes": {"hotels": {}}}, "routes= names 'hotels'"),
        ({"originator": "client"}, "originator= names 'client'"),
        ({"database": "sqlite:///a.db"}, "database= is 'sqlite:///a.db': give the URL of a Post"),
    ],
)
def test_a_world_with_unknown_participants_is_refused(
    saga_world: Make, options: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        saga_world(book_trip, **{"participants": SERVICES, "schema": Base.metadata, **options})


def test_an_input_that_the_saga_cannot_take_is_refused(world: SagaWorld) -> None:
    with pytest.raises(InvalidInput):
        world.run("Rome")


def test_a_schema_may_be_a_function(saga_world: Make) -> None:
    world = saga_world(book_trip, participants=SERVICES, schema=Base.metadata.create_all)
    fill(world)
    assert world.run(ROME).status is Status.COMPLETED


def test_a_refusal_whose_participant_dies_before_its_commit_is_said_again(
    world: SagaWorld,
) -> None:
    world.refuse("charge card")
    world.crash_at("inbox: before commit", hit=2)
    assert world.run(ROME).status is Status.COMPENSATED
