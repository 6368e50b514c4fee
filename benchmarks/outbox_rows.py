"""An outbox that filled up."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import tables
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.lanes import Lane, bucket_of

PAYLOAD_TEXT = "x" * 280
_KEYS = 1000
_AT_ONCE = 1000


async def fill(engine: AsyncEngine, messages: int, *, source: str, to: str) -> None:
    """Insert so many messages `noted` of the service `source`, for `to`, over 1,000 keys."""
    clock = SystemClock()
    ids = Ids(clock, os.urandom)
    keys = [f"key-{number}" for number in range(_KEYS)]
    buckets = [bucket_of(Lane.NORMAL, key) for key in keys]

    def row(number: int) -> dict[str, Any]:
        payload = f'{{"key":"event-{number}","text":"{PAYLOAD_TEXT}"}}'
        return {
            "id": ids(),
            "destination": to,
            "bucket": buckets[number % _KEYS],
            "aggregatetype": source,
            "aggregateid": keys[number % _KEYS],
            "type": f"{source}.noted.v1",
            "payload": payload,
            "headers": f'{{"source":"{source}"}}',
            "occurred_at": clock.now(),
        }

    async with engine.begin() as connection:
        for start in range(0, messages, _AT_ONCE):
            rows = [row(number) for number in range(start, min(start + _AT_ONCE, messages))]
            await connection.execute(insert(tables.outbox), rows)
