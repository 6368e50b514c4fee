"""Rounds and medians."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What clients did in one round. `latencies` and `seconds` are in seconds."""

    seconds: float
    latencies: Sequence[float]

    @property
    def rate(self) -> float:
        """How many a second."""
        return len(self.latencies) / self.seconds


async def rate(work: Callable[[], Awaitable[int]]) -> float:
    """How many a second it does, which does its work once and returns how many it did."""
    began = time.perf_counter()
    done = await work()
    return done / (time.perf_counter() - began)


async def closed_loop(
    items: Iterable[str], clients: Sequence[Callable[[str], Awaitable[None]]]
) -> Load:
    """Let each client take the next item as soon as it is done with its last one."""
    left = iter(items)
    latencies: list[float] = []

    async def work(client: Callable[[str], Awaitable[None]]) -> None:
        for item in left:
            began = time.perf_counter()
            await client(item)
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(work(client))
    return Load(time.perf_counter() - began, latencies)


def median(values: Sequence[float]) -> float:
    """The middle one, or what lies between the two."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share (0 to 1) of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]
