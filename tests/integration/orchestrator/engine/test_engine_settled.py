"""What the engine says of sagas that have ended: participants forget what they did for those, so it
must never count one among them that lives, or may still begin."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.engine import Engine
from orchestrator.engine.settings import EngineSettings
from outbox.coordination.bell import Bell
from outbox.ids import Ids, compose
from outbox.testing import FakeClock
from outbox.wire.settled import MAX_LIVE, EndedSagas
from tests.support.orchestrator.engines import opened
from tests.support.orchestrator.orchestrating import begun, put

DAY = timedelta(days=1)
SETTINGS = EngineSettings(unsettled=7 * DAY)

pytestmark = pytest.mark.databases("sqlite")


def id_of(moment: datetime, number: int = 0) -> str:
    """An id that was made then."""
    return compose(int(moment.timestamp() * 1000), number)


async def look(engine: AsyncEngine, clock: FakeClock) -> EndedSagas:
    """What an engine says after it has looked at its database."""
    made = Engine(
        opened(engine),
        Registry([], {}),
        {},
        clock=clock,
        ids=Ids(clock, os.urandom),
        bell=Bell(),
        settings=SETTINGS,
        owner="node",
    )
    await made._keep_house()
    settled = made.settled()
    assert settled is not None
    return settled


@pytest.mark.parametrize("more", [0, 1, 20])
async def test_no_saga_that_lives_is_said_to_have_ended_however_many_there_are(
    engine: AsyncEngine, more: int
) -> None:
    clock = FakeClock()
    ids = [id_of(clock.now() - 30 * DAY, number) for number in range(MAX_LIVE + more)]
    for each in ids:
        await put(opened(engine), begun(id=each))
    settled = await look(engine, clock)
    assert not any(map(settled.covers, ids))
    assert settled.covers(id_of(clock.now() - 31 * DAY))
    assert EndedSagas.from_header(settled.to_header()) == settled


async def test_no_saga_that_may_still_begin_is_said_to_have_ended(engine: AsyncEngine) -> None:
    """A service asks for one by a message, makes its id, and the message may be long on its way."""
    clock = FakeClock()
    settled = await look(engine, clock)
    assert not settled.covers(id_of(clock.now() - SETTINGS.unsettled))
    assert settled.covers(id_of(clock.now() - SETTINGS.unsettled - timedelta(seconds=1)))
