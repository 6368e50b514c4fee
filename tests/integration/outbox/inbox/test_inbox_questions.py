"""What an inbox asks about ended sagas: many that wait for long never stop its purge, and what it
learns never lets a command run twice, nor keeps one from running that may."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Collection
from datetime import timedelta

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import tables
from outbox.adding.installation import install
from outbox.contract import AreEnded, RunsEnded
from outbox.ids import Ids, first_at
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.purge.questions import PATIENCE, Stopped
from outbox.inbox.transactions import store
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.wire.codec import decode
from outbox.wire.envelope import Envelope
from outbox.wire.settled import MAX_LIVE, MAX_REMEMBERED, MAX_TOLD, EndedSagas
from tests.support.outbox.inboxes import START, Bench, Book, Names, Noted, Unbook, envelope

DAY = timedelta(days=1)
LATER = InboxLimits().retention + DAY


class Orchestrator:
    """What an orchestrator says of its sagas: those of `live` live, and all others have ended."""

    def __init__(self, clock: FakeClock) -> None:
        self.live: set[str] = set()
        self.database: str | None = None
        self._clock = clock

    @property
    def header(self) -> EndedSagas:
        below = first_at(self._clock.now() - 7 * DAY)
        live = sorted(each for each in self.live if each < below)
        return EndedSagas(
            live[MAX_LIVE] if len(live) > MAX_LIVE else below,
            frozenset(live[:MAX_LIVE]),
            self.database,
        )

    def answer(self, question: AreEnded, *, most: int = MAX_TOLD) -> RunsEnded:
        live = sorted(each for each in self.live if question.since <= each < question.before)
        is_more = len(live) > most
        before = live[most] if is_more else question.before
        return RunsEnded(
            question.consumer, question.since, before, live[:most], is_more, self.database
        )


class Asking(Bench):
    """A consumer with a way to the orchestrator, and the orchestrator."""

    def __init__(
        self,
        engine: AsyncEngine,
        names: Names,
        *,
        clock: FakeClock | None = None,
        peers: Collection[str] = ("orchestrator",),
    ) -> None:
        super().__init__(engine, clock=clock)
        ids = Ids(self.clock, os.urandom)
        install(self.sessions, source="bank", routes={}, clock=self.clock, ids=ids)
        self.inbox = Inbox(self.handlers, self.sessions, clock=self.clock, peers=peers)
        self.orchestrator = Orchestrator(self.clock)
        self.names = names

    async def hear(self) -> None:
        """The orchestrator's next delivery, of a new event."""
        news = envelope(self.names(self.clock.now()), Noted("a"), source="orchestrator")
        await self.receive(news, settled=self.orchestrator.header)

    def command(self, saga: str) -> Envelope:
        return envelope(self.names(), Book("a"), source="orchestrator", correlation=saga)

    async def purge(self) -> int:
        await self.hear()
        return await self.inbox.purge()

    async def questions(self) -> list[tuple[str, AreEnded]]:
        """Those in the outbox, oldest first."""
        async with self.engine.connect() as connection:
            rows = await connection.execute(
                select(tables.outbox.c.id, tables.outbox.c.destination, tables.outbox.c.payload)
                .where(tables.outbox.c.type == str(AreEnded.message_type))
                .order_by(tables.outbox.c.seq)
            )
            found = rows.all()
        assert {row.destination for row in found} <= {"orchestrator"}
        return [(row.id, decode(AreEnded, row.payload.encode())) for row in found]

    async def question(self) -> tuple[str, AreEnded]:
        """The only one, which leaves."""
        ((id, question),) = await self.questions()
        await self.lose()
        return id, question

    async def lose(self) -> None:
        """What is in the outbox is delivered, and nothing more is heard of it."""
        async with self.engine.begin() as connection:
            await connection.execute(delete(tables.outbox))

    async def tell(self, question: str, answer: RunsEnded) -> Reply:
        """The answer arrives."""
        told = envelope(
            self.names(self.clock.now()), answer, source="orchestrator", causation=question
        )
        return await self.receive_one(told)

    async def answered(self) -> None:
        """The question is answered."""
        id, question = await self.question()
        reply = await self.tell(id, self.orchestrator.answer(question))
        assert reply.outcome is Outcome.DONE


@pytest.fixture
def asking(engine: AsyncEngine, names: Names) -> Asking:
    return Asking(engine, names)


async def with_long_waits(asking: Asking, waits: int = MAX_LIVE + 1) -> tuple[Envelope, Envelope]:
    """The commands of a saga that has ended and of one that has not, both behind others that live
    for long; all of them are old."""
    asking.orchestrator.live = {asking.names() for _ in range(waits)}
    ended, live = asking.command(asking.names()), asking.command(asking.names())
    assert live.correlation is not None
    asking.orchestrator.live.add(live.correlation)
    await asking.receive(ended, live)
    asking.clock.advance(LATER.total_seconds())
    return ended, live


# --- What it is for ------------------------------------------------------------------------------


async def test_many_long_waits_do_not_stop_the_purge_of_what_has_ended(asking: Asking) -> None:
    ended, live = await with_long_waits(asking)
    assert await asking.purge() == 0, "no delivery can say so"
    await asking.answered()
    assert await asking.purge() == 1
    assert (await asking.receive_one(ended)).outcome is Outcome.TOO_OLD
    assert (await asking.receive_one(live)).outcome is Outcome.DONE
    assert await asking.entries() == ["an entry", "an entry", "a note", "a note"]


async def test_a_saga_that_lives_is_not_forgotten_where_it_left_no_row_here(
    asking: Asking,
) -> None:
    """It lies among those that are purged, and its first command here comes after the purge."""
    asking.orchestrator.live = {asking.names() for _ in range(MAX_LIVE + 1)}
    before, silent, after = (asking.names() for _ in range(3))
    asking.orchestrator.live.add(silent)
    first = asking.command(silent)
    await asking.receive(asking.command(before), asking.command(after))
    asking.clock.advance(LATER.total_seconds())
    await asking.purge()
    await asking.answered()
    assert await asking.purge() == 2
    assert (await asking.receive_one(first)).outcome is Outcome.DONE
    undo = envelope(
        asking.names(asking.clock.now()),
        Unbook("a"),
        source="orchestrator",
        correlation=silent,
        undoes=(asking.names(),),
    )
    assert (await asking.receive_one(undo)).outcome is Outcome.NOTHING_TO_UNDO


@pytest.mark.parametrize("speaks", [True, False], ids=["speaks", "silent"])
async def test_an_answer_from_another_database_is_not_believed_and_the_question_comes_again(
    asking: Asking, speaks: bool
) -> None:
    """Another orchestrator of that name stands at its address, and knows nothing of the runs."""
    ours, theirs = asking.names(), asking.names()
    ended, live = await with_long_waits(asking)
    asking.orchestrator.database = ours
    await asking.purge()
    id, question = await asking.question()
    told = RunsEnded(question.consumer, question.since, question.before, [], False, theirs)
    if speaks:
        asking.orchestrator.database = theirs
        await asking.hear()
        assert await asking.inbox.purge() == 0
        told = dataclasses.replace(told, database=ours)
    assert (await asking.tell(id, told)).outcome is Outcome.DONE
    assert await asking.purge() == 0
    assert {ended.id, live.id} <= set(await asking.states())
    asking.clock.advance(PATIENCE.total_seconds() + 1)
    assert await asking.purge() == 0
    assert [it.since for _, it in await asking.questions()] == ([] if speaks else [question.since])


async def test_few_long_waits_are_not_asked_about(asking: Asking) -> None:
    await with_long_waits(asking, MAX_LIVE - 2)
    assert await asking.purge() == 1, "the delivery names all that live"
    assert await asking.questions() == []


async def test_more_than_an_answer_can_name_are_asked_for_in_parts(asking: Asking) -> None:
    ended, _ = await with_long_waits(asking, MAX_LIVE + 50)
    await asking.purge()
    id, question = await asking.question()
    await asking.tell(id, asking.orchestrator.answer(question, most=20))
    assert await asking.purge() == 0
    id, rest = await asking.question()
    assert question.since < rest.since
    await asking.tell(id, asking.orchestrator.answer(rest, most=20))
    for _ in range(5):
        if await asking.purge():
            break
        id, rest = await asking.question()
        await asking.tell(id, asking.orchestrator.answer(rest, most=20))
    assert (await asking.receive_one(ended)).outcome is Outcome.TOO_OLD


async def test_what_lived_when_it_was_asked_for_is_asked_for_again(asking: Asking) -> None:
    _, live = await with_long_waits(asking)
    await asking.purge()
    await asking.answered()
    assert await asking.purge() == 1
    assert await asking.questions() == [], "not at once"
    assert live.correlation is not None
    asking.orchestrator.live.remove(live.correlation)
    asking.clock.advance(PATIENCE.total_seconds())
    assert await asking.purge() == 0
    await asking.answered()
    assert await asking.purge() == 1
    assert (await asking.receive_one(live)).outcome is Outcome.TOO_OLD


# --- The ways that a question and an answer go ---------------------------------------------------


async def test_one_question_is_open_at_a_time(engine: AsyncEngine, asking: Asking) -> None:
    await with_long_waits(asking)
    other = Asking(engine, asking.names, clock=asking.clock)
    other.orchestrator = asking.orchestrator
    for each in (asking, other, asking):
        await each.purge()
    assert len(await asking.questions()) == 1


async def test_purges_at_once_ask_one_question(engine: AsyncEngine, asking: Asking) -> None:
    await with_long_waits(asking)
    others = [Asking(engine, asking.names, clock=asking.clock) for _ in range(4)]
    for each in others:
        each.orchestrator = asking.orchestrator
        await each.hear()
    await asyncio.gather(*(each.inbox.purge() for each in others))
    await asking.answered()
    gone = await asyncio.gather(*(each.inbox.purge() for each in others))
    assert sum(gone) == 1


async def test_a_question_that_was_lost_is_asked_again_and_said_to_be_unanswered(
    asking: Asking,
) -> None:
    await with_long_waits(asking)
    await asking.purge()
    await asking.lose()
    await asking.purge()
    assert (await asking.questions(), asking.inbox.stopped) == ([], {})
    asking.clock.advance(PATIENCE.total_seconds())
    await asking.purge()
    assert asking.inbox.stopped == {"orchestrator": Stopped.UNANSWERED}
    await asking.answered()
    assert await asking.purge() == 1
    assert asking.inbox.stopped == {}


async def test_a_question_that_has_not_left_is_not_asked_again(asking: Asking) -> None:
    await with_long_waits(asking)
    for _ in range(3):
        await asking.purge()
        asking.clock.advance(PATIENCE.total_seconds())
    await asking.purge()
    assert len(await asking.questions()) == 1
    assert asking.inbox.stopped == {"orchestrator": Stopped.UNANSWERED}


async def test_an_answer_counts_in_another_process_that_has_heard_nothing(
    engine: AsyncEngine, asking: Asking
) -> None:
    ended, _ = await with_long_waits(asking)
    await asking.purge()
    id, question = await asking.question()
    other = Asking(engine, asking.names, clock=asking.clock)
    await other.tell(id, asking.orchestrator.answer(question))
    assert await other.inbox.purge() == 1, "the watermark alone says so"
    assert (await other.receive_one(ended)).outcome is Outcome.TOO_OLD


async def test_an_answer_that_comes_late_or_twice_takes_nothing_back(asking: Asking) -> None:
    ended, live = await with_long_waits(asking)
    await asking.purge()
    id, question = await asking.question()
    early = asking.orchestrator.answer(question)
    assert live.correlation is not None
    asking.orchestrator.live.remove(live.correlation)
    await asking.tell(id, asking.orchestrator.answer(question))
    await asking.tell(id, early)
    assert await asking.purge() == 2
    await asking.tell(id, early)
    for each in (ended, live):
        assert (await asking.receive_one(each)).outcome is Outcome.TOO_OLD
    assert await asking.entries() == ["an entry", "an entry", *["a note"] * 2]


async def test_a_saga_that_ends_after_the_answer_is_kept_until_it_is_asked_for_again(
    asking: Asking,
) -> None:
    _, live = await with_long_waits(asking)
    await asking.purge()
    id, question = await asking.question()
    answer = asking.orchestrator.answer(question)
    assert live.correlation is not None
    asking.orchestrator.live.remove(live.correlation)
    await asking.tell(id, answer)
    assert await asking.purge() == 1
    assert (await asking.receive_one(live)).outcome is Outcome.DONE


async def test_an_answer_that_leaves_a_gap_changes_nothing(asking: Asking) -> None:
    """The database was restored: it knows less than it did when the question was asked."""
    ended, _ = await with_long_waits(asking)
    await asking.purge()
    id, question = await asking.question()
    beyond = dataclasses.replace(question, since=first_at(START + timedelta(seconds=1)))
    await asking.tell(id, asking.orchestrator.answer(beyond))
    assert await asking.purge() == 0
    assert (await asking.receive_one(ended)).outcome is Outcome.DONE


async def test_an_answer_to_a_question_that_the_database_does_not_know_changes_nothing(
    asking: Asking,
) -> None:
    ended, _ = await with_long_waits(asking)
    await asking.hear()
    question = AreEnded("bank", first_at(START - DAY), first_at(asking.clock.now()))
    await asking.tell(asking.names(), asking.orchestrator.answer(question))
    assert await asking.purge() == 0
    assert (await asking.receive_one(ended)).outcome is Outcome.DONE


async def test_an_answer_about_the_future_is_believed_as_far_as_the_question_went(
    asking: Asking,
) -> None:
    await with_long_waits(asking)
    await asking.purge()
    id, question = await asking.question()
    future = dataclasses.replace(question, before=first_at(asking.clock.now() + DAY))
    await asking.tell(id, asking.orchestrator.answer(future))
    moment = asking.clock.now() - 2 * DAY
    young = envelope(
        asking.names(moment), Book("a"), source="orchestrator", correlation=asking.names(moment)
    )
    assert (await asking.receive_one(young)).outcome is Outcome.DONE


async def test_what_another_sender_answers_is_about_its_own_sagas(asking: Asking) -> None:
    await with_long_waits(asking)
    await asking.purge()
    id, question = await asking.question()
    answer = asking.orchestrator.answer(question)
    told = envelope(asking.names(asking.clock.now()), answer, source="another", causation=id)
    await asking.receive(told)
    assert await asking.purge() == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: dataclasses.replace(answer, since="soon"),
        lambda answer: dataclasses.replace(answer, before="soon"),
        lambda answer: dataclasses.replace(answer, live=[*answer.live, "soon"]),
        lambda answer: dataclasses.replace(answer, live=[answer.since] * (MAX_TOLD + 1)),
    ],
    ids=["since", "before", "live", "too many"],
)
async def test_an_answer_that_is_none_is_rejected(
    asking: Asking, spoil: Callable[[RunsEnded], RunsEnded]
) -> None:
    await with_long_waits(asking)
    await asking.purge()
    id, question = await asking.question()
    answer = spoil(asking.orchestrator.answer(question))
    assert (await asking.tell(id, answer)).outcome is Outcome.REJECTED
    assert await asking.purge() == 0


# --- Where it must stop --------------------------------------------------------------------------


async def test_without_a_way_to_the_orchestrator_the_purge_stops_and_says_so(
    engine: AsyncEngine, names: Names
) -> None:
    asking = Asking(engine, names, peers=("another",))
    ended, _ = await with_long_waits(asking)
    assert await asking.purge() == 0
    assert asking.inbox.stopped == {"orchestrator": Stopped.NO_WAY}
    assert await asking.questions() == []
    assert (await asking.receive_one(ended)).outcome is Outcome.DONE
    asking.orchestrator.live = set()
    assert await asking.purge() == 2, "now the delivery says it"
    assert asking.inbox.stopped == {}


async def test_more_live_sagas_than_are_remembered_stop_it_visibly(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("outbox.inbox.purge.questions", "outbox.wire.settled"):
        monkeypatch.setattr(f"{module}.MAX_REMEMBERED", MAX_LIVE + 10)
    ended, _ = await with_long_waits(asking, MAX_LIVE + 50)
    await asking.purge()
    await asking.answered()
    assert await asking.purge() == 0
    assert asking.inbox.stopped == {"orchestrator": Stopped.TOO_MANY_LIVE}
    assert await asking.questions() == [], "it would only be told the same"
    assert (await asking.receive_one(ended)).outcome is Outcome.DONE
    async with asking.sessions() as session:
        marks = await session.run_sync(store.watermarks, "bank")
    assert len(marks.sagas["orchestrator"].live) == MAX_LIVE + 10


async def test_statements_take_as_many_live_sagas_as_are_remembered(asking: Asking) -> None:
    """Each is a parameter, of which databases take a bounded number."""
    names = asking.names
    live = [names() for _ in range(MAX_REMEMBERED)]
    asking.orchestrator.live = set(live)
    ended, waiting = asking.command(names()), asking.command(live[-1])
    await asking.receive(ended, waiting)
    mark = EndedSagas(names(), frozenset(live))
    async with asking.sessions.begin() as session:
        await session.run_sync(store.set_watermark, "bank", "orchestrator", store.SAGA, mark)
    asking.clock.advance(LATER.total_seconds())
    assert await asking.purge() == 1
    assert asking.inbox.stopped == {"orchestrator": Stopped.TOO_MANY_LIVE}
    _, question = await asking.question()
    assert question.since == live[-1], "whether that one has ended is asked all the same"
    assert (await asking.receive_one(ended)).outcome is Outcome.TOO_OLD
    assert (await asking.receive_one(waiting)).outcome is Outcome.DONE
