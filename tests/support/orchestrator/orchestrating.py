"""The orchestrator in the test's own process, with an engine that only takes down what it is told,
and rows of runs as the engine would write them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import Connection, insert

import orchestrator.tables
from orchestrator.app import assemble
from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.engine.commits.committer import CommitterStats
from orchestrator.engine.commits.items import Started
from orchestrator.engine.watchers import Watchers
from orchestrator.machine.instance import Instance
from orchestrator.machine.machine import start
from orchestrator.machine.signals import OperatorSignal
from orchestrator.machine.transition import Entry
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.settings import OrchestratorSettings
from orchestrator.store.records import Committed, Record, document_json, state_json
from orchestrator.store.sharding import shard_of
from outbox import schema, tables
from outbox.database.opening import Database as Opened
from outbox.testing import FakeClock
from outbox.wire.settled import EndedSagas
from tests.support.blog.blog import SECRETS, START, Running, new_id
from tests.support.databases.databases import Database

PARTICIPANTS = {"articles": "http://127.0.0.1:8001", "comments": "http://127.0.0.1:8002"}


def orchestrator_schema(
    connection: Connection, library: tables.Tables = tables.DEFAULT_TABLES
) -> None:
    """The tables of the orchestrator, as its migrations leave them."""
    library.metadata.create_all(connection)
    orchestrator.tables.saga_tables(library).metadata.create_all(connection)
    revision = orchestrator.tables.SCHEMA_REVISION
    schema.record_revision(connection, revision, "expand", START, tables=library)


def orchestrator_settings(database: Database, **settings: Any) -> OrchestratorSettings:
    """Settings for this database; this machine is trusted, and a process that stands still for a
    while keeps its part of the runs, unless they say otherwise."""
    usual = {"database_url": database.url, "secrets": SECRETS, "trust_loopback": True, "lease": 60}
    return OrchestratorSettings(**{**usual, **settings})


@dataclass(frozen=True)
class Begun:
    """What the engine was asked to start."""

    saga: Saga[Any]
    state: Any
    key: Any
    begin_at: datetime | None = None


class NotedEngine:
    """Takes down what it is told. A start writes the run's first row, unless `refusal` is set; that
    one is then raised by all that it is told."""

    def __init__(
        self, database: Opened, registry: Registry, _transports: Mapping[str, Any], **_: Any
    ) -> None:
        self.registry = registry
        self.watchers = Watchers()
        self.stats = CommitterStats()
        self.begun: list[Begun] = []
        self.told: list[tuple[str, OperatorSignal]] = []
        self.refusal: Exception | None = None
        self.start_refusal: Exception | None = None
        self.runs = True
        self._database = database

    async def run(self, stop: asyncio.Event) -> None:
        """Only wait for the end."""
        if not self.runs:
            raise RuntimeError("the engine broke")
        await stop.wait()

    async def check_start(self) -> None:
        """Raises what the test says."""
        if self.start_refusal is not None:
            raise self.start_refusal

    def settled(self) -> EndedSagas | None:
        """Nothing is known."""
        return None

    def latest(self, instance_id: str) -> Committed | None:
        """Nothing is in memory."""
        return None

    async def start(
        self, saga: Saga[Any], state: Any, *, key: Any = None, begin_at: datetime | None = None
    ) -> Started:
        """Write a run that has begun."""
        self.begun.append(Begun(saga, state, key, begin_at))
        if self.refusal is not None:
            raise self.refusal
        instance_id = new_id()
        await put(self._database, begun(state, id=instance_id, saga=saga))
        return Started(instance_id, True)

    async def signal(self, instance_id: str, signal: OperatorSignal) -> None:
        """Take it down."""
        self.told.append((instance_id, signal))
        if self.refusal is not None:
            raise self.refusal


def noted_app(database: Database, *sagas: Saga[Any], **settings: Any) -> FastAPI:
    """The orchestrator on this database with a `NotedEngine`, its clock at START and standing."""
    return assemble(
        orchestrator_settings(database, **settings),
        Registry(sagas or [delete_article], PARTICIPANTS),
        make_engine=NotedEngine,
        clock=FakeClock(START),
        transports={},
    )


def begun(
    state: Any = None, *, id: str | None = None, saga: Saga[Any] = delete_article
) -> Instance[Any]:
    """A run that has sent its first command."""
    state = Deletion(new_id()) if state is None else state
    return start(saga, id or new_id(), state, START).instance


async def put(database: Opened, instance: Instance[Any], **columns: Any) -> Instance[Any]:
    """Write the run's row; `columns` say what is to stand there instead."""
    saga = columns.pop("saga", delete_article)
    record = Record(instance)
    row = {
        "id": instance.id,
        "shard": shard_of(instance.id),
        "name": instance.saga,
        "version": instance.version,
        "key": instance.key,
        "status": instance.status.value,
        "paused": instance.paused,
        "state": state_json(saga, instance.state),
        "document": document_json(record),
        "revision": 1,
        "entries": 0,
        "created_at": instance.created_at,
        "updated_at": instance.created_at,
        "ended_at": None if instance.ended is None else instance.created_at,
    }
    async with database.engine.begin() as connection:
        await connection.execute(insert(orchestrator.tables.saga).values(row | columns))
    return instance


async def put_history(database: Opened, id: str, *entries: Entry, first: int = 1) -> None:
    """Write lines of the run's history, numbered from `first`."""
    rows = [
        {
            "saga_id": id,
            "number": number,
            "at": entry.at,
            "happening": entry.happening.value,
            "detail": entry.detail,
            "step": entry.step,
            "command_id": entry.command_id,
            "actor": entry.actor,
        }
        for number, entry in enumerate(entries, first)
    ]
    table = orchestrator.tables.saga
    async with database.engine.begin() as connection:
        await connection.execute(insert(orchestrator.tables.saga_history), rows)
        await connection.execute(
            table.update().where(table.c.id == id).values(entries=first + len(rows) - 1)
        )


async def put_alias(
    database: Opened, id: str, *, of: str | None = None, reason: str | None = None
) -> None:
    """Write a start that began nothing of its own."""
    row = {"id": id, "saga_id": of, "originator": "articles", "reason": reason, "made_at": START}
    async with database.engine.begin() as connection:
        await connection.execute(insert(orchestrator.tables.saga_alias).values(row))


def at(instance: Instance[Any], created_at: datetime) -> Instance[Any]:
    """The same run, begun at another time."""
    return replace(instance, created_at=created_at)


def engine_of(service: Running) -> NotedEngine:
    """The engine behind the addresses."""
    engine = service.chassis.service.carrier
    assert isinstance(engine, NotedEngine)
    return engine


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that the answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (found["code"], found["status"]) == (code, status)
    assert found["next_step"]
    return found
