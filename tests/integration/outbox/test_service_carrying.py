"""`outbox.Service`: what carries its messages, and the pace of its work beside requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.inbox.inbox import Inbox
from outbox.relay.settings import RelaySettings
from outbox.tables import outbox as outbox_table
from outbox.transports.base import Answered, Delivery, Transport
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.databases.databases import Schema
from tests.support.outbox.inboxes import Noted, ledger_schema
from tests.support.outbox.services import NOWHERE, make_service
from tests.support.processes.waiting import BUSY, until

PEERS = {"press": NOWHERE, "bank": NOWHERE}
PATIENT = RelaySettings(delivery_timeout=40 * BUSY, margin=50 * BUSY, lease=100 * BUSY)


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


class _Way:
    """A way on which all that comes is done; with `stuck`, on which nothing arrives."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.taken: list[str] = []
        self.asked = asyncio.Event()
        self._stuck = stuck

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.asked.set()
        if self._stuck:
            await asyncio.Event().wait()
        self.taken += [it.type for it in envelopes]
        return Answered([outbox.Reply(outbox.Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""


async def _add(service: outbox.Service) -> None:
    async with service.sessions.begin() as session:
        outbox.add(session, Noted("a", "an event"), to="press")


async def _unsent(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return len((await connection.scalars(select(outbox_table.c.seq))).all())


async def test_given_transports_stand_in_for_those_over_http(engine: AsyncEngine) -> None:
    way = _Way()
    service = make_service(engine, peers=PEERS, transports={"press": way})
    await _add(service)
    async with service.running():
        await until(lambda: way.taken, what="the message goes by the given transport")
    assert way.taken == ["press.noted.v1"]
    assert service.peers == PEERS


@pytest.mark.databases("sqlite")
async def test_a_carrier_sends_in_place_of_the_relay(engine: AsyncEngine) -> None:
    given: dict[str, Any] = {}
    begun = asyncio.Event()

    class Carrier:
        async def run(self, stop: asyncio.Event) -> None:
            begun.set()
            await stop.wait()

    def make(ways: Mapping[str, Transport]) -> Carrier:
        given.update(ways)
        return Carrier()

    said = EndedSagas("0190a000-0000-7000-8000-000000000001")
    service = make_service(engine, peers=PEERS)
    service.carried_by(make, settled=lambda: said)
    assert {name: way._settled() for name, way in given.items()} == dict.fromkeys(PEERS, said)
    with pytest.raises(outbox.InvalidService, match="cannot be observed from now"):
        service.attach(FastAPI())
    assert not service.is_carrying
    await _add(service)
    async with service.running():
        await asyncio.wait_for(begun.wait(), 10 * BUSY)
        assert service.is_carrying
    assert await _unsent(engine) == 1, "no relay was at work"


@pytest.mark.databases("sqlite")
async def test_a_service_purges_and_drains_at_the_pace_that_it_is_given(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    purges = asyncio.Semaphore(0)

    async def purge(_: Inbox) -> int:
        purges.release()
        return 0

    monkeypatch.setattr(Inbox, "purge", purge)
    way = _Way(stuck=True)
    service = make_service(
        engine,
        peers=PEERS,
        transports={"press": way},
        relay=PATIENT,
        purge_interval=0.001,
        drain_seconds=0.01,
    )
    await _add(service)
    async with asyncio.timeout(20 * BUSY):  # the delivery alone would take twice as long
        async with service.running():
            await way.asked.wait()
            for _ in range(3):
                await purges.acquire()
