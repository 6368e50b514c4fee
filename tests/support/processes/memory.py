"""How much memory services take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psutil  # type: ignore[import-untyped]  # it ships no types

from tests.support.processes.running import RunningBlog

MIB = 1024 * 1024


def resident(blog: RunningBlog, *names: str) -> Mapping[str, int]:
    """MiB of each service that are its own (what it shares with the process that it was forked
    from is left out)."""
    return {
        name: int(psutil.Process(blog.children[name].pid).memory_full_info().uss / MIB)
        for name in names
    }


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    """Each by how many MiB it has grown."""
    return [(name, after[name] - before[name]) for name in before]
