"""The orchestrator's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from orchestrator.store import queries
from outbox.database.opening import Database

FRESH = 5.0
"""Seconds for which counts from the database are shown again."""


class Counted:
    """A counter that follows a count of the engine's."""

    def __init__(self, counter: Counter, count: Callable[[], int]) -> None:
        self._counter = counter
        self._count = count
        self._shown = 0

    def refresh(self) -> None:
        now = self._count()
        self._counter.inc(now - self._shown)
        self._shown = now


class Figures:
    """The numbers of runs by their standing, and of this node's transitions. `transitions` tells
    how many it has committed since its start, `stray_effects` how many effects it found in them
    that no run accounts for, `late_answers` how many answers came for runs that were removed,
    `commits` in how many group commits by their way, `monotonic` the seconds."""

    def __init__(
        self,
        registry: CollectorRegistry,
        database: Database,
        *,
        transitions: Callable[[], int],
        stray_effects: Callable[[], int],
        late_answers: Callable[[], int],
        commits: Mapping[str, Callable[[], int]],
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._monotonic = monotonic
        self._counted_at: float | None = None
        self._sagas = Gauge(
            "sagabox_sagas",
            "Sagas by definition and status (of each status, the newest 100,000)",
            ["name", "status"],
            registry=registry,
        )
        by_way = Counter(
            "sagabox_saga_commits",
            "Group commits of this process, by their way: one statement, or several",
            ["way"],
            registry=registry,
        )
        self._counters = (
            Counted(
                Counter(
                    "sagabox_saga_transitions",
                    "What happened to sagas and was committed by this process",
                    registry=registry,
                ),
                transitions,
            ),
            Counted(
                Counter(
                    "sagabox_stray_effects",
                    "Actions that took effect when their saga could not undo them any more",
                    registry=registry,
                ),
                stray_effects,
            ),
            Counted(
                Counter(
                    "sagabox_late_answers",
                    "Answers that came for sagas which were removed",
                    registry=registry,
                ),
                late_answers,
            ),
            *(Counted(by_way.labels(way), count) for way, count in commits.items()),
        )

    async def refresh(self) -> None:
        """Count anew, unless the last count is fresh. Without the database there are no counts."""
        for counted in self._counters:
            counted.refresh()
        now = self._monotonic()
        if self._counted_at is not None and now - self._counted_at < FRESH:
            return
        # Old counts would look like new ones.
        self._sagas.clear()
        self._counted_at = None
        for (name, status), count in (await queries.counts(self._database)).items():
            self._sagas.labels(name, status.value).set(count)
        self._counted_at = now
