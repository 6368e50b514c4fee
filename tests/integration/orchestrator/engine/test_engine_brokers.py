"""The blog's deletion through a broker, by settings alone: what is doubled, slow, lost or given up,
and what is skipped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from comments.contract import PurgeThread
from orchestrator.sagas.delete_article import delete_article
from outbox.contract import CommandAnswered, Void
from outbox.replies import Outcome
from outbox.retry import RetryPolicy
from outbox.service import queues
from outbox.transports.brokers.held.policy import HeldPolicy
from outbox.transports.brokers.held.worker import HeldWorker
from outbox.wire.envelope import Envelope, from_structured
from outbox.wire.settled import SETTLED_HEADER, EndedSagas
from tests.integration.orchestrator.engine.test_engine_accepted import AheadClock
from tests.support.blog.blog import articles_schema, comments_schema
from tests.support.blog.whole_blog import WholeBlog, blog_at_broker
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.outbox.mangling_broker import ADDRESS, Mangler
from tests.support.processes.waiting import until

ANSWER = str(CommandAnswered.message_type)
PURGE = str(PurgeThread.message_type)


@dataclass
class Queued:
    """The blog, its broker, and the orchestrator's clock."""

    blog: WholeBlog
    broker: Mangler
    clock: AheadClock

    async def delete(self, article: str) -> str:
        """The id of a new run."""
        answer = await self.blog.start(article)
        assert answer.status_code < 300, answer.text
        return str(answer.json()["id"])

    async def happened(self, saga: str) -> list[str]:
        """What the history of the run tells."""
        history = await self.blog.ask("orchestrator", "GET", f"/sagas/{saga}/history")
        return [line["happening"] for line in history.json()["items"]]

    async def until_status(self, saga: str, status: str) -> dict[str, Any]:
        """The run, once it has that status."""

        async def has_it() -> bool:
            return bool((await self.blog.saga(saga)).get("status") == status)

        await until(has_it, deadline=30, what=f"{saga} is {status}")
        return await self.blog.saga(saga)


@pytest.fixture
async def queued(
    database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Queued]:
    async with _queued(database_factory, monkeypatch) as made:
        yield made


@asynccontextmanager
async def _queued(make: DatabaseFactory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queued]:
    databases: dict[str, Database] = {
        "articles": make(articles_schema),
        "comments": make(comments_schema),
        "orchestrator": make(orchestrator_schema),
    }
    broker, clock = Mangler(), AheadClock()
    broker.stand_in(monkeypatch)
    async with blog_at_broker(databases, [delete_article], ADDRESS, clock=clock) as blog:
        yield Queued(blog, broker, clock)


async def test_p4_a_deletion_is_completed_although_every_packet_comes_twice(queued: Queued) -> None:
    queued.broker.copies = 2
    article = await queued.blog.publish()
    run = await queued.blog.until_ended(await queued.delete(article))
    assert run["status"] == "COMPLETED"
    assert run["state"] == {"article_id": article, "title": "Tides", "comments": 1}
    assert "repeated" not in await queued.happened(run["id"])


async def test_an_answer_may_come_before_the_orchestrator_hears_that_its_command_was_taken(
    queued: Queued,
) -> None:
    article = await queued.blog.publish()
    queued.broker.confirms_after = 0.5
    run = await queued.blog.until_ended(await queued.delete(article))
    assert run["status"] == "COMPLETED"
    assert "repeated" not in await queued.happened(run["id"])


@pytest.mark.databases("sqlite")  # time is the database's own on PostgreSQL
async def test_p1_an_answer_that_was_lost_is_asked_for_again_by_the_engines_own_clock(
    queued: Queued,
) -> None:
    article, lost = await queued.blog.publish(), list[Envelope]()

    def loses(envelope: Envelope) -> bool:
        if lost or envelope.type != ANSWER or envelope.key != saga:
            return False
        lost.append(envelope)
        return True

    saga = ""
    queued.broker.loses = loses
    saga = await queued.delete(article)
    await until(lambda: bool(lost), what="an answer was lost")
    first = orjson.loads(lost[0].data)["command_id"]

    async def accepted() -> bool:
        awaited = [step["awaited"] for step in (await queued.blog.saga(saga))["steps"]]
        return any(it is not None and it["wait"] == "accepted" for it in awaited)

    await until(accepted, what="the run knows that its command was taken")
    queued.clock.advance(61)
    assert (await queued.blog.until_ended(saga))["status"] == "COMPLETED"
    assert "repeated" in await queued.happened(saga)
    sent = [it for queue in ("articles", "comments") for it in queued.broker.envelopes(queue)]
    first_and_copy = [it for it in sent if it.id == first]
    assert len(first_and_copy) == 2
    assert len({it.data for it in first_and_copy}) == 1


async def test_what_the_orchestrator_says_of_ended_runs_travels_with_each_packet_and_is_signed(
    queued: Queued,
) -> None:
    saga = await queued.delete(await queued.blog.publish())
    await queued.blog.until_ended(saga)
    commands = [*queued.broker.taken["articles"], *queued.broker.taken["comments"]]
    ours = [it for it in commands if from_structured(it.body).source == "orchestrator"]
    assert len(ours) >= 4
    for packet in ours:
        EndedSagas.from_header(packet.headers[SETTLED_HEADER.lower()])
    purging = queued.blog.services["comments"].chassis.service.inbox
    assert "orchestrator" in purging._purge._said, "and reaches the purge"


async def test_a_skip_of_what_its_consumer_gave_up_asks_through_the_broker_first(
    database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = HeldPolicy(retry=RetryPolicy(first=0.05, factor=1, ceiling=0.05, attempts=2))

    def worker(*of: Any, **told: Any) -> HeldWorker:
        return HeldWorker(*of, **{**told, "policy": soon})

    monkeypatch.setattr(queues, "HeldWorker", worker)
    async with _queued(database_factory, monkeypatch) as queued:
        comments = queued.blog.services["comments"].chassis.service
        handler = comments.handlers.find(PURGE)
        assert handler is not None

        async def fail(*_: object) -> None:
            raise RuntimeError("it is broken")

        with monkeypatch.context() as broken:
            broken.setattr(type(handler), "__call__", _failing_for(PURGE, fail, type(handler)))
            saga = await queued.delete(await queued.blog.publish())
            run = await queued.until_status(saga, "STUCK")
        told = "its command was given up by the consumer of comments, which keeps it"
        assert f"{told} (sagabox outbox received list --service comments): " in str(run["steps"])
        answer = await queued.blog.tell(saga, "skip", step="purge comments")
        assert answer.status_code < 300, answer.text
        assert (await queued.blog.until_ended(saga))["status"] == "COMPLETED"
    asked = [it for it in queued.broker.envelopes("comments") if it.type == str(Void.message_type)]
    (command, *_) = [it for it in queued.broker.envelopes("comments") if it.type == PURGE]
    assert len(asked) == 1
    (late,) = await comments.inbox.receive([command])
    assert late.outcome is Outcome.ALREADY_UNDONE, "a late copy of it does not run"


def _failing_for(type_: str, fail: Any, handler_class: type) -> Any:
    inner = handler_class.__call__

    async def call(self: Any, *arguments: Any) -> Any:
        if str(self.message_class.message_type) == type_:
            return await fail()
        return await inner(self, *arguments)

    return call
