"""Hazards of a database: what it does with the rows of our tables that the tables do not declare.

A table can have all its columns and indexes and still lose rows: by what was added to it by hand,
or by the way it is stored. None of this shows where tables are compared column by column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, MetaData, bindparam, text

from outbox.database.table_set import in_sql

_TABLES = """
    SELECT c.oid, c.relname, c.relpersistence::text, c.relrowsecurity, c.relforcerowsecurity,
           c.relreplident::text, c.reloptions
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname IN :names AND c.relkind IN ('r', 'p')
      AND CASE WHEN CAST(:schema AS text) IS NULL THEN pg_table_is_visible(c.oid)
               ELSE n.nspname = CAST(:schema AS text) END
    ORDER BY c.relname
"""
# Of tgtype, 1 is FOR EACH ROW and 2 is BEFORE: only such a trigger can drop or change a row without
# an error. One that fires for replicas alone ('R') or not at all ('D') does nothing here.
_TRIGGERS = """
    SELECT t.tgname FROM pg_trigger t
    WHERE t.tgrelid = :table AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
      AND t.tgtype & 3 = 3
    ORDER BY t.tgname
"""
_RULES = """
    SELECT r.rulename FROM pg_rewrite r
    WHERE r.ev_class = :table AND r.rulename <> '_RETURN' AND r.ev_enabled IN ('O', 'A')
    ORDER BY r.rulename
"""
_EXCLUSIONS = """
    SELECT con.conname FROM pg_constraint con
    WHERE con.conrelid = :table AND con.contype = 'x'
    ORDER BY con.conname
"""
_INVALID = """
    SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indrelid = :table AND NOT (x.indisvalid AND x.indisready AND x.indislive)
    ORDER BY i.relname
"""
_OFF = ("off", "false", "no", "0")
_IDENTITIES = {
    "n": "NOTHING, so that a publication makes each UPDATE and DELETE fail",
    "f": "FULL, so that each UPDATE and DELETE writes the whole old row to the log",
    "i": "an index, and without that index a publication makes each UPDATE and DELETE fail",
}


def hazards(connection: Connection, metadata: MetaData) -> Iterator[str]:
    """The hazards, a sentence for each: what it is, what it does, and the statement that mends it.

    On PostgreSQL triggers AFTER a row, triggers FOR EACH STATEMENT and disabled ones are fine: they
    can refuse a row with an error only. SQLite does not tell what a trigger does, so each is named.
    """
    if connection.dialect.name == "postgresql":
        statement = text(_TABLES).bindparams(bindparam("names", expanding=True))
        tables = {it.name: in_sql(it) for it in metadata.tables.values()}
        found = connection.execute(statement, {"names": sorted(tables), "schema": metadata.schema})
        for table in found.all():
            yield from _of_storage(connection, table, tables[table.relname])
            yield from _of_rows(connection, table.oid, tables[table.relname])
    else:
        yield from _of_sqlite(connection, metadata)


def _of_storage(connection: Connection, table: Any, name: str) -> Iterator[str]:
    schema, dot, _ = name.rpartition(".")
    if table.relpersistence == "u":
        yield (
            f"the table {name} is UNLOGGED: after a crash of the server it is empty, and no "
            f"standby has its rows; run: ALTER TABLE {name} SET LOGGED"
        )
    if table.relrowsecurity or table.relforcerowsecurity:
        yield (
            f"row-level security is on for the table {name}: rows that no policy allows are hidden "
            f"or refused; run: ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL "
            "SECURITY"
        )
    options = dict(it.partition("=")[::2] for it in table.reloptions or ())
    if options.get("autovacuum_enabled", "on").lower() in _OFF:
        yield (
            f"autovacuum is off for the table {name}: rows that were deleted stay in it, and it "
            f"becomes slower with every message; run: ALTER TABLE {name} RESET (autovacuum_enabled)"
        )
    if table.relreplident in _IDENTITIES:
        yield (
            f"the replica identity of the table {name} is {_IDENTITIES[table.relreplident]}; "
            f"run: ALTER TABLE {name} REPLICA IDENTITY DEFAULT"
        )
    for index in _names(connection, _INVALID, table.oid):
        yield (
            f"the index {index} of {name} is invalid: no query uses it, each write still fills it, "
            f"and a unique one guards nothing that was there before; run: REINDEX INDEX "
            f"{schema}{dot}{index}"
        )


def _of_rows(connection: Connection, oid: int, name: str) -> Iterator[str]:
    for trigger in _names(connection, _TRIGGERS, oid):
        yield (
            f"the trigger {trigger} of {name} runs before each row, and can drop or change it "
            f"without an error; run: DROP TRIGGER {trigger} ON {name}"
        )
    for rule in _names(connection, _RULES, oid):
        yield (
            f"the rule {rule} of {name} puts other statements in the place of ours, or none; "
            f"run: DROP RULE {rule} ON {name}"
        )
    for constraint in _names(connection, _EXCLUSIONS, oid):
        yield (
            f"the exclusion constraint {constraint} of {name} should not be there: it refuses rows "
            f"that the code may write; run: ALTER TABLE {name} DROP CONSTRAINT {constraint}"
        )


def _names(connection: Connection, query: str, oid: int) -> Sequence[str]:
    """The names found for that table, as written in SQL."""
    quote = connection.dialect.identifier_preparer.quote
    return [quote(it) for it in connection.scalars(text(query), {"table": oid})]


def _of_sqlite(connection: Connection, metadata: MetaData) -> Iterator[str]:
    quote = connection.dialect.identifier_preparer.quote
    found = connection.execute(text("SELECT type, name, tbl_name, sql FROM sqlite_master")).all()
    for kind, name, table, _ in sorted(found, key=lambda it: (it.tbl_name, it.name)):
        if kind == "trigger" and table in metadata.tables:
            yield (
                f"the trigger {name} of {table} runs at our statements, and can drop or change "
                f"rows without an error; run: DROP TRIGGER {quote(name)}"
            )
    made = {name: sql for kind, name, _, sql in found if kind == "table"}
    for table in metadata.sorted_tables:
        counts_on = table.dialect_options["sqlite"]["autoincrement"]
        if counts_on and table.name in made and "AUTOINCREMENT" not in made[table.name].upper():
            yield (
                f"the table {table.name} was made without AUTOINCREMENT: the numbers of deleted "
                "rows are given out again, and the relay would pass over messages; move its rows "
                "into a table that the migrations made"
            )
