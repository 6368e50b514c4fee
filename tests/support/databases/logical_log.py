"""What a reader of PostgreSQL's log gets of some tables: `pgoutput`, version 1 of its protocol.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html has the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from tests.support.databases.databases import Database

Values = Mapping[str, str | None]
"""Values by their columns, in the server's text form."""


@dataclass(frozen=True)
class Change:
    """One change of one row. An insert has `new`, a delete `old`, with the columns of the replica
    identity alone; an update `new`, and `old` where the identity changed; a truncate neither."""

    kind: str
    """insert, update, delete or truncate."""
    table: str
    transaction: int
    """The number of the transaction, in the order in which they were committed."""
    new: Values | None = None
    old: Values | None = None


@dataclass(frozen=True)
class _Relation:
    table: str
    columns: Sequence[tuple[str, bool]]
    """Each with whether it belongs to the replica identity."""


class _Bytes:
    """The bytes of one message, read from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        """The next number, of that form of `struct`."""
        (value,) = struct.unpack_from(f"!{form}", self._data, self._at)
        self._at += struct.calcsize(f"!{form}")
        return int(value)

    def letter(self) -> str:
        return chr(self.number("B"))

    def text(self) -> str:
        """The next text, which a zero ends."""
        end = self._data.index(0, self._at)
        value, self._at = self._data[self._at : end].decode(), end + 1
        return value

    def row(self) -> list[str | None]:
        """The values of a row. Raises ValueError at a value that is not in text form."""
        values: list[str | None] = []
        for _ in range(self.number("h")):
            match self.letter():
                case "n":
                    values.append(None)
                case "t":
                    size = self.number("i")
                    values.append(self._data[self._at : self._at + size].decode())
                    self._at += size
                case other:
                    raise ValueError(f"a value of the form {other!r}, which is not text")
        return values

    def end(self) -> None:
        """Raises ValueError where something is left."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes are left of a message")


class Decoder:
    """Reads messages in the order in which they came. What a transaction changed is told when its
    commit was read."""

    def __init__(self) -> None:
        self._relations: dict[int, _Relation] = {}
        self._transaction = 0
        self._is_open = False
        self._changes: list[Change] = []

    def read(self, message: bytes) -> list[Change]:
        """The changes of the transaction that ends with this message. Raises ValueError where it
        is none of version 1, or comes in a wrong place."""
        data = _Bytes(message)
        kind = data.letter()
        if self._is_open is (kind == "B"):
            raise ValueError(f"the message {kind!r} is not in its place")
        ended: list[Change] = []
        match kind:
            case "B":  # the end's place in the log, its time, the transaction's id
                self._is_open = True
                self._transaction += 1
                for form in "qqI":
                    data.number(form)
            case "C":  # flags, two places in the log, the time
                for form in "bqqq":
                    data.number(form)
                self._is_open, ended, self._changes = False, self._changes, []
            case "R":
                self._learn(data)
            case "I" | "U" | "D":
                self._changes.append(self._change(kind, data))
            case "T":
                count, _ = data.number("i"), data.number("b")
                tables = [self._relations[data.number("I")].table for _ in range(count)]
                self._changes += [Change("truncate", it, self._transaction) for it in tables]
            case other:
                raise ValueError(f"the message {other!r} is none that was asked for")
        data.end()
        return ended

    def _learn(self, data: _Bytes) -> None:
        number, schema, name = data.number("I"), data.text(), data.text()
        data.letter()  # the kind of the replica identity
        columns = []
        for _ in range(data.number("h")):
            is_identity = bool(data.number("b"))
            columns.append((data.text(), is_identity))
            data.number("I")  # the type
            data.number("i")  # and its modifier
        self._relations[number] = _Relation(f"{schema}.{name}", columns)

    def _change(self, kind: str, data: _Bytes) -> Change:
        relation = self._relations[data.number("I")]
        rows: dict[str, Values] = {}
        part = data.letter()
        if part in "KO":
            rows["old"] = _named(relation, data.row(), identity=part == "K")
            part = data.letter() if kind == "U" else ""
        if part == "N":
            rows["new"] = _named(relation, data.row(), identity=False)
        word = {"I": "insert", "U": "update", "D": "delete"}[kind]
        return Change(word, relation.table, self._transaction, **rows)


def _named(relation: _Relation, row: list[str | None], *, identity: bool) -> Values:
    named = zip(relation.columns, row, strict=True)
    return {name: value for (name, belongs), value in named if belongs or not identity}


class LogReader:
    """The reader of one slot, which takes what the publication has of it."""

    def __init__(self, connection: psycopg.Connection[Any], slot: str, publication: str) -> None:
        self._connection = connection
        self._decoder = Decoder()
        self._slot = slot
        self._publication = publication

    def take(self) -> list[Change]:
        """The changes that were committed since the last time, in the order of the commits; the
        slot does not keep them any longer."""
        rows = self._connection.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes("
            "%s, NULL, NULL, 'proto_version', '1', 'publication_names', %s)",
            [self._slot, self._publication],
        ).fetchall()
        return [change for (data,) in rows for change in self._decoder.read(bytes(data))]

    def catch_up(self) -> list[Change]:
        """The same, and confirm the log up to now: a heartbeat comes behind all that is in it."""
        self._connection.execute("SELECT pg_logical_emit_message(true, 'heartbeat', '')")
        return self.take()


@contextmanager
def log_reader(
    database: Database, publication: str, *, slot: str = "reader", make: bool = True
) -> Iterator[LogReader]:
    """A reader of what is committed from now on, with a slot that it drops at the end; `make` it,
    or use the one that is there. The publication need not be there before the first change."""
    assert database.server is not None, "only PostgreSQL has a log for readers"
    # The name of a slot is one of the whole server.
    with database.server.connect(database.url.rpartition("/")[2]) as connection:
        if make:
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        try:
            yield LogReader(connection, slot, publication)
        finally:
            connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])


def publish(database: Database, publication: str, table: str) -> None:
    """Publish every change of that table."""
    assert database.server is not None, "only PostgreSQL has publications"
    with database.server.connect(database.url.rpartition("/")[2]) as connection:
        connection.execute(
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(
                sql.Identifier(publication), sql.Identifier(table)
            )
        )
