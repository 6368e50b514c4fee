"""Another engine for the database of an engine: asynchronous, with a pool of its own."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import sqlite
from outbox.database.address.passwords import Password, password_of
from outbox.database.address.urls import ASYNCPG, PSYCOPG, database_url
from outbox.database.opening import Database, open_database
from outbox.database.sqlalchemy_internals import given_connect_args
from outbox.errors import OutboxError
from outbox.tables import DEFAULT_TABLES, Tables

_CONNECTIONS = 10


class _Unclear(Exception):
    """The reason why an engine does not tell how another one connects."""


def twin_of(engine: Engine, *, name: str) -> AsyncEngine:
    """An asynchronous engine for the database of this one, made from its URL. It has a small pool
    of its own, and connects only once it is used. `name` is for the server's administrators.

    Raises OutboxError where the URL does not say how to connect.
    """
    try:
        found = _opened(engine, name=name, pool_size=_CONNECTIONS, pool_overflow=0)
    except _Unclear as why:
        raise OutboxError(
            f"the engine {why}; the relay needs an asynchronous engine for the same database",
            next_step="give relay_engine=create_async_engine(...)",
        ) from None
    return found.engine


def opened_again(
    engine: AsyncEngine | Engine,
    *,
    name: str,
    pool_size: int,
    pool_overflow: int,
    tables: Tables,
) -> Database:
    """The database of this engine, opened from its URL with a pool of its own, for an installation
    with these tables; as `twin_of`."""
    try:
        return _opened(
            engine, name=name, pool_size=pool_size, pool_overflow=pool_overflow, tables=tables
        )
    except _Unclear as why:
        raise OutboxError(
            f"the engine {why}; another one is needed for the same database",
            next_step="give an engine that create_async_engine(url) made",
        ) from None


def _opened(
    given: AsyncEngine | Engine,
    *,
    name: str,
    pool_size: int,
    pool_overflow: int,
    tables: Tables = DEFAULT_TABLES,
) -> Database:
    engine = given.sync_engine if isinstance(given, AsyncEngine) else given
    arguments = given_connect_args(engine)
    if arguments is None:
        raise _Unclear("was made with a creator, so that its URL does not say how it connects")
    driver = _asynchronous(engine)
    is_postgres = engine.dialect.name == "postgresql"
    if is_postgres and arguments and driver != engine.url.drivername:
        raise _Unclear(
            f"was made with connect_args ({', '.join(sorted(arguments))}), which another driver "
            "may not understand"
        )
    text = engine.url.set(drivername=driver).render_as_string(hide_password=False)
    try:
        url = database_url(text)
    except ValueError as error:
        raise _Unclear(f"has a URL that cannot be used: {error}") from None
    return open_database(
        url,
        name=name,
        pool_size=pool_size,
        pool_overflow=pool_overflow,
        connect_args=arguments,
        busy_timeout=sqlite.busy_timeout(engine),
        tables=tables,
        password=_password(given, engine),
    )


def _password(given: AsyncEngine | Engine, engine: Engine) -> Password | None:
    """The function that the engine asks. One of a synchronous engine may block, as the loop must
    not."""
    password = password_of(engine)
    if password is None or isinstance(given, AsyncEngine):
        return password
    return partial(asyncio.to_thread, cast(Any, password))


def _asynchronous(engine: Engine) -> str:
    """The driver of another engine, as URLs name it."""
    if engine.dialect.is_async:
        return engine.url.drivername
    if engine.dialect.name == "sqlite":
        return "sqlite+aiosqlite"
    has_psycopg = engine.dialect.driver == "psycopg" or find_spec("psycopg") is not None
    return PSYCOPG if has_psycopg else ASYNCPG
