"""Rounds, medians and figures."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table. The first line of a table is what the others are compared to."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Load:
    """What clients did in one round. `latencies` and `seconds` are in seconds."""

    seconds: float
    latencies: Sequence[float]

    @property
    def rate(self) -> float:
        """How many a second."""
        return len(self.latencies) / self.seconds


async def rates(
    contestants: Mapping[str, Callable[[], Awaitable[int]]], rounds: int, unit: str
) -> list[Figure]:
    """How many a second each contestant does: the median of its rounds, taken in turns.

    A contestant does its work once, and returns how many it did.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            began = time.perf_counter()
            done = await work()
            measured[name].append(done / (time.perf_counter() - began))
    return [Figure(name, statistics.median(values), unit) for name, values in measured.items()]


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


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share (0 to 1) of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]
