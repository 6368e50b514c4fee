"""/readyz of a real service: red where its work does not get on, and only there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from articles.contract import ArticlePublished
from articles.model import SCHEMA_REVISION
from articles.settings import ArticlesSettings
from outbox.chassis.configured import ConfiguredService
from outbox.chassis.service import Blueprint, build
from outbox.coordination.progress import STUCK_AFTER
from outbox.inbox.handlers import Context
from outbox.messages import Command
from outbox.relay.message_store import Store
from outbox.replies import Outcome, Reply
from outbox.service.service import Service
from outbox.testing import FakeClock
from outbox.transports.base import Answered, Delivery, Transport, Unreachable
from outbox.wire.envelope import Envelope
from tests.support.blog.blog import (
    DELIVERY_SECONDS,
    SECRETS,
    START,
    Running,
    articles_app,
    articles_schema,
    envelope,
    running,
)
from tests.support.databases.databases import Database, Schema
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("sqlite")

TIDES = {"title": "Tides", "body": "High and low.", "author": "Ada"}
PATIENT = {"lease": 7200, "poll_interval": 0.01}
"""Leases that outlive what a test lets pass at once, and a relay that soon sees that it passed."""


@dataclass(frozen=True)
class Ring(Command[None], type="articles.ring.v1", key="tower"):
    """A bell is to ring."""

    tower: str


@pytest.fixture
def database_schema() -> Schema:
    return articles_schema


class Probed:
    """A running service, its clock, and what its probes say."""

    def __init__(self, service: Running) -> None:
        self.tell = service.tell
        self.tell_all = service.tell_all
        self.http = service.http
        clock = service.chassis.service.clock
        assert isinstance(clock, FakeClock)
        self.clock = clock

    async def ready(self) -> httpx.Response:
        """What /readyz says. /livez is always green."""
        assert (await self.http.get("/livez")).status_code == 200
        return await self.http.get("/readyz")

    async def stays_ready(self) -> None:
        """Nothing is stuck: a step that was under way when the clock moved ends by itself, and what
        is stuck stays so while the clock stands."""

        async def is_ready() -> bool:
            return (await self.ready()).status_code == 200

        await until(is_ready, what="it is ready")

    async def hangs(self, kind: str) -> None:
        """It is ready now, and says that this kind hangs once the limit is passed."""
        await self.stays_ready()
        self.clock.advance(STUCK_AFTER)
        await self.stays_ready()
        self.clock.advance(1)
        answer = await self.ready()
        assert answer.status_code == 503
        problem = answer.json()
        assert problem["code"] == "not-ready"
        assert problem["detail"].startswith("work: ")
        assert f'"{kind}" for {STUCK_AFTER + 1:.0f} s' in problem["detail"]
        assert "restart the process" in problem["next_step"]
        metrics = (await self.http.get("/metrics")).text
        assert f'sagabox_work_stalled_seconds{{kind="{kind}"}} {STUCK_AFTER + 1:.1f}' in metrics


@asynccontextmanager
async def probed(app: FastAPI) -> AsyncIterator[Probed]:
    async with running(app) as service, app.router.lifespan_context(app):
        yield Probed(service)


class Tower:
    """A handler that does as it is told: `rope` is held until it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.hangs_for = frozenset[str]()
        self.let_go = asyncio.Event()
        self.is_deaf = True
        self.in_thread = threading.Event()
        self.blocks_thread = False

    def release(self) -> None:
        """Let go of all ropes."""
        self.let_go.set()
        self.in_thread.set()

    def attend(self, service: Service) -> None:
        """Handle what is sent to the bells."""

        @service.on(Ring)
        async def ring(session: AsyncSession, command: Ring, context: Context) -> None:
            self.asked += 1
            if command.tower not in self.hangs_for:
                return
            if self.blocks_thread:
                await asyncio.to_thread(self.in_thread.wait)
            elif self.is_deaf:
                while not self.let_go.is_set():
                    with suppress(asyncio.CancelledError):  # that is what makes it hang
                        await self.let_go.wait()
            else:
                await self.let_go.wait()


@pytest.fixture
def tower() -> Tower:
    return Tower()


@pytest.fixture
async def bells(database: Database, tower: Tower) -> AsyncIterator[Probed]:
    settings = ArticlesSettings(
        handler_timeout=0.2,
        database_url=database.url,
        secrets=SECRETS,
        trust_loopback=True,
        delivery_timeout=DELIVERY_SECONDS,  # so that none is over before its test has looked
    )
    service = ConfiguredService(
        "articles",
        settings,
        database_url=database.url,
        revision=SCHEMA_REVISION,
        peers={},
        clock=FakeClock(START),
    )
    tower.attend(service)
    blueprint = Blueprint(
        service,
        title="Bells",
        description="Bells that ring.",
        api=lambda _: APIRouter(),
        at_home=settings.at_home(),
    )
    app = build(blueprint)
    async with probed(app) as found:
        try:
            yield found
        finally:
            tower.release()


async def test_a_handler_that_hangs_is_named_and_one_that_ends_makes_the_service_ready(
    bells: Probed, tower: Tower
) -> None:
    tower.hangs_for = frozenset({"north"})
    ringing = asyncio.create_task(bells.tell(Ring("north")))
    await until(lambda: tower.asked, what="the handler runs")
    await bells.hangs("handle messages")
    tower.release()
    assert (await ringing).outcome is Outcome.DONE
    await bells.stays_ready()


async def test_copies_of_a_message_that_hangs_do_not_hide_that(bells: Probed, tower: Tower) -> None:
    tower.hangs_for = frozenset({"north"})
    copied = envelope(Ring("north"))
    ringing = asyncio.create_task(bells.tell_all(copied))
    await until(lambda: tower.asked, what="the handler runs")
    bells.clock.advance(STUCK_AFTER)
    (reply,) = await bells.tell_all(copied)
    assert reply.outcome is Outcome.ONGOING
    bells.clock.advance(1)
    assert (await bells.ready()).status_code == 503
    tower.release()
    await ringing


@pytest.mark.databases("postgresql")
async def test_a_handler_that_is_only_slower_than_the_others_leaves_the_service_ready(
    bells: Probed, tower: Tower
) -> None:
    tower.hangs_for = frozenset({"north"})
    ringing = asyncio.create_task(bells.tell(Ring("north")))
    await until(lambda: tower.asked, what="the handler runs")
    for _ in range(3):
        bells.clock.advance(STUCK_AFTER)
        assert (await bells.tell(Ring("south"))).outcome is Outcome.DONE
        await bells.stays_ready()
    tower.release()
    await ringing


async def test_a_handler_that_is_ended_in_time_leaves_the_service_ready(
    bells: Probed, tower: Tower
) -> None:
    tower.hangs_for, tower.is_deaf = frozenset({"north"}), False
    assert (await bells.tell(Ring("north"))).outcome is Outcome.FAILED
    bells.clock.advance(3600)
    await bells.stays_ready()


async def test_handlers_that_hang_in_all_threads_are_named(bells: Probed, tower: Tower) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    tower.hangs_for, tower.blocks_thread = frozenset({"north"}), True
    # It is given up in time; its thread is not.
    assert (await bells.tell(Ring("north"))).outcome is Outcome.FAILED
    await bells.hangs("run in a thread")
    tower.release()
    await bells.stays_ready()


async def test_a_service_without_work_is_ready(bells: Probed) -> None:
    for _ in range(3):
        bells.clock.advance(3600)
        await bells.stays_ready()


async def test_a_courier_whose_database_is_silent_is_named(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    fetch = Store.fetch

    async def silent(self: Store, *arguments: Any, **named: Any) -> Any:
        asked.set()
        await answer.wait()
        return await fetch(self, *arguments, **named)

    monkeypatch.setattr(Store, "fetch", silent)
    destination = Destination()
    async with probed(articles_app(database, {"comments": destination}, **PATIENT)) as articles:
        assert (await articles.http.post("/articles", json=TIDES)).status_code == 201
        await asked.wait()
        await articles.hangs("send to comments")
        answer.set()
        await until(lambda: destination.asked, what="the message leaves")
        await articles.stays_ready()


class Destination:
    """A destination that takes each message, or is down."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.asked = 0
        self._is_down = is_down

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Answer, or not."""
        self.asked += 1
        if self._is_down:
            return Unreachable("no receiver there", sent=False)
        return Answered([Reply(Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_a_destination_that_is_down_for_an_hour_leaves_the_service_ready(
    database: Database,
) -> None:
    comments = Destination(is_down=True)
    app = articles_app(database, {"comments": comments}, **PATIENT)
    async with probed(app) as articles:
        assert (await articles.http.post("/articles", json=TIDES)).status_code == 201
        for minute in range(60):
            articles.clock.advance(60)
            await until(lambda at=minute: comments.asked > at, what="it is tried again")  # type: ignore[misc]  # bound
            await articles.stays_ready()


class Slow:
    """A destination that takes most of a delivery's time for each request."""

    def __init__(self) -> None:
        self.service: Probed
        self.asked = 0

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Answer late, and see whether the service is ready meanwhile."""
        self.asked += 1
        self.service.clock.advance(STUCK_AFTER / 3)  # two are under way at once
        await self.service.stays_ready()
        return Answered([Reply(Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_a_long_round_of_slow_deliveries_leaves_the_service_ready(
    database: Database,
) -> None:
    comments: Transport = Slow()
    assert isinstance(comments, Slow)
    app = articles_app(
        database, {"comments": comments}, relay_batch=1, delivery_timeout=29, **PATIENT
    )
    async with running(app) as service:
        comments.service = Probed(service)
        for _ in range(6):
            assert (await service.http.post("/articles", json=TIDES)).status_code == 201
        async with app.router.lifespan_context(app):
            await until(lambda: comments.asked == 6, what="all are delivered")
            await comments.service.stays_ready()
        assert await service.outbox(ArticlePublished) == []
