"""A service whose routes have patterns: each event goes to all of its destinations, and a pattern
that can fit to nothing is told at the start."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.relay.settings import RelaySettings
from outbox.transports.memory import MemoryTransport
from tests.support.outbox.inboxes import Listed, Noted
from tests.support.outbox.services import NOWHERE, make_service
from tests.support.processes.waiting import until


class Taken:
    """What one destination has taken, in order."""

    def __init__(self) -> None:
        self.types: list[str] = []

    async def __call__(
        self, envelopes: Sequence[outbox.Envelope], _settled: object
    ) -> list[outbox.Reply]:
        self.types += [it.type for it in envelopes]
        return [outbox.Reply(outbox.Outcome.DONE)] * len(envelopes)


async def test_an_event_goes_to_all_destinations_of_its_pattern_and_no_further(
    engine: AsyncEngine,
) -> None:
    taken = {name: Taken() for name in ("mail", "search", "audit")}
    service = make_service(
        engine,
        peers=dict.fromkeys(taken, NOWHERE),
        transports={name: MemoryTransport(it) for name, it in taken.items()},
        routes={"press.*": ["mail", "search"], Listed: ["audit"]},
        relay=RelaySettings(poll=0.02),
    )
    async with service.running():
        async with service.sessions.begin() as session:
            outbox.add(session, Noted("a", "an event"))
            outbox.add(session, Listed("a", "another one"))
        await until(lambda: all(it.types for it in taken.values()), what="all have something")
    assert {name: it.types for name, it in taken.items()} == {
        "mail": ["press.noted.v1"],
        "search": ["press.noted.v1"],
        "audit": ["press.listed.v1"],
    }


async def test_a_pattern_without_events_is_told_at_the_start(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(
        engine,
        peers={"mail": NOWHERE},
        routes={"press.*": ["mail"], "pres.*": ["mail"], "*": ()},
    )
    async with service.running():
        pass
    said = [
        it.getMessage()
        for it in caplog.records
        if it.levelname == "WARNING" and "route" in it.getMessage()
    ]
    assert said == [
        "till has the route pres.*, and no event that is declared here fits to it: correct the "
        "word, or import the module of these events before the service starts"
    ]
