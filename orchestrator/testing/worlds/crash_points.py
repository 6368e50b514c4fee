"""The crash points: places where a process may die, by their names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property

import orchestrator
import outbox
from outbox.testing import tools


class CrashPoints:
    """The value of the fixture `crash_points`."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all crash points in Sagabox, sorted."""
        return tuple(sorted(tools.crash_points(outbox, orchestrator)))

    def __call__(self, name: str, hit: int = 1) -> AbstractContextManager[None]:
        """Die there at the `hit`-th time within the block: a process of a world, which is started
        again, or else the block itself. Raises AssertionError where the block does not get there.
        """
        return tools.crash_at(name, hit)
