from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from orchestrator.engine.shards import Shards
from outbox import sqlite
from outbox.clock import SystemClock
from outbox.coordination.lease_store import LeaseStore
from outbox.database.engines import reading
from outbox.database.opening import open_database
from outbox.relay.condition import Condition
from outbox.relay.courier import Courier
from outbox.relay.ports import RelayPorts
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.tables import DEFAULT_TABLES
from tests.support.orchestrator.engines import Scripted

POSTGRESQL = "postgresql+asyncpg://user@127.0.0.1:1/nothing"
CLOCK = SystemClock()


def of_relay(engine: AsyncEngine) -> AsyncEngine:
    return Relay(engine, {}, owner="relay", clock=CLOCK)._reading


def of_courier(engine: AsyncEngine) -> AsyncEngine:
    settings = RelaySettings()
    return Courier(
        engine,
        "there",
        Scripted(),
        Condition("there", clock=CLOCK, batch=1, chance=lambda: 0.5),
        name=lambda: "relay",
        clock=CLOCK,
        settings=settings,
        ports=RelayPorts.of(engine, DEFAULT_TABLES, CLOCK),
        chance=lambda: 0.5,
    )._reading


def of_shards(engine: AsyncEngine) -> AsyncEngine:
    postgres = engine.dialect.name == "postgresql"
    return Shards(
        engine,
        name=lambda: "node",
        clock=CLOCK,
        settings=RelaySettings(),
        store=LeaseStore(DEFAULT_TABLES, postgres=postgres, now=CLOCK.now),
        changed=lambda _gained, _lost: None,
    )._keeper._reading


def of_database(engine: AsyncEngine) -> AsyncEngine:
    url = engine.url.render_as_string(hide_password=False)
    return open_database(url, name="test").reading


@pytest.mark.parametrize("made", [reading, of_relay, of_courier, of_shards, of_database])
def test_each_part_reads_a_single_statement_in_the_same_way(
    made: Callable[[AsyncEngine], AsyncEngine], tmp_path: Path
) -> None:
    on_postgresql = create_async_engine(POSTGRESQL)
    options = made(on_postgresql).sync_engine.get_execution_options()
    assert options["isolation_level"] == "AUTOCOMMIT"
    on_sqlite = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'some.sqlite'}")
    sqlite.configure(on_sqlite)
    options = made(on_sqlite).sync_engine.get_execution_options()
    assert options == {**options, **sqlite.READ_ONLY}
    assert "isolation_level" not in options
