"""The engine's database goes away: no run is parked, divided or blamed, on any driver's error."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from orchestrator import tables
from orchestrator.machine.instance import Status
from tests.support.databases.databases import PostgresTemplates
from tests.support.databases.postgres import PostgresServer, Stop
from tests.support.orchestrator.engines import Node, Scripted, orchestrator_tables, running
from tests.support.orchestrator.trips import BOOKING, Trip
from tests.support.processes.waiting import until

BLAMED = "cannot be worked on"


class DriverError(Exception):
    """As a driver raises what the server says."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


AT_CONNECT = [
    ConnectionRefusedError(111, "connect call failed"),
    socket.gaierror(-2, "name or service not known"),
    TimeoutError(),
    FileNotFoundError(2, "no such socket"),
    OperationalError("", None, DriverError("53300")),
    # CONNECT was revoked, or the database allows no connections: during maintenance, as a rule.
    ProgrammingError("", None, DriverError("42501")),
    OperationalError("", None, DriverError("55000")),
]
AT_A_STATEMENT = [
    ConnectionResetError(104, "reset by peer"),
    OperationalError("", None, DriverError("40003")),
    OperationalError("", None, DriverError("53200")),
    OperationalError("", None, DriverError("53400")),
    OperationalError("", None, DriverError("57P04")),
    OperationalError("", None, DriverError("58030")),
]


class Away:
    """An engine that cannot connect for as often as `times` says."""

    def __init__(self, engine: AsyncEngine, error: Exception) -> None:
        self._engine = engine
        self._error = error
        self.times = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def connect(self) -> Any:
        if self.times:
            self.times -= 1
            raise self._error
        return self._engine.connect()


@pytest.mark.parametrize("error", AT_CONNECT, ids=repr)
async def test_a_run_whose_answer_finds_no_connection_goes_on(
    node: Node,
    participants: dict[str, Scripted],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    saga_id = await until_hotels_are_asked(node, participants)
    committer: Any = node.engine._node.committer
    ground = committer._long_way._ground
    away = Away(ground.engine, error)
    committer._long_way._ground = replace(ground, engine=away)
    if committer._one_trip._engine is not None:
        committer._one_trip._engine = away
    away.times = 2
    participants["hotels"].is_away = False
    await went_on(node, saga_id, caplog)
    assert away.times == 0


@pytest.mark.parametrize("error", AT_A_STATEMENT, ids=repr)
async def test_a_run_whose_statement_meets_a_database_in_trouble_goes_on(
    node: Node,
    participants: dict[str, Scripted],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    saga_id = await until_hotels_are_asked(node, participants)
    statements, left = node.engine._ports.statements, [error, error]

    def failing(method: Any) -> Any:
        async def asked(*args: Any, **options: Any) -> Any:
            if left:
                raise left.pop()
            return await method(*args, **options)

        return asked

    for name in ("write", "commit_at_once"):
        monkeypatch.setattr(statements, name, failing(getattr(statements, name)))
    participants["hotels"].is_away = False
    await went_on(node, saga_id, caplog)
    assert not left


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


async def test_a_run_whose_answer_comes_while_postgresql_is_stopped_goes_on_after_its_start(
    own_server: PostgresServer, participants: dict[str, Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    database = PostgresTemplates(own_server).fresh(orchestrator_tables)
    # Without a pool every connection is a new one, as it is after a pool has lost all of its own.
    engine = create_async_engine(database.url, poolclass=NullPool)
    async with running(engine, [BOOKING], participants) as node:
        saga_id = await until_hotels_are_asked(node, participants)
        own_server.stop(Stop.FAST)
        failures = node.engine.stats.failures
        participants["hotels"].is_away = False
        await until(lambda: node.engine.stats.failures > failures, what="a commit has failed")
        own_server.start()
        await went_on(node, saga_id, caplog)
    await engine.dispose()


async def test_a_node_whose_database_is_away_at_its_end_still_closes_what_it_has(
    engine: AsyncEngine, participants: dict[str, Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    class Closing(Scripted):
        async def aclose(self) -> None:
            closed.append("hotels")

    async def starting() -> None:
        # As asyncpg says it where nothing wraps it.
        raise DriverError("57P03")

    async with running(engine, [BOOKING], {**participants, "hotels": Closing()}) as node:
        shards: Any = node.engine._node.shards
        shards.leave = starting
    assert closed == ["hotels"]
    assert not node.engine.is_running
    (told,) = [it for it in caplog.records if "give the shards back" in it.message]
    assert told.exc_info is None


async def until_hotels_are_asked(node: Node, participants: dict[str, Scripted]) -> str:
    participants["hotels"].is_away = True
    started = await node.engine.start(BOOKING, Trip("one"))

    async def asked() -> bool:
        lines = await node.rows(tables.saga_history)
        return any(it.step == "reserve room" and it.happening == "sent" for it in lines)

    await until(asked, what="the room is asked for")
    return started.instance_id


async def went_on(node: Node, saga_id: str, caplog: pytest.LogCaptureFixture) -> None:
    await node.until_status(saga_id, Status.COMPLETED, deadline=30)
    (row,) = await node.rows(tables.saga)
    assert row.parked is None
    assert BLAMED not in caplog.text
