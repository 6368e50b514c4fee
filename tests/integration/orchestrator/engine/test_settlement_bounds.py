"""P8: what was answered, and waits for a commit of another run, is bounded in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import SystemClock
from outbox.ids import compose
from outbox.relay.ports import RelayPorts, Settlement
from outbox.relay.sender import Round
from outbox.relay.settings import RelaySettings
from outbox.relay.settler import Settler
from outbox.relay.verdicts import Pending, Settle
from outbox.replies import Outcome, Reply
from outbox.tables import DEFAULT_TABLES
from outbox.transports.base import Accepted
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Schema

pytestmark = pytest.mark.databases("sqlite")

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MIB = 1024 * 1024


class Undecided(Settlement):
    """Takes answers, and decides nothing by itself."""

    def __init__(self) -> None:
        self.taken: list[asyncio.Event] = []

    def take(
        self, destination: str, answers: Sequence[tuple[Pending, Reply | Accepted]]
    ) -> asyncio.Event:
        self.taken.append(asyncio.Event())
        return self.taken[-1]

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        raise AssertionError(reason)


def answered(seq: int, data: bytes, value: Any) -> Round:
    """A round of one message."""
    result = Round()
    message = Pending(seq, 1, Envelope(compose(1, seq), "me", "a.b.v1", "k", NOW, data))
    result.judge(message, Settle(), Reply(Outcome.DONE, value=value))
    return result


@pytest.fixture
def database_schema() -> Schema | str:
    return "outbox"


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"0" * MIB, None), (b"{}", "x" * MIB), (b"{}", [{"a": "x" * 1024}] * 1024)],
    ids=["messages", "answers", "answers of many parts"],
)
async def test_p8_a_courier_waits_where_too_many_bytes_are_undecided(
    engine: AsyncEngine, data: bytes, value: Any
) -> None:
    ports, settlement = RelayPorts.of(engine, DEFAULT_TABLES, SystemClock()), Undecided()
    settings = RelaySettings(fetch_bytes=3 * MIB)
    settler = Settler(
        *(engine, ports.messages, ports.holds, "there"),
        settings=settings,
        sink=None,
        settlement=settlement,
    )
    for seq in range(2):
        await settler.write({}, answered(seq, data, value), ())
    third = asyncio.create_task(settler.write({}, answered(2, data, value), ()))
    done, _ = await asyncio.wait({third}, timeout=0.05)
    assert not done
    for each in settlement.taken:
        each.set()
    assert (await third).settled == 1
    assert (await settler.write({}, answered(3, data, value), ())).settled == 1
