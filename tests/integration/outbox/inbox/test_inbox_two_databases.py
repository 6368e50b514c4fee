"""Two orchestrators of one name, in different databases: an inbox forgets nothing for what one says
of the other's sagas, and tells of them; a database that was replaced costs it only time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.ids import first_at
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.purge.questions import Stopped
from outbox.wire.envelope import Envelope
from outbox.wire.settled import MAX_LIVE, EndedSagas
from tests.support.outbox.inboxes import Bench, Book, Names, Noted, Unbook, envelope, outcomes

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
RETENTION = InboxLimits().retention
OURS, THEIRS = "019b76da-a800-7000-8000-00000000000a", "019b76da-a800-7000-8000-00000000000b"


class Two(Bench):
    """A consumer, and two orchestrators that call themselves `orchestrator`."""

    def __init__(self, engine: AsyncEngine, names: Names) -> None:
        super().__init__(engine)
        self.names = names

    def command(self, saga: str) -> Envelope:
        return envelope(self.names(), Book("a"), source="orchestrator", correlation=saga)

    def undo(self, command: Envelope) -> Envelope:
        return envelope(
            self.names(self.clock.now()),
            Unbook("a"),
            source="orchestrator",
            correlation=command.correlation,
            undoes=(command.id,),
        )

    async def hear(
        self,
        database: str | None,
        *live: str,
        source: str = "orchestrator",
        by: Inbox | None = None,
    ) -> None:
        """The next delivery from there: all old sagas have ended but these."""
        said = EndedSagas(first_at(self.clock.now() - 7 * DAY), frozenset(live), database)
        news = envelope(self.names(self.clock.now()), Noted("a"), source=source)
        await (by or self.inbox).receive([news], said)

    def wait(self, time: timedelta) -> None:
        self.clock.advance(time.total_seconds())


@pytest.fixture
def two(engine: AsyncEngine, names: Names) -> Two:
    return Two(engine, names)


async def test_what_another_database_says_takes_no_action_from_its_undo(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    """A run of the one waits for longer than the retention. The other knows nothing of it, and so
    says that it has ended."""
    booked = two.command(live := two.names())
    await two.receive(booked)
    two.wait(RETENTION + DAY)
    await two.hear(OURS, live)
    await two.hear(THEIRS)
    two.wait(2 * MINUTE)
    await two.hear(OURS, live)
    await two.hear(THEIRS)
    assert await two.inbox.purge() == 0
    assert outcomes(await two.receive(two.undo(booked))) == ["done"]
    assert "an entry" not in await two.entries()
    assert two.inbox.stopped == {"orchestrator": Stopped.TWO_DATABASES}
    (told,) = [it for it in caplog.records if it.levelname == "ERROR"]
    assert (
        f"two orchestrators have the name orchestrator: the databases {OURS} and {THEIRS} both"
        in (told.getMessage())
    )
    assert "a name of its own" in told.getMessage()


async def test_a_silent_one_is_remembered_by_every_process_of_the_consumer(two: Two) -> None:
    """It is heard by a process that ends, and says nothing while its run waits."""
    booked = two.command(live := two.names())
    await two.receive(booked)
    two.wait(RETENTION + DAY)
    before = Inbox(two.handlers, two.sessions, clock=two.clock)
    await two.hear(OURS, live, by=before)
    await before.purge()
    two.wait(20 * DAY)
    await two.hear(THEIRS)
    assert await two.inbox.purge() == 0
    assert outcomes(await two.receive(two.undo(booked))) == ["done"]


async def test_a_database_that_was_replaced_counts_when_the_other_was_silent_for_long(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    old = two.command(two.names())
    await two.receive(old)
    two.wait(RETENTION + DAY)
    await two.hear(OURS, *(two.names() for _ in range(MAX_LIVE)))
    two.wait(MINUTE)
    for _ in range(3):
        await two.hear(THEIRS)
        assert await two.inbox.purge() == 0
        two.wait(10 * DAY - MINUTE)
    assert two.inbox.stopped == {}
    assert [it.levelname for it in caplog.records] == ["WARNING"]
    assert f"speaks from the database {THEIRS}, and spoke from {OURS} before" in caplog.text
    two.wait(DAY)
    await two.hear(THEIRS)
    assert await two.inbox.purge() > 0
    assert old.id not in await two.states()


async def test_two_that_are_one_again_are_told_no_more_after_a_day(two: Two) -> None:
    """As where packets of a database that was replaced lay in a broker for a while."""
    for _ in range(2):
        await two.hear(OURS)
        await two.hear(THEIRS)
        two.wait(2 * MINUTE)
    await two.inbox.purge()
    assert two.inbox.stopped == {"orchestrator": Stopped.TWO_DATABASES}
    two.wait(DAY)
    await two.hear(THEIRS)
    await two.inbox.purge()
    assert two.inbox.stopped == {}


async def test_senders_that_tell_no_database_count_as_before(two: Two) -> None:
    """An older version, alone and beside the nodes that are new already."""
    await two.receive(two.command(two.names()))
    two.wait(RETENTION + DAY)
    await two.hear(None)
    assert await two.inbox.purge() == 1
    await two.receive(two.command(two.names(two.clock.now())))
    two.wait(RETENTION + DAY)
    await two.hear(OURS)
    await two.hear(None)
    assert await two.inbox.purge() > 0
    assert two.inbox.stopped == {}


async def test_databases_of_different_names_are_no_trouble(two: Two) -> None:
    await two.receive(two.command(two.names()))
    two.wait(RETENTION + DAY)
    for _ in range(2):
        await two.hear(OURS)
        await two.hear(THEIRS, source="office")
        two.wait(2 * MINUTE)
    assert await two.inbox.purge() == 1
    assert two.inbox.stopped == {}
