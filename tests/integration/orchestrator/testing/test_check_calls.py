"""`check_saga` with calls to the outside, and what it finds in the functions that make them.

What it finds on every database stands in `tests/contracts/test_world_databases_later.py`.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import orchestrator
import outbox
from orchestrator import Saga, compensatable, pivot, retriable
from orchestrator.machine.instance import Status
from orchestrator.testing import Checked, Run, SagaWorld, WayFailed, check_saga
from outbox import Command, Context, Handlers, Refused
from outbox.inbox.outside import rules
from outbox.testing import crash_points as crash_points_of


class Base(DeclarativeBase):
    pass


class Receipt(Base):
    __tablename__ = "receipts"
    charge: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[int]


class Sold(Base):
    __tablename__ = "sold"
    id: Mapped[str] = mapped_column(primary_key=True)


@dataclass(frozen=True)
class Pay(Command[int], type="till.pay.v1", key="id"):
    id: str


@dataclass(frozen=True)
class PayBack(Command[None], type="till.pay-back.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Sell(Command[None], type="till.sell.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Tell(Command[None], type="till.tell.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Sale:
    id: str


sale = Saga(
    name="sale",
    version=1,
    state=Sale,
    key=lambda it: it.id,
    steps=[
        compensatable("pay", lambda it: Pay(it.id), compensation=lambda it: PayBack(it.id)),
        pivot("sell", lambda it: Sell(it.id)),
        retriable("tell", lambda it: Tell(it.id)),
    ],
)


@dataclass
class Provider:
    """Charges, voids and tells, each once under one key."""

    charged: dict[str, int] = field(default_factory=dict)
    voided: set[str] = field(default_factory=set)
    told: Counter[str] = field(default_factory=Counter)

    honours_keys: bool = True
    has_void: bool = True

    def begin(self) -> None:
        self.charged, self.voided, self.told = {}, set(), Counter()

    def charge(self, key: str) -> int | Refused:
        if key in self.voided:
            return Refused("void", "its key is void")
        return self.charged.setdefault(key if self.honours_keys else key + str(uuid.uuid4()), 100)

    def tell(self, key: str) -> None:
        self.told[key] = 1 if self.honours_keys else self.told[key] + 1

    def void(self, key: str) -> None:
        """No charge stands, or comes, under this key."""
        self.charged = {
            known: it for known, it in self.charged.items() if not known.startswith(key)
        }
        if self.has_void:
            self.voided.add(key)


provider = Provider()
CANCELLED = "a person cancels during the call of step 'pay', which is cut off"
AFTER_UNDO = "the call of step 'pay' is made after its undo"


async def charge(_: Pay, context: Context) -> int | Refused:
    return provider.charge(context.id)


async def pay_back(_: PayBack, context: Context) -> None:
    for key in context.undoes:
        provider.void(key)


async def tell(_: Tell, context: Context) -> None:
    provider.tell(context.id)


async def store(session: AsyncSession, _: Pay, reply: int | Refused, context: Context) -> None:
    if isinstance(reply, int):
        session.add(Receipt(charge=context.id, amount=reply))


async def forget(session: AsyncSession, _: PayBack, __: object, context: Context) -> None:
    await session.execute(delete(Receipt).where(Receipt.charge.in_(context.undoes)))


async def sell(session: AsyncSession, command: Sell, _: Context) -> None:
    session.add(Sold(id=command.id))


def till(
    charge: Callable[[Pay, Context], Any] = charge,
    pay_back: Callable[[PayBack, Context], Any] = pay_back,
    *,
    keyed: bool = True,
) -> Handlers:
    handlers = Handlers("till")
    handlers.outside(Pay, timeout=5, keyed=keyed, after=store)(charge)
    handlers.outside(PayBack, timeout=5, keyed=keyed, after=forget)(pay_back)
    handlers.outside(Tell, timeout=5, keyed=keyed)(tell)
    handlers.on(Sell)(sell)
    return handlers


def paid_once_if_sold(world: SagaWorld, run: Run) -> None:
    done = run.status is Status.COMPLETED
    assert sum(provider.charged.values()) == 100 * done, f"charged {provider.charged}"
    assert sum(provider.told.values()) == done, f"told {provider.told}"
    with world.session("till") as session:
        assert session.query(Receipt).count() == done


def check(only: str = "", *, handlers: Handlers | None = None, has_void: bool = True) -> Checked:
    provider.has_void = has_void
    return check_saga(
        sale,
        Sale("1"),
        participants={"till": handlers or till()},
        schema=Base.metadata,
        begin=provider.begin,
        invariant=paid_once_if_sold,
        only=only,
    )


def test_right_calls_pass_with_every_fault_of_messages() -> None:
    checked = check("message")
    assert checked.missed == []
    assert {Status.COMPLETED, Status.COMPENSATED} == set(checked.ends.values())


def test_every_crash_point_of_calls_is_among_the_ways() -> None:
    checked = check("dies at 'outside:")
    assert checked.missed == []
    words = "\n".join(checked.ways)
    everywhere = {it for it in crash_points_of(outbox, orchestrator) if it.startswith("outside:")}
    assert {it for it in everywhere if f"dies at {it!r}" not in words} == set()


def test_every_way_of_a_call_is_tried() -> None:
    checked = check("the call of")
    assert checked.missed == []
    ways = [it for it in checked.ways[1:] if "dies at" not in it]
    ends = [
        "has its effect twice, and ends without an answer",
        "has its effect, and is cut off at its timeout",
        "is taken over by another process, and made late",
    ]
    pay = ["the call of step 'pay' is refused", *(f"the call of step 'pay' {it}" for it in ends)]
    pay += [CANCELLED, AFTER_UNDO]
    back = "the call of the compensation of step 'pay'"
    undone = ", while step 'sell' is refused"
    assert ways == [
        *pay,
        *(f"the call of step 'tell' {it}" for it in ends),
        *(f"{back} {it}{undone}" for it in ["is refused", *ends]),
    ]


def test_a_success_that_comes_after_its_undo_is_undone_once_more() -> None:
    undone = []

    async def counted(command: PayBack, context: Context) -> None:
        undone.append(dict(context.undoes))
        await pay_back(command, context)

    checked = check(AFTER_UNDO, handlers=till(pay_back=counted), has_void=False)
    assert checked.ends[AFTER_UNDO] is Status.COMPENSATED
    assert [list(it.values()) for it in undone[:2]] == [["in-doubt"], ["ran"]]


@pytest.fixture
def forgetful() -> Iterator[None]:
    """The provider honours no keys."""
    provider.honours_keys = False
    yield
    provider.honours_keys = True


TELL = "the call of step 'tell' has its effect twice, and ends without an answer"


@pytest.mark.usefixtures("forgetful")
def test_a_call_that_may_not_be_repeated_is_left_to_a_person() -> None:
    assert check(TELL, handlers=till(keyed=False)).ends[TELL] is Status.STUCK


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda it: it.disturb("sell", "refused"), "step 'sell' makes no call to the outside"),
        (lambda it: it.disturb("tell", "undone"), "step 'tell' is not undone"),
        (lambda it: it.disturb("pay", "cancelled", undo=True), "'pay' is not undone"),
    ],
)
def test_a_wish_that_fits_no_call_is_refused(
    saga_world: Callable[..., SagaWorld], wrong: Callable[[SagaWorld], object], problem: str
) -> None:
    world = saga_world(sale, participants={"till": till()}, schema=Base.metadata)
    with pytest.raises(ValueError, match=problem):
        wrong(world)


def test_a_call_that_is_cut_off_takes_its_time_and_is_made_again(
    saga_world: Callable[..., SagaWorld],
) -> None:
    provider.begin()
    world = saga_world(sale, participants={"till": till()}, schema=Base.metadata)
    world.disturb("pay", "cut off")
    run = world.run(Sale("1"))
    assert run.status is Status.COMPLETED
    assert 5 < float(run.history[-1].split()[0]) < 60
    assert list(provider.charged.values()) == [100]


def test_a_process_that_dies_in_a_call_gives_no_answer(
    saga_world: Callable[..., SagaWorld],
) -> None:
    provider.begin()
    world = saga_world(sale, participants={"till": till()}, schema=Base.metadata)
    world.crash_at("outside: after before, before the call")
    run = world.run(Sale("1"))
    assert run.status is Status.COMPLETED
    first = next(line for line in run.history if "answered  'pay'" in line)
    assert float(first.split()[0]) > 2, "the orchestrator waited in vain at first"


# Wrong functions


def test_a_function_that_gives_the_provider_another_key_each_time_is_found() -> None:
    async def careless(_: Pay, context: Context) -> int | Refused:
        return provider.charge(f"{context.id} {uuid.uuid4()}")

    with pytest.raises(WayFailed, match="the invariant does not hold: charged ") as failed:
        check(handlers=till(careless))
    twice = "the call of step 'pay' has its effect twice, and ends without an answer"
    assert failed.value.way == twice


def test_a_compensation_that_leaves_what_is_in_doubt_is_found() -> None:
    async def only_what_ran(_: PayBack, context: Context) -> None:
        for key, state in context.undoes.items():
            if state == "ran":
                provider.void(key)

    with pytest.raises(WayFailed, match="the invariant does not hold: charged ") as failed:
        check("the call of step 'pay', which", handlers=till(pay_back=only_what_ran))
    assert failed.value.way == CANCELLED


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("way", ["taken over", TELL])
def test_a_provider_that_does_not_honour_its_keys_is_found(way: str) -> None:
    with pytest.raises(WayFailed, match=r"the invariant does not hold: (charged|told) "):
        check(way)


def test_a_plain_function_that_calls_the_outside_is_tried_too() -> None:
    def plain(_: Pay, context: Context) -> int | Refused:
        return provider.charge(context.id)

    assert check("the call of step 'pay'", handlers=till(plain)).missed == []


# The library's own mechanisms: without them, the same check of right calls fails.


@pytest.mark.usefixtures("forgetful")
def test_an_inbox_that_repeats_a_call_without_that_promise_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "_why_unknown", lambda *_: None)
    with pytest.raises(WayFailed, match="the invariant does not hold: told "):
        check("the call of step 'tell'", handlers=till(keyed=False))
