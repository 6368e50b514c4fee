"""A database with tables of the library's plain names that are not the library's.

Each is a trap: it has none of the columns, so that a statement which names it fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, event, text

from orchestrator.tables import PLAIN
from outbox.tables import DEFAULT_TABLES

PLAIN_NAMES = (*DEFAULT_TABLES.metadata.tables, *PLAIN.metadata.tables, "alembic_version")

_NAMED = re.compile(
    r"\b(?:FROM|JOIN|INTO|UPDATE|TABLE|ON|REFERENCES)\s+"
    rf'"?(?:{"|".join(PLAIN_NAMES)}|outbox_seq_seq|saga_signal_seq_seq)"?(?![\w.])',
    re.IGNORECASE,
)


def set_traps(connection: Connection) -> None:
    """Make the tables."""
    for name in PLAIN_NAMES:
        connection.execute(text(f'CREATE TABLE "{name}" (trap INTEGER)'))


@contextmanager
def none_named(engine: Engine) -> Iterator[None]:
    """Raises AssertionError at the end of a block in which a statement named one of them."""
    named: list[str] = []

    def look(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if _NAMED.search(statement):
            named.append(statement)

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", look)
    assert not named, named[0]
