"""The orchestrator's own metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from orchestrator.store import queries
from outbox.database.opening import Database

FRESH = 5.0
"""Seconds for which counts from the database are shown again."""


class Figures:
    """The numbers of runs by their standing, and of this node's transitions. `transitions` tells
    how many it has committed since its start, `monotonic` the seconds."""

    def __init__(
        self,
        registry: CollectorRegistry,
        database: Database,
        *,
        transitions: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._transitions = transitions
        self._shown = 0
        self._monotonic = monotonic
        self._counted_at: float | None = None
        self._sagas = Gauge(
            "sagabox_sagas",
            "Sagas by definition and status (of each status, the newest 100,000)",
            ["name", "status"],
            registry=registry,
        )
        self._committed = Counter(
            "sagabox_saga_transitions",
            "What happened to sagas and was committed by this process",
            registry=registry,
        )

    async def refresh(self) -> None:
        """Count anew, unless the last count is fresh. Without the database there are no counts."""
        done = self._transitions()
        self._committed.inc(done - self._shown)
        self._shown = done
        now = self._monotonic()
        if self._counted_at is not None and now - self._counted_at < FRESH:
            return
        # Old counts would look like new ones.
        self._sagas.clear()
        self._counted_at = None
        for (name, status), count in (await queries.counts(self._database)).items():
            self._sagas.labels(name, status.value).set(count)
        self._counted_at = now
