"""The migrations that the pages and the examples show take back all that they made."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, create_engine, inspect

import orchestrator.schema
from outbox import schema, tables
from tests.support.checkout import ROOT
from tests.support.repository.manual import blocks

_PAGES = {
    page: next(it for it in blocks(page, "python") if "def downgrade" in it)
    for page in ("docs/guide/adopting.md", "docs/operate/migrations.md")
}
_EXAMPLES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "examples").glob("*/*/migrations/versions/*_messages.py")
}
_SHOWN = _PAGES | _EXAMPLES


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def test_each_example_with_a_history_is_looked_at() -> None:
    assert len(_EXAMPLES) == 3


@pytest.mark.parametrize("shown", _SHOWN)
def test_a_migration_that_is_shown_can_be_taken_back_and_applied_again(shown: str) -> None:
    named: dict[str, Any] = {}
    exec(_SHOWN[shown], named)
    upgrade: Callable[[], None] = named["upgrade"]
    downgrade: Callable[[], None] = named["downgrade"]
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        with Operations.context(MigrationContext.configure(connection)):
            upgrade()
            assert schema.differences(connection) == []
            downgrade()
            assert _tables(connection) == set()
            upgrade()
        assert _tables(connection) == set(tables.metadata.tables)
    engine.dispose()


def test_the_migration_with_an_orchestrator_goes_back_from_where_it_went() -> None:
    """So do the calls on its page."""
    went, back = r"orchestrator\.schema\.upgrade\(op, to=(\d+)", r"start=(\d+), tables=ORCHESTRATOR"
    for place in ("examples/small/migrations/versions/0001_shop.py", "docs/guide/one-process.md"):
        text = (ROOT / place).read_text()
        numbers = [int(up or down) for up, down in re.findall(f"{went}|{back}", text)]
        assert numbers == [orchestrator.schema.LATEST] * 2, place


def test_the_migration_of_the_django_example_goes_back_from_where_it_went() -> None:
    # Its transaction is Django's, which needs a PostgreSQL: so only its numbers are looked at.
    text = (ROOT / "examples/orders_django/migrations/0001_orders.py").read_text()
    assert f", to={schema.LATEST})" in text
    assert f"downgrade(op, to=0, start={schema.LATEST})" in text
