"""What `make quick` runs: the option `--quick` chooses what a change breaks most often.

Chosen are the unit tests, and of `contracts` and `integration` those that run on SQLite; beside
them all that is marked `quick`, and of all that nothing which is marked `slow`.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.support.repository.reporting import tier_of

_WHOLE = ("unit",)
_ON_SQLITE = ("contracts", "integration")


def quick_first(values: Iterable[int]) -> list[pytest.ParameterSet]:
    """These as parameters of a test, the first of them marked `quick`."""
    first, *others = values
    return [pytest.param(first, marks=pytest.mark.quick), *map(pytest.param, others)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="run what a change breaks most often, in two minutes"
    )


def is_quick(item: pytest.Item) -> bool:
    """Whether `--quick` runs this test."""
    if item.get_closest_marker("slow"):
        return False
    if item.get_closest_marker("quick"):
        return True
    tier = tier_of(item.nodeid)
    if tier in _WHOLE:
        return True
    return tier in _ON_SQLITE and _database_of(item) == "sqlite"


def _database_of(item: pytest.Item) -> object:
    """On which database it runs; None where it takes no fixture of one."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("database_kind")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        (chosen if is_quick(item) else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen
