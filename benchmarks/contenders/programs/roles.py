"""The two roles of an outbox: one writes messages in transactions, the other one hears of them.

Nothing but the standard library, as it runs in every contender's environment.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.contenders.programs.lines import lines, settings, tell

TEXT = "x" * 280


class Ears:
    """What the handler of messages calls. It does nothing but note the time."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        self._more = asyncio.Condition()

    async def hear(self, key: str) -> None:
        """A message has come."""
        self._heard.setdefault(key, time.monotonic())
        async with self._more:
            self._more.notify_all()

    async def after(self, count: int) -> dict[str, float]:
        """When each was heard, once there are so many."""
        async with self._more:
            await self._more.wait_for(lambda: len(self._heard) >= count)
        return self._heard


async def play(
    prepare: Callable[[str], Awaitable[None]],
    writing: Callable[[str], Any],
    listening: Callable[[str, Ears], Coroutine[Any, Any, None]],
) -> None:
    """Play the role that the settings name, at the database there, until the input ends.

    `prepare` makes tables. `writing` is an asynchronous context manager of a function that writes
    one message of that key, with a row, in a transaction; the order {"write": [keys]} is answered
    {"seconds": ..., "committed": {key: time}}. `listening` runs for ever; the order {"heard":
    COUNT} is answered {"heard": {key: time}}.
    """
    told = settings()
    database: str = told["database"]
    orders = await lines()
    match told["role"]:
        case "prepare":
            await prepare(database)
            tell({"ready": True})
        case "writer":
            async with writing(database) as write:
                tell({"ready": True})
                async for order in _orders(orders):
                    began, committed = time.monotonic(), {}
                    for key in order["write"]:
                        await write(key)
                        committed[key] = time.monotonic()
                    tell({"seconds": time.monotonic() - began, "committed": committed})
        case _:
            ears = Ears()
            tell({"ready": True})
            async with _running(listening(database, ears)):
                async for order in _orders(orders):
                    tell({"heard": await ears.after(order["heard"])})


async def _orders(reader: asyncio.StreamReader) -> AsyncIterator[Any]:
    while line := await reader.readline():
        yield json.loads(line)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
