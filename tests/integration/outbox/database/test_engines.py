"""Engines derived from another one have the isolation level that they say."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import SystemClock
from outbox.database.engines import by_statement, reading, seeing_all
from outbox.relay.relay import Relay

pytestmark = pytest.mark.databases("postgresql")


async def is_in_autocommit(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).dbapi_connection
        assert driver is not None
        return connection.dialect.detect_autocommit_setting(driver)


async def test_a_reader_of_an_engine_that_sees_all_begins_no_transaction(
    engine: AsyncEngine,
) -> None:
    """SQLAlchemy takes the level that was given first, where an engine is derived twice."""
    assert not await is_in_autocommit(seeing_all(engine))
    assert await is_in_autocommit(reading(seeing_all(engine)))
    assert await is_in_autocommit(by_statement(seeing_all(engine)))


async def test_the_relay_reads_without_a_transaction(engine: AsyncEngine) -> None:
    relay = Relay(engine, {}, owner="relay", clock=SystemClock())
    assert await is_in_autocommit(relay._reading)
