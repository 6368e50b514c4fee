"""The asynchronous twin of a synchronous engine: another engine for the same database."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NoReturn

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox import sqlite
from outbox.database.address.urls import ASYNCPG, PSYCOPG, database_url
from outbox.database.opening import open_database
from outbox.database.sqlalchemy_internals import given_connect_args
from outbox.errors import OutboxError

_CONNECTIONS = 5


def twin_of(engine: Engine, *, name: str) -> AsyncEngine:
    """An asynchronous engine for the database of this one, made from its URL. It has a small pool
    of its own, and connects only once it is used. `name` is for the server's administrators.

    Raises OutboxError where the URL does not say how to connect.
    """
    given = given_connect_args(engine)
    if given is None:
        _refuse("was made with a creator, so that its URL does not say how it connects")
    if engine.dialect.name == "sqlite":
        twin = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
        sqlite.configure(twin, busy_timeout=sqlite.busy_timeout(engine) or 0)
        return twin
    has_psycopg = engine.dialect.driver == "psycopg" or find_spec("psycopg") is not None
    url = engine.url.set(drivername=PSYCOPG if has_psycopg else ASYNCPG)
    if given and url.drivername != engine.url.drivername:
        _refuse(
            f"was made with connect_args ({', '.join(sorted(given))}), which another driver may "
            "not understand"
        )
    try:
        text = database_url(url.render_as_string(hide_password=False))
    except ValueError as error:
        _refuse(f"has a URL that cannot be used: {error}")
    return open_database(
        text, name=name, pool_size=_CONNECTIONS, pool_overflow=_CONNECTIONS, connect_args=given
    ).engine


def _refuse(why: str) -> NoReturn:
    raise OutboxError(
        f"the engine {why}; the relay needs an asynchronous engine for the same database",
        next_step="give relay_engine=create_async_engine(...)",
    )
