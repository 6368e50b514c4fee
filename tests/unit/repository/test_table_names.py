"""No module of the packages knows what the library's tables are called in a database."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.tables import PLAIN, saga_tables
from outbox.database.table_set import MAX_PREFIX
from outbox.tables import DEFAULT_TABLES, Tables
from tests.support.checkout import ROOT
from tests.support.repository.imports import Sources

_PLAIN_NAMES = frozenset({*DEFAULT_TABLES.metadata.tables, *PLAIN.metadata.tables, "metadata"})
_IN_SQL = re.compile(
    rf"\b(?:FROM|JOIN|INTO|UPDATE|TABLE|ON)\s+(?:{'|'.join(_PLAIN_NAMES)}|alembic_version)\b"
)
_MODULES = ("outbox.tables", "orchestrator.tables")
_TESTING = ROOT / "orchestrator" / "testing"
"""Its worlds have databases of their own."""


def _paths() -> Iterator[Path]:
    for path in Sources(ROOT, ("outbox", "orchestrator")).files.values():
        if not path.is_relative_to(_TESTING):
            yield path


def _found(path: Path, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if match := _IN_SQL.search(node.value):
                yield f"{path.name}:{line} has the SQL {match[0]!r}"
        elif isinstance(node, ast.ImportFrom) and node.module in _MODULES:
            for name in sorted({it.name for it in node.names} & _PLAIN_NAMES):
                yield f"{path.name}:{line} imports the table {name}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("outbox", "orchestrator"):
            yield from (
                f"{path.name}:{line} imports all tables" for it in node.names if it.name == "tables"
            )


def test_no_module_names_a_table_and_none_takes_one_by_its_plain_name() -> None:
    found = [it for path in _paths() for it in _found(path, path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_the_rule_finds_names() -> None:
    for source in (
        "x = 'DELETE FROM outbox WHERE seq = 1'",
        "x = f'LOCK TABLE inbox_watermark IN {mode}'",
        "from outbox.tables import outbox",
        "from orchestrator.tables import saga, SCHEMA_REVISION",
        "from outbox import tables",
    ):
        assert list(_found(Path("module.py"), source)), source
    assert not list(_found(Path("module.py"), "x = f'DELETE FROM {in_sql(outbox)}'"))


def test_the_longest_name_with_the_longest_prefix_fits_into_postgresql() -> None:
    library = Tables("p" * MAX_PREFIX)
    names = [
        name
        for metadata in (library.metadata, saga_tables(library).metadata)
        for table in metadata.tables.values()
        for name in (
            f"{table.name}_pkey",
            *(str(it.name) for it in table.indexes),
            *(str(it.name) for it in table.constraints if it.name),
            *(f"{table.name}_{it.name}_seq" for it in table.columns if it.identity),
        )
    ]
    assert max(map(len, names)) <= 63
