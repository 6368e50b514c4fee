"""Dead letters and resting keys for tests, and looks at what is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import dead_letters
from outbox.ids import compose
from outbox.tables import outbox, outbox_dead, outbox_held
from outbox.wire.envelope import headers_json
from tests.support.outbox.envelopes import an_envelope

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def an_id(number: int) -> str:
    return compose(1_900_000_000_000, number << 40)


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def a_letter(number: int, **changes: Any) -> dict[str, Any]:
    """A dead letter, buried in minute `number`, that came into being in the order of the ids."""
    envelope = an_envelope(id=an_id(number), key=f"key-{number}", time=at(-100 + number))
    row = {
        "id": envelope.id,
        "destination": "comments",
        "bucket": 17,
        "aggregatetype": "articles",
        "aggregateid": envelope.key,
        "type": envelope.type,
        "payload": envelope.data.decode(),
        "headers": headers_json(envelope),
        "occurred_at": envelope.time,
        "reason": f"reason {number}",
        "attempts": 12,
        "died_at": at(number),
    }
    return row | changes


def of_saga(number: int, saga: str = "") -> dict[str, Any]:
    """The dead letter of a saga's command."""
    envelope = an_envelope(correlation=saga or an_id(777), reply_to="orchestrator")
    return a_letter(number, headers=headers_json(envelope))


def a_rest(key: str, **changes: Any) -> dict[str, Any]:
    return {
        "destination": "comments",
        "bucket": 17,
        "aggregateid": key,
        "head_id": an_id(1),
        "attempts": 3,
        "next_at": at(60),
        "last_error": "failed: out of order",
    } | changes


async def bury(engine: AsyncEngine, *letters: dict[str, Any]) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(outbox_dead), letters)


async def rest(engine: AsyncEngine, *rests: dict[str, Any]) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(outbox_held), rests)


async def dead(engine: AsyncEngine) -> set[tuple[str, str]]:
    async with engine.connect() as connection:
        query = select(outbox_dead.c.id, outbox_dead.c.destination)
        return {(id, destination) for id, destination in await connection.execute(query)}


async def queue(engine: AsyncEngine) -> list[Any]:
    """The rows of the outbox in their order."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(outbox).order_by(outbox.c.seq))
        return list(rows.mappings())


def numbers(letters: Sequence[dead_letters.DeadLetter]) -> list[str]:
    return [letter.reason.removeprefix("reason ") for letter in letters]
