"""A database's address, and a connection to it on which errors are explained."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

import outbox.sqlite
from migrations import failures
from migrations.environment import Dialect
from migrations.errors import MigrationError, Unreachable
from migrations.services import Service
from outbox.chassis.database_settings import DatabaseSettings
from outbox.chassis.settings import InvalidSettings, load
from outbox.clock import Clock
from outbox.database.address.passwords import Password, ask_password
from outbox.database.address.poolers import unprepared
from outbox.database.address.urls import connecting, database_url
from outbox.database.shown_url import shown
from outbox.tables import DEFAULT_TABLES, Tables

_FORMS = "postgresql://user:password@host:5432/name or sqlite:///path/to/file.db"
_PATIENCE = 10  # seconds for an answer to a connect
_PAUSE = 1.0  # seconds between two looks for a server that does not answer


@dataclass(frozen=True)
class Database:
    """The database of a service. `url` names the asynchronous driver."""

    url: URL = field(repr=False)
    tables: Tables = DEFAULT_TABLES
    """The library's tables there."""
    password: Password | None = None
    """Gives the password of the moment, in place of that of the URL."""

    @property
    def dialect(self) -> Dialect:
        """The dialect of its SQL."""
        return "sqlite" if self.path is not None else "postgresql"

    @property
    def path(self) -> Path | None:
        """The file of a SQLite database."""
        if self.url.get_backend_name() != "sqlite":
            return None
        return Path(self.url.database or "")

    @property
    def is_missing_file(self) -> bool:
        """Whether it is a SQLite database whose file does not exist yet."""
        return self.path is not None and not self.path.exists()

    def __str__(self) -> str:
        """The address as a person writes it, without its secrets."""
        return shown(self.url.set(drivername=self.dialect))


def database_at(text: str) -> Database:
    """Read an address. Raises MigrationError where it is none that the services can use."""
    try:
        url = make_url(database_url(text))
    except ValueError as error:
        # The text itself is not shown: it may hold a password.
        raise MigrationError(
            "the database's address cannot be used", str(error), f"write it as {_FORMS}"
        ) from None
    if not url.database:
        raise MigrationError(
            f"the address {shown(url)} names no database",
            "the name after the last slash is missing",
            f"write it as {_FORMS}",
        )
    return Database(url, _tables(url), _settings().database_password())


def tables_in_environment() -> Tables:
    """The library's tables, as the environment names them. Raises MigrationError."""
    return _settings().tables


def _settings() -> DatabaseSettings:
    try:
        return load(DatabaseSettings)
    except InvalidSettings as error:
        raise MigrationError(
            "it is not known what the tables are called, or how to log in",
            error.problem,
            error.next_step,
        ) from error


def _tables(url: URL) -> Tables:
    tables = tables_in_environment()
    if tables.schema is not None and url.get_backend_name() == "sqlite":
        raise MigrationError(
            f"the tables are to be in the schema {tables.schema}",
            "the database is a SQLite file, which has no schemas",
            "unset SAGABOX_SCHEMA; SAGABOX_TABLE_PREFIX keeps tables apart",
        )
    return tables


def database_of(service: Service, given: str | None = None) -> Database:
    """The service's database: the given address, or that of the environment.

    Raises MigrationError where there is neither.
    """
    text = given or os.environ.get(service.variable)
    if not text:
        raise MigrationError(
            f"it is not known where the database of {service.name} is",
            f"neither --database was given nor {service.variable} set",
            f"export {service.variable}=sqlite:///{service.name}.db",
        )
    return database_at(text)


@asynccontextmanager
async def connected(database: Database, *, writes: bool) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, which commits at the end unless something was raised.

    Where it `writes`, SQLite's one write lock is held from the beginning. Otherwise it waits for no
    writer, and rolls everything back at its end. The database's errors, also in the body, come out
    as a MigrationError.
    """
    if database.path is not None:
        _open_once(database, database.path)
    engine = _engine(database)
    try:
        connection = engine.connect()
        with _explained(failures.of_connect, database.url):
            await connection.start()
        try:
            with _explained(failures.of_statement, database.url):
                if not writes and database.dialect == "sqlite":
                    await connection.execution_options(**outbox.sqlite.READ_ONLY)
                async with connection.begin() as transaction:
                    yield connection
                    if not writes:
                        await transaction.rollback()
        finally:
            await connection.close()
    finally:
        await engine.dispose()


async def wait_for_server(
    database: Database, seconds: float, *, clock: Clock, tell: Callable[[str], None]
) -> None:
    """Return when the database's server takes connections; at once for a SQLite file, which has no
    server. Only a server that cannot be reached is waited for: a refusal does not go away.

    `tell` hears of a wait before it begins. Raises Unreachable where the server has not answered
    within so many seconds, and MigrationError at once for anything else that is wrong.
    """
    if database.path is not None:
        return
    ends_at, waits = clock.monotonic() + seconds, False
    while True:
        try:
            async with connected(database, writes=False):
                return
        except Unreachable as error:
            if clock.monotonic() + _PAUSE > ends_at:
                raise Unreachable(
                    f"{error.happened}, also after {seconds:g} s", error.why, error.next_step
                ) from error
            if not waits:
                tell(f"{error.happened}; waiting for it up to {seconds:g} s")
                waits = True
            await asyncio.sleep(_PAUSE)


@contextmanager
def _explained(
    explain: Callable[[Exception, URL], MigrationError | None], url: URL
) -> Iterator[None]:
    """What is raised within comes out as the MigrationError that explains it, if one does."""
    try:
        yield
    except MigrationError:
        raise
    except Exception as error:
        explained = explain(error, url)
        if explained is None:
            raise
        raise explained from error


def _open_once(database: Database, path: Path) -> None:
    """Raises MigrationError where SQLite cannot open the file.

    The asynchronous driver would do so too, but its thread then speaks once more to an event loop
    that may be closed.
    """
    if not path.parent.is_dir():
        raise failures.missing_folder(path)
    try:
        sqlite3.connect(path).close()
    except sqlite3.Error as error:
        raise failures.of_sqlite(error, path) from error


def _engine(database: Database) -> AsyncEngine:
    if database.dialect == "postgresql":
        url, given = connecting(database.url.render_as_string(hide_password=False))
        asyncpg = url.get_driver_name() == "asyncpg"
        patience = {"timeout" if asyncpg else "connect_timeout": _PATIENCE}
        # Nothing is prepared: a pooler may be before the server.
        own = patience | unprepared(url.get_driver_name())
        engine = create_async_engine(url, poolclass=NullPool, connect_args=own | given)
        if database.password is not None:
            ask_password(engine, database.password)
        return engine
    engine = create_async_engine(database.url, poolclass=NullPool)
    outbox.sqlite.configure(engine)
    event.listen(engine.sync_engine, "connect", _without_cascades)
    return engine


def _without_cascades(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # A table is changed on SQLite by dropping and rebuilding it. With foreign keys on, the drop
    # deletes what refers to its rows; and within a transaction they cannot be switched off.
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=OFF")
    cursor.close()
