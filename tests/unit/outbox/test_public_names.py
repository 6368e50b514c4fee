"""`__all__` of each public module is what the module offers, sorted as people sort."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

_PUBLIC = (
    "orchestrator",
    "orchestrator.testing",
    "outbox",
    "outbox.testing",
    "outbox.testing.transport_contract",
    "outbox.transports",
    "outbox.transports.http",
)


def _source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}: write it, or take it off this list"
    assert spec.origin is not None, f"{module} has no __init__.py"
    return Path(spec.origin)


def _offered(tree: ast.Module, package: str | None) -> Iterator[str]:
    """The public names of a module: what it defines, and where it is a package what it re-exports.

    A package re-exports what it imports from within itself; other imports are its own business.
    """
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id="_HOMES")], value=ast.Dict(keys=keys)):
                # What is imported when code asks for it.
                yield from (str(key.value) for key in keys if isinstance(key, ast.Constant))
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.ImportFrom(module=origin, level=level, names=aliases) if package:
                if level or f"{origin}.".startswith(f"{package}."):
                    yield from (alias.asname or alias.name for alias in aliases)
            case _:
                pass


def _public(names: Iterator[str]) -> list[str]:
    return sorted({it for it in names if not it.startswith("_")}, key=_as_people_sort)


def _as_people_sort(name: str) -> tuple[str, str]:
    return name.casefold(), name


@pytest.mark.parametrize("module", _PUBLIC)
def test_all_is_the_sorted_list_of_the_public_names(module: str) -> None:
    path = _source(module)
    package = module if path.name == "__init__.py" else None
    offered = _public(_offered(ast.parse(path.read_text("utf-8")), package))
    declared = list(getattr(importlib.import_module(module), "__all__", []))
    assert declared == offered, (
        f"{module}.__all__ should be {offered}: "
        f"missing {sorted({*offered} - {*declared})}, surplus {sorted({*declared} - {*offered})}"
        " (a name that is not meant for users starts with an underscore)"
    )


@pytest.mark.parametrize("module", _PUBLIC)
def test_every_name_in_all_can_be_imported(module: str) -> None:
    imported = importlib.import_module(module)
    absent = [name for name in imported.__all__ if not hasattr(imported, name)]
    assert not absent, f"{module}.__all__ names what {module} does not have: {absent}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def add(): ...\nasync def run(): ...\nclass Event: ...", ["add", "Event", "run"]),
        ("_HOMES = {'add': 'outbox.outbox', 'Event': 'outbox.messages'}", ["add", "Event"]),
        ("LIMIT = 1\nrate: int = 2\n_hidden = 3\n__all__ = []", ["LIMIT", "rate"]),
        ("from outbox.outbox import add, _staged\nfrom .inbox import Inbox", ["add", "Inbox"]),
        ("from outbox import sqlite\nfrom outbox.x import y as z", ["sqlite", "z"]),
        ("from dataclasses import dataclass\nimport asyncio", []),
        ("from outboxes import add", []),
    ],
)
def test_what_a_package_offers_is_told_from_what_it_uses(text: str, names: list[str]) -> None:
    assert _public(_offered(ast.parse(text), "outbox")) == names


def test_a_plain_module_offers_what_it_defines_and_nothing_that_it_imports() -> None:
    text = "from outbox.clock import Clock\nclass FakeClock(Clock): ..."
    assert _public(_offered(ast.parse(text), None)) == ["FakeClock"]
