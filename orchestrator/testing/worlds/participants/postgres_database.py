"""A database of a world on the PostgreSQL of the test."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from orchestrator.testing.worlds.participants.database import Database, Table
from outbox.clock import Clock
from outbox.database.shown_url import shown

_KEPT = "sagabox_kept"
"""The schema with the remembered rows."""
_PATIENCE = "10s"
"""How long rows are waited for. Only a transaction that a test left open holds them."""

# Values are compared as PostgreSQL prints them: a driver has none for 'infinity', and JSON and
# arrays would be dicts and lists, which cannot be counted.
_TABLES = f"""
    SELECT table_.oid::regclass::text AS source,
        CASE schema_.nspname WHEN current_schema() THEN '' ELSE schema_.nspname || '.' END
            || table_.relname AS name,
        table_.relkind = 'r' AS has_rows,
        table_.relispartition AS is_part,
        array_agg(column_.attname::text ORDER BY attnum) AS columns,
        array_agg(column_.attname::text ORDER BY attnum)
            FILTER (WHERE column_.attnum = ANY (key_.indkey)) AS key,
        array_agg(quote_ident(column_.attname) ORDER BY attnum)
            FILTER (WHERE column_.attgenerated = '') AS stored,
        array_agg(quote_ident(column_.attname) || CASE
            WHEN column_.atttypid = ANY ('{{bool, int2, int4, int8}}'::regtype[]) THEN ''
            ELSE '::text' END ORDER BY attnum) AS shown
    FROM pg_class AS table_
    JOIN pg_namespace AS schema_ ON schema_.oid = table_.relnamespace
    JOIN pg_attribute AS column_ ON column_.attrelid = table_.oid
    LEFT JOIN pg_index AS key_ ON key_.indrelid = table_.oid AND key_.indisprimary
    WHERE table_.relkind IN ('r', 'p') AND column_.attnum > 0 AND NOT column_.attisdropped
        AND schema_.nspname !~ '^pg_' AND schema_.nspname <> ALL ('{{information_schema,{_KEPT}}}')
    GROUP BY table_.oid, schema_.nspname
    ORDER BY name
"""
_TRIGGERS = """
    SELECT tgrelid::regclass::text AS source, quote_ident(tgname) AS name
    FROM pg_trigger JOIN pg_class AS table_ ON table_.oid = tgrelid
    WHERE table_.relkind = 'r' AND NOT tgisinternal AND tgenabled = 'O'
"""


class PostgresDatabase(Database):
    """A database that is made on that server, and dropped at the end. The role needs no more than
    CREATEDB. `clock` stands for the server's, by which calls to the outside are judged.

    Raises ValueError where the URL is not that of a PostgreSQL.
    """

    def __init__(self, server: str | URL, clock: Clock) -> None:
        url = make_url(server)
        if url.get_backend_name() != "postgresql":
            raise ValueError(
                f"database= is {shown(url)!r}: give the URL of a PostgreSQL, such as "
                "postgresql://user:password@host/postgres, or none for SQLite files"
            )
        plain = url.set(drivername="postgresql+psycopg")
        asynchronous = plain if url == plain else url.set(drivername="postgresql+asyncpg")
        self._name = f"sagabox_world_{secrets.token_hex(8)}"
        self._server = create_engine(plain, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self._restoring: list[str] = []
        self.plain = create_engine(plain.set(database=self._name))
        # The event loop of an async test has ended before its world is closed.
        self.engine = create_async_engine(asynchronous.set(database=self._name), poolclass=NullPool)

        def in_virtual_time(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> Any:
            now = f"timestamptz '{clock.now().isoformat()}'"
            return statement.replace("clock_timestamp()", now), values

        for engine in (self.plain, self.engine.sync_engine):
            event.listen(engine, "before_cursor_execute", in_virtual_time, retval=True)
        self._at_server(f"CREATE DATABASE {self._name}")

    def tables(self, connection: Connection) -> list[Table]:
        """Its tables, sorted by name; one that is not in the current schema has a name with its
        schema. The partitions of a table are none."""
        return [
            Table(
                it.name,
                tuple(it.columns),
                tuple(it.key or ()),
                f"SELECT {', '.join(it.shown)} FROM {it.source}",
            )
            for it in connection.exec_driver_sql(_TABLES)
            if not it.is_part
        ]

    def keep(self) -> None:
        """Remember the present rows."""
        with self.plain.begin() as connection:
            execute = connection.exec_driver_sql
            execute(f"DROP SCHEMA IF EXISTS {_KEPT} CASCADE")
            tables = [it for it in execute(_TABLES) if it.has_rows]
            triggers = execute(_TRIGGERS).all()
            execute(f"CREATE SCHEMA {_KEPT}")
            inserts = []
            for number, it in enumerate(tables):
                columns, kept = ", ".join(it.stored), f"{_KEPT}.rows_{number}"
                copy = f"CREATE TABLE {kept} AS SELECT {columns} FROM ONLY {it.source}"
                if execute(copy).rowcount:
                    inserts.append(
                        f"INSERT INTO {it.source} ({columns}) OVERRIDING SYSTEM VALUE "
                        f"SELECT * FROM {kept}"
                    )
        self._restoring = [
            f"SET LOCAL lock_timeout = '{_PATIENCE}'",
            *(f"ALTER TABLE {it.source} DISABLE TRIGGER {it.name}" for it in triggers),
            _at_once(f"DELETE FROM {it.source}" for it in tables),
            _at_once(inserts),
            "SET CONSTRAINTS ALL IMMEDIATE",
            *(f"ALTER TABLE {it.source} ENABLE TRIGGER {it.name}" for it in triggers),
        ]

    def restore(self) -> None:
        """Restore the remembered rows.

        Sequences go on, as they do after a rollback: a way in which a handler fails draws more
        numbers, so that numbers must look like what they are, values that are made anew.
        """
        with self.plain.begin() as connection:
            for statement in self._restoring:
                connection.exec_driver_sql(statement)

    def remove(self) -> None:
        """Drop the database, with every connection that is left to it."""
        self.plain.dispose()
        drop = f"DROP DATABASE IF EXISTS {self._name}"
        try:
            self._at_server(f"{drop} WITH (FORCE)")
        except ProgrammingError:
            # Only a superuser may end a worker of autovacuum. Without force, the server ends it.
            with suppress(DBAPIError):
                self._at_server(drop)
            self._at_server(f"{drop} WITH (FORCE)")

    def _at_server(self, statement: str) -> None:
        with self._server.connect() as connection:
            connection.exec_driver_sql(statement)


def _at_once(statements: Iterable[str]) -> str:
    """One statement that does them all in any order: foreign keys are checked at its end."""
    parts = [f"part_{number} AS ({it})" for number, it in enumerate(statements)]
    return f"WITH {', '.join(parts)} SELECT 1" if parts else "SELECT 1"
