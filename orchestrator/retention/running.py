"""Retention beside a service: its loop, and its figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily

from orchestrator.retention import lease
from orchestrator.retention.archive.archive import Archive
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import KINDS, Tally
from orchestrator.retention.worker import Retention
from orchestrator.tables import saga_tables
from outbox.chassis.configured import ConfiguredService
from outbox.coordination.loops import at_the_end, repeat


class Forgetting:
    """The retention of one service. Without a policy nothing is removed, and runs that were
    archived are still found. `for_good` as for `Retention`."""

    def __init__(
        self,
        service: ConfiguredService,
        policy: Policy | None,
        archive: Archive | None,
        *,
        for_good: bool = False,
    ) -> None:
        self.archive = archive
        self._service = service
        self._retention: Retention | None = None
        if policy is not None:
            self._retention = Retention(
                service.database,
                policy,
                archive,
                for_good=for_good,
                clock=service.clock,
                ids=service.new_id,
            )
        self._round: Gauge | None = None
        self._oldest: Gauge | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Remove what is old until the block ends."""
        if self._retention is None:
            yield
            return
        stop = asyncio.Event()
        task = asyncio.create_task(
            repeat(stop, self._retention.step, "remove what is old", self._service.progress)
        )
        try:
            yield
        finally:
            stop.set()
            _, late = await asyncio.wait({task}, timeout=self._service.settings.drain_seconds)
            if late:
                # What it was at is found, and finished, by the next round.
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await at_the_end(self._retention.leave, "give the lease of the retention back")

    def counted_in(self, registry: CollectorRegistry) -> None:
        """Show the figures in that registry."""
        if self._retention is None:
            return
        registry.register(_Counts(self._retention.tally))
        self._round = Gauge(
            "sagabox_retention_round_timestamp_seconds",
            "When a process of the orchestrator last ended a round of retention; 0 before",
            registry=registry,
        )
        self._oldest = Gauge(
            "sagabox_retention_oldest_seconds",
            "Time since the oldest end of a saga that was in the database after that round",
            registry=registry,
        )

    async def refresh_figures(self) -> None:
        """Read the figures that all processes share."""
        if self._round is None or self._oldest is None:
            return
        database = self._service.database
        async with database.reading.connect() as connection:
            ended, oldest = await lease.standing(connection, saga_tables(database.tables))
        self._round.set(0 if ended is None else ended.timestamp())
        now = self._service.clock.now()
        self._oldest.set(0 if oldest is None else max(0.0, (now - oldest).total_seconds()))


class _Counts:
    """The counters of one process."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> list[CounterMetricFamily]:
        """As prometheus_client's."""
        archived = CounterMetricFamily(
            "sagabox_retention_archived", "What this process archived and removed", labels=["kind"]
        )
        removed = CounterMetricFamily(
            "sagabox_retention_removed", "What this process removed", labels=["kind"]
        )
        for kind in ("runs", "histories", "letters"):
            archived.add_metric([kind], self._tally.archived[kind])
        for kind in KINDS:
            removed.add_metric([kind], self._tally.removed[kind])
        failures = CounterMetricFamily(
            "sagabox_retention_failures",
            "Rounds of retention of this process that the database or the archive ended",
            value=self._tally.failures,
        )
        return [archived, removed, failures]
