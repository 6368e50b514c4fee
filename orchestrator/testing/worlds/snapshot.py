"""Snapshots of a participant's tables, and the differences between two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.testing.worlds.participants.database import Database

_MOST_ROWS = 100_000


@dataclass(frozen=True)
class Rows:
    """The rows of a table. `key` names the columns of its primary key."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


Tables = Mapping[str, Rows]
Snapshot = Mapping[str, Tables]
"""The tables of each participant."""


@dataclass(frozen=True, order=True)
class Difference:
    """One value, or a whole row where there is no `column`, that is not what it was."""

    participant: str
    table: str
    row: str
    column: str = ""
    was: str = ""
    is_now: str = ""

    def __str__(self) -> str:
        where = f"{self.participant}: table {self.table}, row {self.row}"
        if not self.column:
            return f"{where}: was {self.was}, is {self.is_now}"
        return f"{where}: {self.column} was {self.was}, is {self.is_now}"


def taken(database: Database, without: Collection[str]) -> Tables:
    """The snapshot of that database, without the tables `without`. Raises ValueError where it has
    more rows than a test should have."""
    result = {}
    with database.plain.connect() as connection:
        for table in database.tables(connection):
            if table.name in without:
                continue
            limit = f"{table.query} LIMIT {_MOST_ROWS + 1}"
            rows = connection.exec_driver_sql(limit).all()
            if len(rows) > _MOST_ROWS:
                raise ValueError(
                    f"table {table.name} has more than {_MOST_ROWS} rows; prepare fewer"
                )
            result[table.name] = Rows(table.columns, table.key, tuple(map(tuple, rows)))
    return result


class Ignored:
    """The parts that a comparison leaves out: tables, columns, or columns of one table
    (`orders.status`)."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(names)

    def also(self, differences: Collection[Difference]) -> Ignored:
        """These columns too."""
        return Ignored(self._names | {f"{it.table}.{it.column}" for it in differences if it.column})

    def table(self, name: str) -> bool:
        """Whether the whole table is left out."""
        return name in self._names

    def column(self, table: str, name: str) -> bool:
        """Whether the column of that table is."""
        return name in self._names or f"{table}.{name}" in self._names

    def check(self, snapshot: Snapshot) -> None:
        """Check the names. Raises ValueError for one that is nowhere."""
        known = {
            name
            for tables in snapshot.values()
            for table, rows in tables.items()
            for name in (table, *rows.columns, *(f"{table}.{it}" for it in rows.columns))
        }
        if unknown := sorted(self._names - known):
            raise ValueError(
                f"ignore= names {', '.join(map(repr, unknown))}, and no table or column is called "
                "so; write a table, a column, or table.column"
            )


def differences(before: Snapshot, after: Snapshot, ignored: Ignored) -> list[Difference]:
    """The differences between the two snapshots, sorted."""
    return sorted(
        difference
        for participant, tables in before.items()
        for table, rows in tables.items()
        if not ignored.table(table)
        for difference in _in_table(participant, table, rows, after[participant][table], ignored)
    )


def varying(first: Snapshot, second: Snapshot, ignored: Ignored) -> list[Difference]:
    """The columns in which two undisturbed runs differ."""
    found = differences(first, second, ignored)
    whole = {(it.participant, it.table) for it in found if not it.column}
    # A row that is there in one and not in the other has a key that is made anew, and other rows
    # may name it.
    anew = [
        Difference(participant, table, "", column)
        for participant, table in whole
        for column in _anew(first[participant][table], second[participant][table])
    ]
    return [*found, *anew]


def _anew(first: Rows, second: Rows) -> Iterator[str]:
    for at, column in enumerate(first.columns):
        old, new = (Counter(row[at] for row in rows.rows) for rows in (first, second))
        if column in first.key or old != new:
            yield column


def _in_table(
    participant: str, table: str, before: Rows, after: Rows, ignored: Ignored
) -> Iterator[Difference]:
    shown = [it for it in before.columns if not ignored.column(table, it)]
    if not before.key or any(ignored.column(table, it) for it in before.key):
        yield from _unkeyed(participant, table, _dicts(before), _dicts(after), shown)
        return
    old, new = (
        {tuple(row[it] for it in before.key): row for row in _dicts(rows)}
        for rows in (before, after)
    )
    for key in old.keys() | new.keys():
        words = ", ".join(f"{name}={value!r}" for name, value in zip(before.key, key, strict=True))
        was, now = old.get(key), new.get(key)
        if was is None or now is None:
            yield Difference(participant, table, words, "", _there(was), _there(now))
            continue
        for name in shown:
            if was[name] != now[name]:
                yield Difference(participant, table, words, name, repr(was[name]), repr(now[name]))


def _unkeyed(
    participant: str,
    table: str,
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    shown: Sequence[str],
) -> Iterator[Difference]:
    old, new = (Counter(tuple(row[it] for it in shown) for row in rows) for rows in (before, after))
    for values in old.keys() | new.keys():
        if old[values] != new[values]:
            words = ", ".join(f"{k}={v!r}" for k, v in zip(shown, values, strict=True))
            yield Difference(
                participant, table, words, "", f"there {old[values]} times", f"{new[values]} times"
            )


def _dicts(rows: Rows) -> list[dict[str, Any]]:
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]


def _there(row: object) -> str:
    return "not there" if row is None else "there"
