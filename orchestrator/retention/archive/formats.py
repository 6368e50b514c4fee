"""The forms of a file: the lines as compressed JSON Lines, or as a table of Parquet."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from orchestrator.errors import InvalidRetention
from orchestrator.retention.archive.lines import Item


class Format(Protocol):
    """One form of files, with their ending."""

    ending: str

    def write(self, items: Sequence[Item]) -> bytes:
        """The file of these items, in their order."""

    def read(self, content: bytes, id: str) -> bytes | None:
        """The line of that item; None where the file has none. Raises ValueError where the content
        is no such file."""


class JsonLines:
    """One line of JSON for each item, compressed by gzip."""

    ending = "jsonl.gz"

    def write(self, items: Sequence[Item]) -> bytes:
        """As the protocol's. The same items give the same bytes."""
        lines = b"".join(it.line + b"\n" for it in items)
        return gzip.compress(lines, mtime=0)

    def read(self, content: bytes, id: str) -> bytes | None:
        """As the protocol's."""
        try:
            lines = gzip.decompress(content).splitlines()
        except (OSError, EOFError) as error:
            raise ValueError(f"the file is not compressed JSON Lines: {error}") from error
        wanted = id.encode()
        # The text is looked for first, since reading each line would take most of the time.
        return next((it for it in lines if wanted in it and _id_of(it) == id), None)


class Parquet:
    """A table with the columns that people ask by, and the whole line of each item."""

    ending = "parquet"

    def __init__(self) -> None:
        try:
            import pyarrow.parquet  # type: ignore[import-untyped]  # it has no types
        except ImportError as error:
            raise InvalidRetention(
                "an archive of Parquet files needs pyarrow, which is not installed",
                next_step='install it: pip install "sagabox[parquet]"',
            ) from error
        self._parquet: Any = pyarrow.parquet
        self._arrow: Any = pyarrow

    def write(self, items: Sequence[Item]) -> bytes:
        """As the protocol's."""
        table = self._arrow.table(
            {
                "id": [it.id for it in items],
                "revision": [it.revision for it in items],
                **{name: [_column(it, name) for it in items] for name in _COLUMNS},
                "line": [it.line.decode() for it in items],
            },
            schema=self._schema(),
        )
        file = io.BytesIO()
        self._parquet.write_table(table, file, compression="zstd")
        return file.getvalue()

    def _schema(self) -> Any:
        text = self._arrow.string()
        names = {"id": text, "revision": self._arrow.int64(), **dict.fromkeys(_COLUMNS, text)}
        return self._arrow.schema([*names.items(), ("line", text)])

    def read(self, content: bytes, id: str) -> bytes | None:
        """As the protocol's."""
        try:
            table = self._parquet.read_table(
                io.BytesIO(content), columns=["line"], filters=[("id", "=", id)]
            )
        except self._arrow.ArrowInvalid as error:
            raise ValueError(f"the file is no Parquet: {error}") from error
        lines = table.column("line").to_pylist()
        return lines[0].encode() if lines else None


_COLUMNS = ("name", "key", "status", "created_at", "ended_at")
"""The columns of a run that stand in a table beside its line; None for a dead letter."""

FORMATS: Mapping[str, type[JsonLines | Parquet]] = {"jsonl": JsonLines, "parquet": Parquet}
"""The forms by the names that the setting has for them."""


def format_named(name: str) -> Format:
    """The form of that name. Raises InvalidRetention."""
    made = FORMATS.get(name)
    if made is None:
        raise InvalidRetention(
            f"{name!r} is no form of an archive", next_step=f"name one of {', '.join(FORMATS)}"
        )
    return made()


def format_of(path: str) -> Format:
    """The form of a file, by its ending. Raises ValueError for another one."""
    for made in FORMATS.values():
        if path.endswith(f".{made.ending}"):
            return made()
    raise ValueError(f"{path} has no ending of a file of the archive")


def _id_of(line: bytes) -> str | None:
    told = orjson.loads(line)
    part = told.get("run") or told.get("letter") or {}
    found: str | None = part.get("id")
    return found


def _column(item: Item, name: str) -> str | None:
    found: Any = (orjson.loads(item.line).get("run") or {}).get(name)
    return None if found is None else str(found)
