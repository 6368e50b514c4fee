"""What of SQLAlchemy is used without its promise.

Where one of these tests fails, the installed version has changed the thing; its docstring says what
no longer works here until `outbox/database/sqlalchemy_internals.py` follows.
"""

from __future__ import annotations

import ast
from typing import Any

import psycopg
import pytest
from psycopg.pq import PGconn
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.dialects.postgresql.psycopg import AsyncAdapt_psycopg_connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from outbox.database import sqlalchemy_internals as internals
from outbox.database.column_types import Xid8
from tests.support.checkout import ROOT

HOUSES = ("outbox", "orchestrator", "articles", "comments", "migrations")
UNPROMISED = ("sqlalchemy.engine.base", "sqlalchemy.util", "sqlalchemy.util.concurrency")


@pytest.fixture
def engine() -> Engine:
    return create_engine("sqlite://", poolclass=StaticPool)


def test_the_name_of_a_savepoint_is_known_before_it_is_made(engine: Engine) -> None:
    """Else messages that were added within a savepoint of a connection outlive its rollback."""
    foretold: list[str] = []
    given: list[str] = []

    @event.listens_for(engine, "savepoint")
    def before(connection: Connection, name: str | None) -> None:
        assert name is None
        foretold.append(internals.next_savepoint(connection))

    @event.listens_for(engine, "release_savepoint")
    def after(_connection: Connection, name: str, _context: object) -> None:
        given.append(name)

    with engine.connect() as connection, connection.begin():
        for _ in range(3):
            with connection.begin_nested():
                pass
    assert foretold == given
    assert len(set(given)) == 3


@pytest.mark.parametrize("level", ["AUTOCOMMIT", None])
def test_the_isolation_level_of_an_engine_is_known(level: str | None) -> None:
    """Else `outbox.add` takes messages on an engine whose every statement commits by itself."""
    options = {} if level is None else {"isolation_level": level}
    engine = create_engine("postgresql+psycopg://nowhere/none", **options)
    assert internals.level_at_connect(engine.dialect) == level


def test_an_engine_with_options_is_told_from_the_original_one(engine: Engine) -> None:
    """Else a derived engine of SQLite is configured, and the original one is not."""
    assert isinstance(engine.execution_options(stream_results=True), internals.OptionEngine)
    assert not isinstance(engine, internals.OptionEngine)


async def test_synchronous_code_of_an_asynchronous_engine_can_wait() -> None:
    """Else a transaction on SQLite blocks the event loop while it waits for its turn, and a session
    whose commit failed inserts what is added to it later too early."""

    async def answer() -> str:
        return "waited for"

    def work(_: Connection) -> tuple[bool, str]:
        return internals.in_greenlet(), internals.await_(answer())

    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    assert not internals.in_greenlet()
    async with engine.connect() as connection:
        assert await connection.run_sync(work) == (True, "waited for")
    await engine.dispose()


def test_it_is_known_whether_a_connection_of_asyncpg_prepares_statements() -> None:
    """Else a service is not told that its engine is not made for the pooler before its server, and
    what it reads there is torn apart."""
    adapted: Any = AsyncAdapt_asyncpg_connection
    for size, prepares in ((100, True), (0, False)):
        connection = adapted(None, object(), prepared_statement_cache_size=size)
        assert internals.prepares("asyncpg", connection) is prepares


async def test_it_is_known_whether_a_connection_of_psycopg_prepares_statements() -> None:
    """The same."""
    unconnected = PGconn.connect_start(b"host=127.0.0.1 port=1")
    bare: Any = psycopg.Connection(unconnected)
    within: Any = psycopg.AsyncConnection(unconnected)
    adapted: Any = AsyncAdapt_psycopg_connection.__new__(AsyncAdapt_psycopg_connection)
    adapted._connection = within
    for threshold, prepares in ((5, True), (None, False)):
        bare.prepare_threshold = within.prepare_threshold = threshold
        assert internals.prepares("psycopg", bare) is prepares
        assert internals.prepares("psycopg", adapted) is prepares
    assert not internals.prepares("psycopg2", bare)
    unconnected.finish()


def test_it_is_known_how_many_connections_a_pool_opens() -> None:
    """Else `sagabox doctor` does not see that the server has fewer."""
    engine = create_engine("postgresql+psycopg://nowhere/none", pool_size=3, max_overflow=4)
    assert internals.most_connections(engine.pool) == 7
    endless = create_engine("postgresql+psycopg://nowhere/none", pool_size=3, max_overflow=-1)
    assert internals.most_connections(endless.pool) == 3
    assert internals.most_connections(create_engine("sqlite://", poolclass=StaticPool).pool) == 1


def test_reflection_knows_the_type_of_transaction_ids() -> None:
    """Else `sagabox migrate check` warns of a column of an unknown type."""
    dialect = create_engine("postgresql+psycopg://nowhere/none").dialect
    known = dialect.ischema_names  # type: ignore[attr-defined]  # is none of every dialect
    assert known["xid8"] is Xid8


def test_nothing_else_takes_what_sqlalchemy_does_not_promise() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}"
        for house in HOUSES
        for path in sorted((ROOT / house).rglob("*.py"))
        if path.name != "sqlalchemy_internals.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and _is_unpromised(node)
    ]
    assert not found, "\n".join(found)


def _is_unpromised(node: ast.ImportFrom) -> bool:
    of_sqlalchemy = (node.module or "").split(".")[0] == "sqlalchemy"
    private = any(name.name.startswith("_") for name in node.names)
    return of_sqlalchemy and (node.module in UNPROMISED or private)
