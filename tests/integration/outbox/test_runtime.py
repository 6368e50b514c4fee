"""A service's relay and the purge of its inbox start and stop together."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

import outbox
from outbox.testing import FakeClock
from tests.support.outbox.relays import Destination, commit, make_relay, message
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("sqlite")


class Carrier:
    """A carrier that runs until it is told to stop, and then as long as `end` is not set."""

    def __init__(self) -> None:
        self.begun, self.told, self.end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.ended = False

    async def run(self, stop: asyncio.Event) -> None:
        self.begun.set()
        await stop.wait()
        self.told.set()
        await self.end.wait()
        self.ended = True


class Broken:
    async def run(self, stop: asyncio.Event) -> None:
        raise RuntimeError("out of order")


def make_inbox(engine: AsyncEngine) -> outbox.Inbox:
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    outbox.install(sessions, source="articles", routes={})
    return outbox.Inbox(outbox.Handlers("articles"), sessions, clock=FakeClock())


async def test_messages_leave_while_it_runs(engine: AsyncEngine) -> None:
    destination = Destination()
    runtime = outbox.Runtime(make_inbox(engine), make_relay(engine, destination))
    (sent,) = await commit(engine, message())
    async with runtime.running():
        assert runtime.is_carrying
        await until(lambda: destination.ids == [sent], what="the message leaves")
    assert not runtime.is_carrying


async def test_work_in_hand_is_ended_before_it_stops(engine: AsyncEngine) -> None:
    carrier = Carrier()
    runtime = outbox.Runtime(make_inbox(engine), carrier)
    async with runtime.running():
        await carrier.begun.wait()
        assert not carrier.told.is_set()
        carrier.end.set()
    assert carrier.ended


async def test_work_that_does_not_end_is_cancelled(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    carrier = Carrier()
    async with outbox.Runtime(make_inbox(engine), carrier, drain_seconds=0.01).running():
        await carrier.begun.wait()
    assert carrier.told.is_set()
    assert not carrier.ended
    assert "work in hand took too long" in caplog.text


async def test_an_error_of_the_carrier_is_logged_and_seen(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = outbox.Runtime(make_inbox(engine), Broken())
    async with runtime.running():
        await until(lambda: not runtime.is_carrying, what="the carrier ends")
    assert [it.levelno for it in caplog.records] == [logging.CRITICAL]


async def test_the_inbox_is_purged_again_after_a_failure(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = make_inbox(engine)
    purges = asyncio.Semaphore(0)

    async def purge() -> int:
        purges.release()
        raise ConnectionRefusedError("the database is away")

    monkeypatch.setattr(inbox, "purge", purge)
    runtime = outbox.Runtime(inbox, purge_interval=0.001)
    async with runtime.running(), asyncio.timeout(30):
        assert not runtime.is_carrying, "it has nothing to carry"
        for _ in range(3):
            await purges.acquire()
