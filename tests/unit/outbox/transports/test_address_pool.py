"""Which address is asked, and what its answer means for the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.transports.addresses.address import Address, Found
from outbox.transports.addresses.overview import Overview, Seen
from outbox.transports.addresses.pool import CONNECT_SECONDS, MOST_ATTEMPTS, AddressPool, Told
from outbox.transports.addresses.standing import State
from outbox.transports.base import Answered, Delivery, Unacceptable, Unreachable
from outbox.wire.envelope import Envelope
from tests.support.outbox.envelopes import an_envelope
from tests.support.processes.waiting import until

ONE = (an_envelope(),)
DONE = Answered([Reply(Outcome.DONE)])
OURS, THEIRS = "the id of ours", "the id of theirs"
REFUSED = Told(Unreachable("connection refused", sent=False))
CUT = Told(Unreachable("the connection broke", sent=True))


@dataclass
class Scene:
    """Addresses a, b, ... with what each answers, and the deliveries to them."""

    answers: dict[str, Told]
    clock: FakeClock = field(default_factory=FakeClock)
    follows: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    probed: list[str] = field(default_factory=list)
    doubts: int = 0
    trouble: str | None = None

    def __post_init__(self) -> None:
        self.there = tuple(self.answers)
        self._found: Sequence[Found] = ()
        self.pool = AddressPool(
            "a,b", self, now=self.clock.monotonic, follows=self.follows, chance=lambda: 1.0
        )

    async def found(self) -> Sequence[Found]:
        """As a resolver does it."""
        return self.known

    @property
    def known(self) -> Sequence[Found]:
        """As a resolver does it."""
        found = tuple(Found(Address("http", it, 80, "")) for it in self.there)
        if found != self._found:
            self._found = found
        return self._found

    def doubt(self) -> None:
        """As a resolver does it."""
        self.doubts += 1

    async def aclose(self) -> None:
        """As a resolver does it."""

    async def attempt(
        self,
        envelopes: Sequence[Envelope],
        address: Address,
        database: str | None,
        *,
        within: float,
        connect_within: float,
    ) -> Told:
        """What the address answers."""
        assert 0 < connect_within <= within
        told = self.answers[address.host]
        if envelopes:
            self.asked.append((address.host, database))
            return told
        self.probed.append(address.host)
        is_there = isinstance(told.delivery, Answered)
        return Told(Answered(()), told.database) if is_there else told

    async def deliver(self, times: int = 1) -> Delivery:
        """That many deliveries; the answer to the last."""
        for _ in range(times):
            delivery = await self.pool.deliver(ONE, self.attempt, 4.0)
            for _ in range(3):
                await asyncio.sleep(0)  # a probe beside it has its turn
        return delivery

    @property
    def hosts(self) -> str:
        """The hosts that got messages, in their order."""
        return "".join(host for host, _ in self.asked)

    def seen(self, host: str) -> Seen:
        """How the pool sees it."""
        return next(it for it in self.overview.addresses if it.address == f"http://{host}:80")

    @property
    def overview(self) -> Overview:
        return self.pool.overview()


async def acquainted(hosts: str) -> Scene:
    """A scene in which each host is well, and one message was sent."""
    scene = Scene({host: ours() for host in hosts})
    await scene.deliver()
    return scene


def ours(delivery: Delivery = DONE) -> Told:
    return Told(delivery, OURS)


async def test_healthy_addresses_are_asked_in_turn() -> None:
    scene = Scene({"a": ours(), "b": ours(), "c": ours()})
    assert await scene.deliver(6) == DONE
    assert scene.hosts == "abcabc"
    assert scene.probed == ["a", "b", "c"]  # which told the database before any message left
    assert set(scene.asked) == {("a", OURS), ("b", OURS), ("c", OURS)}


async def test_what_was_certainly_not_sent_goes_to_the_next_address_within_the_delivery() -> None:
    scene = await acquainted("ab")
    scene.answers["b"] = REFUSED
    assert await scene.deliver(4) == DONE
    assert scene.hosts.count("b") == 1
    assert scene.seen("b").state is State.EJECTED
    assert scene.seen("b").reason == "connection refused"
    assert scene.overview.ejections == 1
    assert scene.doubts == 1  # DNS or Consul may know of another by now


async def test_what_may_have_been_taken_is_left_to_the_relay_and_then_goes_elsewhere() -> None:
    scene = Scene({"a": ours(), "b": ours()})
    await scene.deliver()
    scene.answers["b"] = CUT
    assert await scene.deliver() == CUT.delivery
    assert scene.hosts == "ab"
    assert await scene.deliver() == DONE
    assert scene.hosts == "aba"


async def test_an_ejected_address_is_probed_without_messages_after_growing_pauses() -> None:
    scene = await acquainted("ab")
    scene.answers["b"] = REFUSED
    await scene.deliver(2)
    probes = []
    for second in range(20):
        before = len(scene.probed)
        await scene.deliver()
        if len(scene.probed) > before:
            probes.append(second)
        scene.clock.advance(1)
    assert probes == [1, 2, 4, 8, 16]
    assert scene.hosts.count("b") == 1
    scene.answers["b"] = ours()
    scene.clock.advance(30)
    await scene.deliver(4)
    assert scene.hosts[-2:] in ("ab", "ba")
    assert scene.seen("b").failures == 0


async def test_one_that_answers_probes_alone_is_left_out_for_longer_and_longer() -> None:
    scene = Scene({"a": ours(), "b": ours()})
    await scene.deliver(2)

    async def hollow(*args: object, **options: object) -> Told:
        told = await scene.attempt(*args, **options)  # type: ignore[arg-type]  # as they came
        return CUT if scene.asked and scene.asked[-1][0] == "b" and args[0] else told

    for _ in range(40):
        await scene.pool.deliver(ONE, hollow, 4.0)
        await asyncio.sleep(0)
        scene.clock.advance(0.5)
    assert scene.hosts.count("b") < 8
    assert scene.seen("b").failures > 3


async def test_where_all_are_bad_one_is_tried_still_and_the_reason_is_said() -> None:
    scene = await acquainted("ab")
    scene.answers = {"a": REFUSED, "b": REFUSED}
    scene.asked.clear()
    assert await scene.deliver() == REFUSED.delivery
    assert sorted(scene.hosts) == ["a", "b"]
    scene.answers["b"] = ours()
    assert await scene.deliver() == DONE


async def test_no_message_leaves_before_an_address_answers_and_the_reason_is_said() -> None:
    busy = Told(Unreachable("it starts", sent=True, retry_after=3))
    scene = Scene({"a": busy, "b": REFUSED})
    assert await scene.deliver() == Unreachable(
        "a,b has no address that answers: it starts", sent=False, retry_after=3
    )
    assert scene.asked == []
    assert scene.seen("a").state is State.EJECTED
    scene.answers = {"a": Told(DONE, THEIRS), "b": ours()}
    assert "which is right is not known" in str(await scene.deliver())
    assert scene.asked == []
    scene.answers["a"] = REFUSED
    assert await scene.deliver() == DONE
    assert scene.hosts == "b"


async def test_the_dead_that_stand_first_hide_none_that_lives() -> None:
    scene = Scene({name: REFUSED for name in "abcde"})
    scene.answers["e"] = ours()
    assert isinstance(await scene.deliver(), Unreachable)
    assert await scene.deliver() == DONE
    assert scene.hosts == "e"


async def test_deliveries_that_wait_for_the_same_question_share_its_outcome() -> None:
    scene = Scene({"a": REFUSED, "b": REFUSED})
    told = await asyncio.gather(*(scene.pool.deliver(ONE, scene.attempt, 4.0) for _ in range(5)))
    assert [it.sent for it in told if isinstance(it, Unreachable)] == [False] * 5
    assert scene.probed == ["a", "b"]


async def test_one_that_refuses_the_question_itself_gets_messages() -> None:
    scene = Scene({"a": Told(DONE), "b": Told(DONE)})

    async def particular(*args: object, **options: object) -> Told:
        told = await scene.attempt(*args, **options)  # type: ignore[arg-type]  # as they came
        return told if args[0] else Told(Unacceptable("a batch has at least one message"))

    assert await scene.pool.deliver(ONE, particular, 4.0) == DONE
    scene.answers = {"a": Told(Unacceptable("no")), "b": Told(Unacceptable("no"))}
    assert await scene.pool.deliver(ONE, particular, 4.0) == Unacceptable("no")


async def test_a_silent_address_leaves_time_for_one_that_is_left_out() -> None:
    scene = await acquainted("ab")
    scene.answers = {"a": REFUSED, "b": REFUSED}
    await scene.deliver()
    patience: list[float] = []

    async def noting(*args: object, **options: object) -> Told:
        patience.append(float(str(options["connect_within"])))
        return await scene.attempt(*args, **options)  # type: ignore[arg-type]  # as they came

    await scene.pool.deliver(ONE, noting, 4.0)
    assert patience[0] == CONNECT_SECONDS
    assert patience[1] > CONNECT_SECONDS


async def test_one_delivery_tries_no_more_than_a_few() -> None:
    scene = await acquainted("abcdefgh")
    scene.answers = {name: REFUSED for name in "abcdefgh"}
    scene.asked.clear()
    assert await scene.deliver() == REFUSED.delivery
    assert len(scene.asked) == MOST_ATTEMPTS


async def test_a_busy_address_gives_its_turn_to_another_and_stays() -> None:
    busy = Told(Unreachable("too busy", sent=False, retry_after=1), OURS, is_busy=True)
    scene = Scene({"a": ours(), "b": busy})
    assert await scene.deliver(4) == DONE
    assert scene.seen("b").state is State.USABLE
    scene.answers["a"] = busy
    assert await scene.deliver() == busy.delivery


async def test_a_stranger_gets_no_message_and_is_told_loudly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuses = Told(Unreachable("421", sent=False), THEIRS, is_stranger=True)
    scene = await acquainted("ab")
    scene.answers["b"] = refuses
    assert await scene.deliver(6) == DONE
    assert scene.hosts.count("b") == 1
    assert scene.seen("b").state is State.STRANGER
    assert scene.overview.strangers == 1
    assert THEIRS in scene.seen("b").reason
    assert "restart the services that send there" in scene.seen("b").reason
    assert [it.levelno for it in caplog.records if "stranger" in it.message] == [logging.ERROR]


async def test_the_answer_of_another_database_is_none() -> None:
    scene = await acquainted("ab")
    scene.answers["b"] = Told(DONE, THEIRS)
    delivery = await scene.deliver()
    assert isinstance(delivery, Unreachable)
    assert delivery.sent
    assert await scene.deliver(3) == DONE
    assert scene.hosts == "abaaa"


async def test_most_of_the_addresses_say_which_database_it_is_before_any_message_leaves() -> None:
    scene = Scene({"a": Told(DONE, THEIRS), "b": ours(), "c": ours()})
    assert await scene.deliver(4) == DONE
    assert scene.hosts == "bcbc"
    assert scene.seen("a").state is State.STRANGER


async def test_where_as_many_say_one_database_as_another_nothing_is_sent_until_that_is_mended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene({"a": Told(DONE, THEIRS), "b": ours()})
    for _ in range(2):
        delivery = await scene.deliver()
        assert isinstance(delivery, Unreachable)
        assert not delivery.sent
        assert f"http://a:80 on {THEIRS}, http://b:80 on {OURS}" in delivery.reason
        assert "take those of the others out of that name" in delivery.reason
    trouble = scene.overview.trouble or ""
    assert f"http://a:80 on {THEIRS}" in trouble
    assert [it.levelno for it in caplog.records] == [logging.ERROR]
    scene.there = ("b",)
    assert await scene.deliver() == DONE
    assert scene.hosts == "b"
    assert scene.overview.trouble is None


async def test_the_database_is_known_early_so_that_a_stranger_which_comes_later_is_one() -> None:
    scene = Scene({"a": ours(), "b": Told(DONE, THEIRS)})
    scene.there = ("a",)
    scene.pool.begin(scene.attempt)
    await until(lambda: scene.overview.database is not None, what="the database is known")
    scene.there = ("b",)
    assert isinstance(await scene.deliver(), Unreachable)
    assert scene.overview.database == OURS
    await scene.pool.aclose()


async def test_where_all_are_strangers_nothing_is_sent_and_the_next_step_is_said() -> None:
    scene = Scene({"a": ours()})
    await scene.deliver()
    scene.there, scene.answers = ("b",), {"b": Told(DONE, THEIRS)}
    await scene.deliver()
    delivery = await scene.deliver()
    assert isinstance(delivery, Unreachable)
    assert (delivery.sent, scene.hosts) == (False, "ab")
    assert "restart the services" in delivery.reason
    scene.answers["b"] = ours()
    scene.clock.advance(30)
    await scene.deliver()
    assert await scene.deliver() == DONE


async def test_one_address_that_is_written_down_may_get_another_database(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene({"a": ours()}, follows=True)
    await scene.deliver(2)
    scene.answers["a"] = Told(DONE, THEIRS)
    assert await scene.deliver(2) == DONE
    assert scene.asked == [("a", None)] * 4
    assert scene.probed == []
    assert scene.overview.database == THEIRS
    assert "works on the database" in caplog.text


async def test_one_address_that_is_written_down_becomes_no_stranger() -> None:
    refuses = Told(Unreachable("421", sent=False), THEIRS, is_stranger=True)
    scene = Scene({"a": refuses}, follows=True)
    assert await scene.deliver() == refuses.delivery
    scene.answers["a"] = ours()
    assert await scene.deliver() == DONE


async def test_addresses_of_an_older_version_tell_no_database_and_are_used() -> None:
    scene = Scene({"a": Told(DONE), "b": Told(DONE)})
    assert await scene.deliver(4) == DONE
    assert scene.hosts == "abab"
    refusal = Told(Unacceptable("no"))
    scene.answers = {"a": refusal, "b": refusal}
    assert await scene.deliver() == refusal.delivery


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_refusal_of_a_stranger_at_the_address_condemns_no_message(is_known: bool) -> None:
    scene = Scene({"a": ours()})
    if is_known:
        await scene.deliver()
    scene.answers["a"] = Told(Unacceptable("400 Bad Request"))
    delivery = await scene.deliver()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    scene.answers["a"] = ours(Unacceptable("too large"))
    scene.clock.advance(30)
    assert await scene.deliver() == Unacceptable("too large")


async def test_without_an_address_the_trouble_of_finding_one_is_the_reason() -> None:
    scene = Scene({}, trouble="the name server does not know the name; add it there")
    delivery = await scene.deliver()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "does not know the name; add it there" in delivery.reason


async def test_an_address_that_goes_is_forgotten_and_one_that_comes_is_asked() -> None:
    scene = Scene({"a": ours(), "b": REFUSED, "c": ours()})
    scene.there = ("a", "b")
    await scene.deliver(2)
    scene.there = ("a", "c")
    await scene.deliver(4)
    assert {it.address for it in scene.overview.addresses} == {"http://a:80", "http://c:80"}
    assert "c" in scene.hosts
    scene.there = ("a", "b")
    scene.answers["b"] = ours()
    await scene.deliver(2)
    assert scene.seen("b").failures == 0
