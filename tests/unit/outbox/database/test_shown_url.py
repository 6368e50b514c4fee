"""No message shows a secret that stands in the address of a database."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from migrations.databases import database_at
from migrations.errors import MigrationError
from outbox.database.shown_url import shown
from tests.support.checkout import ROOT

SECRETS = "password=one&sslpassword=two&scram_client_key=three&options=-cdebug%3Dfour"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"postgresql://ann:five@db:5433/shop?{SECRETS}", "postgresql://ann:***@db:5433/shop"),
        (
            f"postgresql://ann@/shop?host=/run/postgresql&{SECRETS}",
            "postgresql://ann@/shop?host=%2Frun%2Fpostgresql",
        ),
        (f"sqlite:////data/shop.sqlite?{SECRETS}", "sqlite:////data/shop.sqlite"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, text: str) -> None:
    assert shown(make_url(url)) == text


def test_the_migrations_show_an_address_without_its_secrets() -> None:
    database = database_at("postgresql://ann:five@db/shop?sslpassword=two")
    assert str(database) == "postgresql://ann:***@db/shop"
    assert "two" not in repr(database)
    with pytest.raises(MigrationError) as caught:
        database_at("postgresql://ann:five@db/?sslpassword=two")
    assert "two" not in str(caught.value)


def test_no_other_place_writes_an_address_for_people() -> None:
    """An address is written out with its password, which is for connecting, or by `shown`."""
    packages = ("outbox", "orchestrator", "migrations", "articles", "comments")
    files = [it for name in packages for it in (ROOT / name).rglob("*.py")]
    others = {
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file in files
        if file.name != "shown_url.py"
        for call in _rendered(ast.parse(file.read_text()))
        if not any(it.arg == "hide_password" and _is_false(it.value) for it in call.keywords)
    }
    assert others == set()


def _rendered(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "render_as_string"
        ):
            yield node


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False
