"""A plugin of pytest: the tables of the tests have other names, beside traps with the plain ones.

    SAGABOX_TEST_TABLES=sagabox_@messaging pytest -p tests.support.databases.renamed ...

`prefix@schema`; the schema is left out on SQLite. A trap is a table that has a plain name and none
of its columns, so that every statement which names it fails.
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection, MetaData, event, text

from outbox.database.table_set import TableSet

_prefix, _, _schema = os.environ["SAGABOX_TEST_TABLES"].partition("@")
_plainly_made = TableSet.__init__


def _make(self: TableSet, prefix: str = "", schema: str | None = None) -> None:
    is_plain = not prefix and schema is None
    _plainly_made(self, _prefix if is_plain else prefix, _schema or None if is_plain else schema)
    event.listen(self.metadata, "after_create", _set_traps)


def _set_traps(metadata: MetaData, connection: Connection, **_: Any) -> None:
    for table in metadata.tables.values():
        plain = table.name.removeprefix(_prefix)
        connection.execute(text(f'CREATE TABLE IF NOT EXISTS "{plain}" (trap INTEGER)'))


TableSet.__init__ = _make  # type: ignore[method-assign]  # before any table is declared
