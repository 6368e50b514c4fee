"""`check_saga` with commands whose answers come later, and what it finds in such handlers.

What it finds on every database stands in `tests/contracts/test_world_databases_later.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import orchestrator
import outbox
from orchestrator import Saga, compensatable, pivot, retriable
from orchestrator.machine.instance import Status
from orchestrator.testing import Checked, WayFailed, check_saga
from orchestrator.testing.worlds.participants.completions import Completions
from outbox import CannotComplete, Command, Context, Handlers, Pending, Refused, TooLate
from outbox.clock import SystemClock
from outbox.inbox.pending import complete as completing
from outbox.inbox.pending import completion
from outbox.inbox.pending.completion import Completion
from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import Row
from outbox.service.completing import Completing
from outbox.testing import crash_points as crash_points_of


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    part: Mapped[str] = mapped_column(primary_key=True)


@dataclass(frozen=True)
class Build(Command[None], type="works.build.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Scrap(Command[None], type="works.scrap.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Sell(Command[int], type="works.sell.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Ship(Command[None], type="works.ship.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Other(Command[None], type="works.other.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Product:
    id: str


make = Saga(
    name="make-product",
    version=1,
    state=Product,
    key=lambda it: it.id,
    steps=[
        compensatable("build", lambda it: Build(it.id), compensation=lambda it: Scrap(it.id)),
        pivot("sell", lambda it: Sell(it.id)),
        retriable("ship", lambda it: Ship(it.id)),
    ],
)

NO = Refused("no", "they said no")
Handle = Callable[[AsyncSession, Any, Context], Any]
TOO_LATE = "a person cancels while step 'build' is pending, and it is completed too late"


async def build(session: AsyncSession, command: Build, _: Context) -> Pending:
    session.add(Order(part=f"build {command.id}"))
    return Pending("the works build it")


async def scrap(session: AsyncSession, command: Scrap, _: Context) -> Pending:
    await session.execute(delete(Order).where(Order.part == f"build {command.id}"))
    return Pending("the works scrap it")


async def sell(session: AsyncSession, command: Sell, _: Context) -> Pending:
    session.add(Order(part=f"sell {command.id}"))
    return Pending("the buyer thinks it over")


async def ship(session: AsyncSession, command: Ship, _: Context) -> None:
    session.add(Order(part=f"ship {command.id}"))


def works(**other: Handle) -> Handlers:
    handlers = Handlers("works")
    for command, handle in ((Build, build), (Scrap, scrap), (Sell, sell), (Ship, ship)):
        handlers.on(command)(other.get(handle.__name__, handle))
    return handlers


complete = Completing(works(), SystemClock())


async def not_sold(session: AsyncSession, id: str) -> None:
    """The webhook of a buyer who says no."""
    await complete(session, id, NO)
    await session.execute(delete(Order).where(Order.part == "sell 1"))


RIGHT: Completions = {Build: [None, NO], Scrap: [None, NO], Sell: [100, not_sold]}


def check(only: str = "", completions: Completions = RIGHT, **other: Handle) -> Checked:
    return check_saga(
        make,
        Product("1"),
        participants={"works": works(**other)},
        schema=Base.metadata,
        only=only,
        completions=completions,
    )


def test_a_right_saga_with_later_answers_passes_with_every_fault_of_messages() -> None:
    checked = check("every message")
    assert checked.missed == []
    assert {Status.COMPLETED, Status.COMPENSATED} == set(checked.ends.values())


def test_every_crash_point_is_among_the_ways_of_a_saga_with_later_answers() -> None:
    checked = check("time 1 of")
    assert checked.missed == []
    words = "\n".join(checked.ways)
    everywhere = {
        it
        for it in crash_points_of(outbox, orchestrator)
        if not it.startswith(("outside:", "consumer:", "held:", "retention:"))
    }
    assert {it for it in everywhere if f"dies at {it!r}" not in words} == set()


def test_every_way_of_a_pending_command_is_tried() -> None:
    checked = check("completed")
    assert checked.missed == []
    ways = checked.ways[1:]
    undone = ", while step 'sell' is refused"
    refused = "is completed with Refused(code='no', reason='they said no')"
    ends = [
        "before its handler has committed, and again",
        "before it is known to be pending",
        "twice",
        "after its deadline",
    ]
    build = [f"step 'build' {refused}", *(f"step 'build' is completed {it}" for it in ends)]
    sell = ["step 'sell' is completed with not_sold"]
    sell += [f"step 'sell' is completed {it}" for it in ends]
    scrap = [f"the compensation of {it}{undone}" for it in build]
    crashes = [it for it in ways if "dies at" in it]
    assert ways == [*build, TOO_LATE, *sell, *scrap, *crashes]
    assert all("inbox: completed, before commit" in it for it in crashes)
    assert len(crashes) == 4


def test_a_pending_command_without_an_answer_is_told_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"the handler of Build returned Pending: .*completions="):
        check(completions={Sell: [100]})
    with pytest.raises(ValueError, match=r"Scrap returned Pending: .*completions={Scrap: "):
        check("is refused", completions={Build: [None], Sell: [100]})


@pytest.mark.parametrize(
    ("completions", "problem"),
    [
        ({Build: []}, "has no answer to Build"),
        ({Other: [None]}, "names Other, which make-product v1 does not send"),
    ],
)
def test_completions_that_fit_nothing_are_refused(completions: Completions, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check(completions=completions)


# Wrong handlers and webhooks


def test_a_compensation_that_cannot_undo_what_is_pending_is_found() -> None:
    async def only_what_ran(session: AsyncSession, command: Scrap, context: Context) -> Pending:
        assert set(context.undoes.values()) == {"ran"}, "this code thought so"
        return await scrap(session, command, context)

    with pytest.raises(WayFailed, match="this code thought so") as failed:
        check(scrap=only_what_ran)
    assert failed.value.way == "step 'build' is completed after its deadline"


def test_a_compensation_that_leaves_what_is_pending_is_found() -> None:
    async def idle(session: AsyncSession, command: Scrap, context: Context) -> Pending | None:
        if "pending" in context.undoes.values():
            return None
        return await scrap(session, command, context)

    with pytest.raises(WayFailed, match="row part='build 1': was not there, is there"):
        check(TOO_LATE, scrap=idle)


def test_a_webhook_that_undoes_although_another_answer_was_given_is_found() -> None:
    async def blind(session: AsyncSession, id: str) -> None:
        with contextlib.suppress(CannotComplete):
            await complete(session, id, NO)
        await session.execute(delete(Order).where(Order.part == "sell 1"))

    with pytest.raises(WayFailed, match="row part='sell 1': was there, is not there") as failed:
        check(completions={**RIGHT, Sell: [100, blind]})
    assert failed.value.way == "step 'sell' is completed twice"


def test_a_webhook_that_writes_before_it_knows_that_it_is_in_time_is_found() -> None:
    async def hasty(session: AsyncSession, id: str) -> None:
        session.add(Order(part=f"built {id}"))
        with contextlib.suppress(CannotComplete):
            await complete(session, id, None)

    with pytest.raises(WayFailed, match=r"row part='built .*was not there, is there") as failed:
        check("while step 'build' is pending", {**RIGHT, Build: [hasty]})
    assert failed.value.way == TOO_LATE


# The library's own mechanisms: without them, the same check of a right saga fails.


def test_a_refusal_that_does_not_say_that_it_came_after_pending_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told_wrongly(*arguments: Any, **_: Any) -> Completion:
        pended, reply, undoing = arguments
        return completion.completed(pended, reply, undoing, is_definite=True)

    monkeypatch.setattr(completing, "completed", told_wrongly)
    with pytest.raises(WayFailed, match="'build' is in effect"):
        check("step 'build' is completed with Refused")


def test_an_inbox_that_takes_an_answer_after_the_undo_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lenient(id: str, row: Row | None) -> Pended | None:
        with contextlib.suppress(TooLate):
            return known(id, row)
        return None

    known = completing._pended
    monkeypatch.setattr(completing, "_pended", lenient)
    with pytest.raises(WayFailed, match="step 'build' was completed after its undo"):
        check(TOO_LATE)
