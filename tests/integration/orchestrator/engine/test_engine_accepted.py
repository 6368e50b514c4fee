"""The blog's deletion over a way that only takes messages: the answers come as messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from comments.contract import CloseThread
from orchestrator.sagas.delete_article import delete_article
from outbox.clock import SystemClock
from outbox.contract import CommandAnswered
from outbox.inbox.answering import AnsweringInbox, add_answer
from outbox.inbox.inbox import Inbox
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import ToHold
from outbox.transports.brokers.held.policy import HeldPolicy
from outbox.transports.brokers.held.table import HeldTable
from outbox.transports.brokers.held.worker import HeldWorker
from outbox.wire.envelope import Envelope, to_structured
from outbox.wire.settled import EndedSagas
from tests.support.blog.blog import articles_schema, comments_schema
from tests.support.blog.whole_blog import WholeBlog, whole_blog
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.orchestrating import PARTICIPANTS, orchestrator_schema
from tests.support.outbox.accepting import AcceptingTransport
from tests.support.processes.waiting import until

HOLD = {"reason": "a court"}


class AheadClock:
    """The system's clock, which a test can set forward."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self._ahead = 0.0

    def now(self) -> datetime:
        return self._system.now() + timedelta(seconds=self._ahead)

    def monotonic(self) -> float:
        return self._system.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead += seconds


@dataclass
class Queued:
    """The blog, and the queues on which its commands wait for a consumer of each service."""

    blog: WholeBlog
    ways: dict[str, AcceptingTransport]
    clock: AheadClock
    inboxes: dict[str, AnsweringInbox] = field(default_factory=dict)

    async def consume(self, name: str) -> int:
        """Let the service's consumer take all that is there."""
        return await self.ways[name].drain(self.inboxes[name].receive)

    async def until_ended(self, saga: str) -> dict[str, Any]:
        """Let the consumers work until the run has ended."""

        async def ended() -> bool:
            for name in self.ways:
                await self.consume(name)
            return (await self.blog.saga(saga)).get("ended_at") is not None

        await until(ended, deadline=30, what=f"{saga} has ended")
        return await self.blog.saga(saga)

    async def start(self, article: str) -> str:
        """The id of a new run."""
        answer = await self.blog.start(article)
        assert answer.status_code < 300, answer.text
        return str(answer.json()["id"])


@pytest.fixture
async def queued(database_factory: DatabaseFactory) -> AsyncIterator[Queued]:
    databases: dict[str, Database] = {
        "articles": database_factory(articles_schema),
        "comments": database_factory(comments_schema),
        "orchestrator": database_factory(orchestrator_schema),
    }
    ways, clock = {name: AcceptingTransport() for name in PARTICIPANTS}, AheadClock()
    async with whole_blog(databases, [delete_article], ways=ways, clock=clock) as blog:
        made = Queued(blog, ways, clock)
        for name in PARTICIPANTS:
            service = blog.services[name].chassis.service
            inbox = Inbox(service.handlers, service.sessions, clock=service.clock, told=add_answer)
            made.inboxes[name] = AnsweringInbox(inbox, service.sessions)
        yield made


async def happened(queued: Queued, saga: str) -> list[str]:
    history = await queued.blog.ask("orchestrator", "GET", f"/sagas/{saga}/history")
    return [line["happening"] for line in history.json()["items"]]


async def test_a_deletion_is_completed_by_answers_that_come_as_messages(queued: Queued) -> None:
    article = await queued.blog.publish()
    saga = await queued.until_ended(await queued.start(article))
    assert saga["status"] == "COMPLETED"
    assert saga["state"] == {"article_id": article, "title": "Tides", "comments": 1}
    assert (await queued.blog.ask("articles", "GET", f"/articles/{article}")).status_code == 410
    assert "repeated" not in await happened(queued, saga["id"])


async def test_a_deletion_under_legal_hold_is_undone_by_messages(queued: Queued) -> None:
    article = await queued.blog.publish()
    await queued.blog.ask(
        "articles", "PUT", f"/articles/{article}/legal-hold", json={"reason": "a"}
    )
    saga = await queued.until_ended(await queued.start(article))
    assert saga["status"] == "COMPENSATED"
    shown = await queued.blog.ask("articles", "GET", f"/articles/{article}")
    assert shown.json()["status"] == "published"


@pytest.mark.databases("sqlite")  # time is the database's own on PostgreSQL
async def test_a_lost_command_is_accepted_again_after_the_pause(queued: Queued) -> None:
    article = await queued.blog.publish()
    saga = await queued.start(article)
    way = queued.ways["articles"]

    def ours() -> list[Envelope]:
        return [it for it in way.taken if it.correlation == saga]

    await until(ours, what="the first command was taken")

    async def accepted() -> bool:
        awaited = [step["awaited"] for step in (await queued.blog.saga(saga))["steps"]]
        return any(it is not None and it["wait"] == "accepted" for it in awaited)

    await until(accepted, what="the run knows that its command was accepted")
    way.queue.clear()
    queued.clock.advance(61)
    await until(lambda: len(ours()) > 1, what="the command was taken once more")
    first, second = ours()
    assert (first.id, first.data) == (second.id, second.data)
    assert (await queued.until_ended(saga))["status"] == "COMPLETED"
    assert "repeated" in await happened(queued, saga)


async def test_a_copy_that_is_consumed_again_is_answered_again_and_changes_nothing(
    queued: Queued,
) -> None:
    article = await queued.blog.publish()
    saga = await queued.until_ended(await queued.start(article))
    before = await happened(queued, saga["id"])
    for name, way in queued.ways.items():
        copies = [it for it in way.taken if it.correlation == saga["id"]]
        assert copies
        for copy in copies:
            (reply,) = await queued.inboxes[name].receive([copy])
            assert reply.outcome == "done"
    await queued.blog.publish()
    assert await happened(queued, saga["id"]) == before


@pytest.mark.databases("sqlite")  # time is the database's own on PostgreSQL
async def test_a_command_whose_answer_was_lost_is_answered_again_from_the_inbox(
    queued: Queued,
) -> None:
    article = await queued.blog.publish()
    lost: list[Envelope] = []
    answers: list[Envelope] = []

    def loses(envelope: Envelope) -> bool:
        if envelope.type != str(CommandAnswered.message_type) or envelope.key != saga:
            return False
        (answers if lost else lost).append(envelope)
        return not answers

    saga = ""
    queued.blog.loses = loses
    saga = await queued.start(article)
    way = queued.ways["articles"]

    def ours() -> list[Envelope]:
        return [it for it in way.taken if it.correlation == saga]

    async def handled() -> bool:
        await queued.consume("articles")
        awaited = [step["awaited"] for step in (await queued.blog.saga(saga))["steps"]]
        return bool(lost) and any(it is not None and it["wait"] == "accepted" for it in awaited)

    await until(handled, what="the participant handled the command, and its answer was lost")
    (first,) = ours()
    queued.clock.advance(61)
    run = await queued.until_ended(saga)
    assert run["status"] == "COMPLETED"
    assert run["state"] == {"article_id": article, "title": "Tides", "comments": 1}
    assert [it.data for it in ours() if it.id == first.id] == [first.data] * 2
    assert (answers[0].id, answers[0].data) == (lost[0].id, lost[0].data)
    assert "repeated" in await happened(queued, saga)


async def test_a_run_is_undone_where_a_consumer_gives_its_command_up(queued: Queued) -> None:
    article = await queued.blog.publish()
    service = queued.blog.services["comments"].chassis.service
    inbox = queued.inboxes["comments"]

    class Poisoned:
        """Fails for one type of commands."""

        async def receive(
            self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
        ) -> list[Reply]:
            if any(it.type == str(CloseThread.message_type) for it in envelopes):
                return [Reply(Outcome.FAILED, code="failed", reason="poison")] * len(envelopes)
            return await inbox.receive(envelopes, settled)

    policy = HeldPolicy(RetryPolicy(first=0.001, attempts=2))
    chance = Random(0).random
    given: Any = {"clock": service.clock, "chance": chance, "policy": policy}
    table = HeldTable(service.sessions, "comments", **given)
    worker = HeldWorker(Poisoned(), service.sessions, "comments", read=_not_asked, **given)

    async def consume(envelopes: Sequence[Envelope]) -> Sequence[Reply]:
        (envelope,) = envelopes
        (reply,) = await Poisoned().receive(envelopes)
        if reply.outcome is not Outcome.FAILED:
            return [reply]
        packet = Packet(0, {}, to_structured(envelope))
        await table.hold([ToHold("comments", packet, envelope, "poison", attempts=1)])
        return [Reply(Outcome.DONE)]

    saga = await queued.start(article)

    async def ended() -> bool:
        await queued.consume("articles")
        await queued.ways["comments"].drain(consume)
        await worker.run_once()
        return (await queued.blog.saga(saga)).get("ended_at") is not None

    await until(ended, deadline=30, what="the run has ended")
    run = await queued.blog.saga(saga)
    assert run["status"] == "COMPENSATED"
    assert "buried" in await happened(queued, saga)
    shown = await queued.blog.ask("articles", "GET", f"/articles/{article}")
    assert shown.json()["status"] == "published"


def _not_asked(packet: Packet, _: str) -> Envelope:
    raise AssertionError(f"{packet} was read when it came")
