"""Runs that end in a test's time, and the removal of what is old, step by step."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.definition.registry import Registry
from orchestrator.engine.node import Node
from orchestrator.engine.ports import EnginePorts
from orchestrator.retention.archive.archive import Archive
from orchestrator.retention.lookup import ArchivedRuns
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import RetentionLimits, Tally
from orchestrator.retention.worker import Retention
from outbox.contract import SagaEnded
from outbox.ids import Ids
from outbox.testing import FakeClock
from tests.support.databases.databases import Database
from tests.support.databases.in_time import engine_in_time
from tests.support.orchestrator.engines import Scripted, opened
from tests.support.orchestrator.nodes import make_node
from tests.support.orchestrator.stepping import Asking, go_on, told
from tests.support.orchestrator.trips import BOOKING, NAMES

ALONE = replace(BOOKING, one_active=True)
POLICY = Policy.parse("on")


async def at_once(_: float) -> None:
    """Let no time pass between two steps."""


@dataclass
class Retained:
    """A node whose runs end at once, unless a participant is told otherwise."""

    clock: FakeClock
    engine: AsyncEngine
    participants: dict[str, Scripted]
    node: Node
    asking: Asking
    ids: Ids
    archive: Archive | None = None
    inputs: dict[str, Any] = field(default_factory=dict)

    async def run(
        self, trip: str = "t1", *, id: str | None = None, message: str | None = None
    ) -> str:
        """Start a run by a message, and let all go on as far as it does; returns the run's id."""
        id = id or self.ids()
        await self.asking.start(id, {"trip": trip}, message_id=message or self.ids())
        await go_on(self.node)
        return id

    async def days(self, days: float) -> None:
        """Let time pass."""
        self.clock.advance(timedelta(days=days).total_seconds())
        await go_on(self.node)

    async def a_minute(self) -> None:
        """Let as much time pass as it takes until what was "ongoing" is asked again."""
        self.clock.advance(61)
        await go_on(self.node)

    def retention(
        self,
        policy: Policy | None = POLICY,
        limits: RetentionLimits | None = None,
        *,
        for_good: bool = False,
    ) -> Retention:
        """The removal of what is old, as one process does it."""
        assert policy is not None
        return Retention(
            opened(self.engine),
            policy,
            self.archive,
            for_good=for_good,
            clock=self.clock,
            ids=self.ids,
            limits=limits,
        )

    async def forget(self, policy: Policy | None = POLICY) -> Tally:
        """One round."""
        done = await self.retention(policy).whole_round(at_once)
        assert done is not None, "another process removes what is old"
        return done

    @property
    def archived(self) -> ArchivedRuns:
        """The runs in the archive."""
        return ArchivedRuns(opened(self.engine), self.archive)

    async def counts(self) -> Mapping[str, int]:
        """The number of rows in each table that retention is about."""
        names = ("saga", "saga_history", "saga_alias", "saga_start_key", "saga_archive")
        async with self.engine.connect() as connection:
            return {
                name: (
                    await connection.execute(
                        select(func.count()).select_from(getattr(tables, name))
                    )
                ).scalar_one()
                for name in names
            }

    def told(self, id: str) -> Sequence[SagaEnded]:
        """What the service behind the starts of that id was told."""
        return [it for it in told(self.participants["mails"]) if it.instance_id == id]


@asynccontextmanager
async def retained(database: Database, archive: Archive | None = None) -> AsyncIterator[Retained]:
    """Such a node on a database of a schema `in_time`."""
    clock = FakeClock()
    participants = {name: Scripted() for name in NAMES}
    participants["trains"].values["trains.reserve-seat.v1"] = {"number": "12a"}
    async with engine_in_time(database, clock) as engine:
        node = make_node(engine, [ALONE], NAMES, clock=clock, transports=participants)
        registry = Registry([ALONE], dict.fromkeys(NAMES, "http://127.0.0.1:1"))
        async with engine.begin() as connection:
            await EnginePorts.of(engine, registry, clock).runs.register(connection)
        ids = Ids(clock, os.urandom)
        asking = Asking(engine, clock)
        await go_on(node)
        yield Retained(clock, engine, participants, node, asking, ids, archive)
