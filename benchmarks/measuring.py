"""Rounds, medians and figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table. The first line of a table is what the others are compared to."""

    name: str
    value: float
    unit: str


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
