"""What processes use of the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]  # it ships no types

_MB = 1_000_000


def processor_seconds(pid: int, *, with_children: bool = False) -> float:
    """The seconds of processor time that a process has used since its start. With its children, it
    is the whole tree: those that have ended and were waited for, and those that live."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    used: float = times.user + times.system
    if with_children:
        used += times.children_user + times.children_system
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                used += processor_seconds(child.pid)
    return used


def used_by(trees: Mapping[str, int]) -> dict[str, float]:
    """The same for each of these process trees by name, and `clients`: this process."""
    used = {name: processor_seconds(pid, with_children=True) for name, pid in trees.items()}
    return used | {"clients": processor_seconds(os.getpid())}


def megabytes(pid: int) -> float:
    """The resident memory of a process, in MB."""
    resident: float = psutil.Process(pid).memory_info().rss
    return resident / _MB
