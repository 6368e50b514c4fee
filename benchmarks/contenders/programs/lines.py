"""What such a program is told and tells: one JSON a line, on its standard streams.

Nothing but the standard library, as it runs in every contender's environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

_MANY = 2**26
"""Bytes of the longest line."""


def settings() -> dict[str, Any]:
    """What the program was started with: the JSON of its only argument."""
    told: dict[str, Any] = json.loads(sys.argv[1])
    return told


async def lines() -> asyncio.StreamReader:
    """The standard input."""
    reader = asyncio.StreamReader(limit=_MANY)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def tell(answer: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def delete_as_told(delete: Callable[[str], Awaitable[None]]) -> None:
    """Delete the articles of each line {"clients": 64, "articles": [...]}, that many at once, and
    answer {"seconds": ..., "latencies": [...]}; until the input ends."""
    told = await lines()
    tell({"ready": True})
    while line := await told.readline():
        order = json.loads(line)
        left = iter(order["articles"])
        latencies: list[float] = []

        async def work(left: Any = left, latencies: list[float] = latencies) -> None:
            for article in left:
                began = time.perf_counter()
                await delete(article)
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(order["clients"]):
                tasks.create_task(work())
        tell({"seconds": time.perf_counter() - began, "latencies": latencies})
