"""Which tests `make quick` runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support.checkout import ROOT
from tests.support.repository.quick import is_quick, quick_first

MAKEFILE = (ROOT / "Makefile").read_text()


@dataclass
class Item:
    """As much of a test as the choice looks at."""

    nodeid: str
    marks: tuple[str, ...] = ()
    callspec: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(params={}))

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


def chosen(tier: str, *marks: str, on: str | None = None) -> bool:
    params = {} if on is None else {"database_kind": on}
    item = Item(f"tests/{tier}/test_it.py::test_it", marks, SimpleNamespace(params=params))
    return is_quick(cast(pytest.Item, item))


def test_unit_tests_are_chosen() -> None:
    assert chosen("unit")


@pytest.mark.parametrize("tier", ["contracts", "integration", "integration/outbox/inbox"])
def test_of_what_needs_a_database_that_on_sqlite_is_chosen(tier: str) -> None:
    assert chosen(tier, on="sqlite")
    assert not chosen(tier, on="postgresql")
    assert not chosen(tier, on="older-postgresql")
    assert not chosen(tier)


@pytest.mark.parametrize("tier", ["acceptance", "consistency", "compatibility"])
def test_real_processes_are_not_chosen_unless_marked(tier: str) -> None:
    assert not chosen(tier)
    assert not chosen(tier, on="sqlite")
    assert chosen(tier, "quick")


def test_what_is_slow_is_never_chosen() -> None:
    assert not chosen("unit", "slow")
    assert not chosen("consistency", "slow", "quick")


def test_the_first_of_several_parameters_is_marked() -> None:
    parameters = quick_first(range(3))
    assert [it.values for it in parameters] == [(0,), (1,), (2,)]
    assert [len(list(it.marks)) for it in parameters] == [1, 0, 0]


def test_make_quick_asks_for_the_choice() -> None:
    recipe = MAKEFILE.partition("\nquick:")[2].partition("\n\n")[0]
    assert "--quick" in recipe
    assert "$(PROCESSES)" in recipe
