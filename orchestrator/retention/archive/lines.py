"""What a line of the archive says: a run with its history and aliases, a history that was removed
before its run, or a dead letter.

Pure: rows to JSON, and JSON to values that have the names of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import orjson

FORMAT = 1
"""The version of the lines' form. Fields are only added, never changed."""


@dataclass(frozen=True)
class ArchivedLine:
    """A line of the history of a run, with the columns of its table."""

    number: int
    at: datetime
    happening: str
    detail: str
    step: str | None = None
    command_id: str | None = None
    actor: str | None = None


@dataclass(frozen=True)
class InArchive:
    """Where a run is archived: since when, and in which file of which archive."""

    at: datetime
    place: str
    file: str


@dataclass(frozen=True)
class ArchivedRow:
    """A run in the archive: the columns of the table `saga` that describe a run that has ended,
    and its history. It has no timers, and no one works on it."""

    id: str
    shard: int
    name: str
    version: int
    key: str
    status: str
    paused: bool
    state: str
    document: str
    revision: int
    entries: int
    created_at: datetime
    updated_at: datetime
    ended_at: datetime
    originator: str | None = None
    trace: str | None = None
    number: str | None = None
    start_id: str | None = None
    fingerprint: str | None = None
    begin_at: datetime | None = None
    parked: str | None = None
    due_at: datetime | None = None
    history_removed_at: datetime | None = None
    history_archive_id: str | None = None
    history: tuple[ArchivedLine, ...] = ()
    archived: InArchive | None = None


@dataclass(frozen=True)
class Item:
    """Something to be archived: its id, the number of its writes (0 for what is never written
    again), and its line. `also` are other ids by which it is known."""

    id: str
    revision: int
    line: bytes
    also: tuple[str, ...] = ()


_RUN = tuple(it.name for it in fields(ArchivedRow) if it.name not in ("history", "archived"))
_LINE = tuple(it.name for it in fields(ArchivedLine))
_ALIAS = (
    *("id", "saga_id", "originator", "trace", "reason"),
    *("made_at", "start_id", "fingerprint"),
)
_LETTER = (
    *("id", "destination", "bucket", "aggregatetype", "aggregateid", "type", "payload", "headers"),
    *("occurred_at", "reason", "attempts", "died_at"),
)
_TIMES = frozenset(
    {"created_at", "updated_at", "ended_at", "begin_at", "due_at", "at", "history_removed_at"}
)
_OF_HISTORY = ("id", "name", "version", "key", "status", "revision", "created_at", "ended_at")


def run_item(run: Any, history: Sequence[Any], aliases: Sequence[Any]) -> Item:
    """The item of a run, from the rows of its tables."""
    told = {
        "format": FORMAT,
        "kind": "run",
        "run": {name: getattr(run, name) for name in _RUN},
        "history": _lines(history),
        "aliases": [{name: getattr(alias, name) for name in _ALIAS} for alias in aliases],
    }
    also = tuple(alias.id for alias in aliases)
    return Item(run.id, run.revision, orjson.dumps(told), also)


def history_item(run: Any, history: Sequence[Any]) -> Item:
    """The item of a history that is removed before its run, from the rows of their tables."""
    told = {
        "format": FORMAT,
        "kind": "history",
        "run": {name: getattr(run, name) for name in _OF_HISTORY},
        "history": _lines(history),
    }
    return Item(run.id, run.revision, orjson.dumps(told))


def _lines(history: Sequence[Any]) -> list[dict[str, Any]]:
    return [{name: getattr(line, name) for name in _LINE} for line in history]


def letter_item(letter: Any) -> Item:
    """The item of a dead letter, from its row. One message may be given up for each of its
    destinations."""
    told = {
        "format": FORMAT,
        "kind": "dead-letter",
        "letter": {name: getattr(letter, name) for name in _LETTER},
    }
    return Item(letter_key(letter.id, letter.destination), 0, orjson.dumps(told))


def letter_key(id: str, destination: str) -> str:
    """The id of the item of a dead letter."""
    return f"{id} {destination}"


def letter_of(key: str) -> tuple[str, str]:
    """The id and the destination of the dead letter with that key."""
    id, _, destination = key.partition(" ")
    return id, destination


def run_of(line: bytes, archived: InArchive) -> ArchivedRow:
    """The run in a line of that file. Raises ValueError where it is none."""
    told = orjson.loads(line)
    if not isinstance(told, dict) or told.get("kind") != "run":
        raise ValueError("the line of the archive is no run")
    try:
        run = _known(told["run"], _RUN)
        history = tuple(ArchivedLine(**_known(it, _LINE)) for it in told["history"])
        return ArchivedRow(**run, history=history, archived=archived)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the line of the archive lacks something: {error!r}") from error


def _known(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values of these names, with their times; what newer code added is left out."""
    return {
        name: datetime.fromisoformat(it) if name in _TIMES and it is not None else it
        for name, it in values.items()
        if name in names
    }
