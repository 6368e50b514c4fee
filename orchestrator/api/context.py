"""The routes' shared context, and looking up a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from fastapi import Response
from sqlalchemy import Row

from orchestrator.api import views, waits
from orchestrator.api.models import SagaOut, Summary
from orchestrator.api.waits import Waiting
from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.engine.commits.items import Started
from orchestrator.engine.engine import IdempotencyKey
from orchestrator.engine.watchers import Watchers
from orchestrator.errors import UnknownRun
from orchestrator.machine.signals import OperatorSignal
from orchestrator.retention.archive.lines import ArchivedRow
from orchestrator.retention.lookup import ArchivedRuns
from orchestrator.store import queries
from orchestrator.store import waits as stored_waits
from orchestrator.store.queries import RefusedStart, Tombstone
from orchestrator.store.records import Committed
from orchestrator.store.waits import Obstacles
from outbox.chassis.access.keys import Keys
from outbox.chassis.http.input_types import id_in_path
from outbox.chassis.http.problems import HttpProblem
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.database.opening import Database
from outbox.transports.addresses.overview import Overview

LOOK_AGAIN = 1.0
"""Seconds after which a request that waits for a run looks by itself: another node may have worked
on it, or the service may be about to stop."""


class Runs(Protocol):
    """The routes' port to `orchestrator.engine.engine.Engine`; its errors are those of
    `orchestrator.errors`."""

    @property
    def registry(self) -> Registry:
        """The definitions that this node runs."""

    @property
    def watchers(self) -> Watchers:
        """The watchers that it tells of its commits."""

    async def start(
        self,
        saga: Saga[Any],
        state: Any,
        *,
        key: IdempotencyKey | None = None,
        begin_at: datetime | None = None,
    ) -> Started:
        """Begin a run, or schedule it for `begin_at`, and return once that is committed."""

    def latest(self, instance_id: str) -> Committed | None:
        """The live run of that id as it stands in the database, where memory has it for sure."""

    async def signal(self, instance_id: str, signal: OperatorSignal) -> None:
        """Apply an operator's signal, and return once it is committed."""


@dataclass(frozen=True)
class ApiContext:
    """The routes' shared context. `keys` are those of callers; `ids` makes ids of messages.
    `addresses` gives those of the services that it sends to, by name. `stopping` is set as soon as
    the service is told to stop."""

    engine: Runs
    database: Database
    clock: Clock
    bell: Bell
    keys: Keys
    stopping: asyncio.Event
    ids: Callable[[], str]
    addresses: Callable[[], Mapping[str, Overview]]
    archived: ArchivedRuns

    @property
    def registry(self) -> Registry:
        """The definitions that this node runs."""
        return self.engine.registry

    async def find(self, id: str, response: Response | None = None) -> Row[Any] | ArchivedRow:
        """The run of that id, or the active one that a start of that id was joined to; then
        `response` says so. One that was removed comes from the archive.

        Raises UnknownRun, ArchiveUnavailable, and HttpProblem (410) for a start that was refused,
        and for a run that was removed and not archived.
        """
        known = id_in_path(id)
        there = None if known is None else await queries.find(self.database, known)
        archived = None
        if known is not None and (there is None or isinstance(there, Tombstone)):
            archived = await self.archived.find(known, there)
        match archived or there:
            case None:
                is_old = known is not None and await queries.may_be_removed(self.database, known)
                raise UnknownRun(id, may_be_removed=is_old)
            case Tombstone(ended=ended):
                raise HttpProblem(
                    410,
                    "saga-removed",
                    f"The saga {id} ended {ended}, and was removed without being archived.",
                    next_step="Nothing more is known of it: its age was above the retention's.",
                )
            case RefusedStart(reason=reason):
                raise HttpProblem(
                    410,
                    "start-refused",
                    f"The start {id} began no saga: {reason}.",
                    next_step="Mend what the reason names, and start it anew under a new id.",
                )
            case row:
                if response is not None and row.id != known:
                    response.headers["content-location"] = f"/sagas/{row.id}"
                return row

    async def begun(self, id: str) -> SagaOut:
        """The run for its caller, right after its begin: what is in its way is not looked for."""
        committed = self.engine.latest(id)
        if committed is not None:
            return self._shown_commit(committed)
        row = await self.find(id)
        live = waits.live_run(row, self.registry)
        return await self._shown_row(row, {} if live is None else live.waiting(Obstacles()))

    async def _shown_row(
        self, row: Row[Any] | ArchivedRow, waiting: Mapping[str, Waiting]
    ) -> SagaOut:
        removed = await self.archived.removed_history(row)
        shown = views.shown_row(row, self.registry)
        return views.saga(shown, waiting, self.clock.now(), removed)

    async def shown(self, row: Row[Any] | ArchivedRow) -> SagaOut:
        """The run for a caller, with what it waits for."""
        live = waits.live_run(row, self.registry)
        waiting: Mapping[str, Waiting] = {}
        if live is not None:
            obstacles = await stored_waits.obstacles(self.database, live.sent())
            waiting = live.waiting(obstacles)
        return await self._shown_row(row, waiting)

    def _shown_commit(self, committed: Committed) -> SagaOut:
        live = waits.live_run_of(committed.record, self.registry)
        waiting = {} if live is None else live.waiting(Obstacles())
        shown = views.shown_commit(committed, self.registry)
        return views.saga(shown, waiting, self.clock.now())

    async def listed(self, rows: Sequence[Row[Any]]) -> list[Summary]:
        """The runs of a page for a caller, each with what it waits for."""
        ids = [row.id for row in rows if row.ended_at is None]
        found = await stored_waits.documents(self.database, ids) if ids else ()
        live = {row.id: waits.live_run(row, self.registry) for row in found}
        runs = {id: run for id, run in live.items() if run is not None}
        commands = [command for run in runs.values() for command in run.sent()]
        obstacles = await stored_waits.obstacles(self.database, commands)
        waiting = {id: run.waiting(obstacles) for id, run in runs.items()}
        return [views.summary(row, self.registry, waiting.get(row.id, {})) for row in rows]

    async def until_ended(self, id: str, seconds: float) -> SagaOut:
        """The run once it has ended, or as it stands after that time, or when the service stops.

        Where this node works on the run, its end is told from the commit, and nothing is read.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self.engine.watchers.watching(id) as watch:
            while (left := end - loop.time()) > 0 and not self.stopping.is_set():
                if self.engine.latest(id) is None:
                    now = await queries.standing(self.database, id)
                    if now is None or now.has_ended:
                        break
                # Not after each step: with many runs at once that would be most of the work.
                if await watch.ended(min(left, LOOK_AGAIN)):
                    break
            if watch.end is not None:
                return self._shown_commit(watch.end)
        return await self.shown(await self.find(id))
