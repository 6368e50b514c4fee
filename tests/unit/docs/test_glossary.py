"""The glossary has each word once, in order, and every value that a user meets."""

from __future__ import annotations

import re
from enum import Enum

import pytest

from orchestrator.api.models import StepStatusOut
from orchestrator.definition.steps import Kind
from orchestrator.machine.instance import Direction, Status, Wait
from outbox.chassis.access.routes import Role
from outbox.inbox.rows import State
from outbox.lanes import Lane
from outbox.replies import Outcome
from tests.support.checkout import ROOT

TEXT = (ROOT / "docs" / "reference" / "glossary.md").read_text()
ENTRIES = re.findall(r"^\*\*(.+?)\*\*: (.+?)(?=\n\n|\Z)", TEXT, re.M | re.S)
WORDS = [word for word, _ in ENTRIES]
MEANING = dict(ENTRIES)


def test_each_word_stands_once_and_in_order() -> None:
    assert len(WORDS) > 100
    assert sorted(set(WORDS), key=str.casefold) == WORDS


def test_the_page_has_nothing_but_entries_after_its_introduction() -> None:
    entries = TEXT.split("\n\n")[3:]
    assert len(entries) == len(WORDS)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("status", [it.value for it in Status]),
        ("status", [it.value for it in StepStatusOut]),
        ("direction", [it.value for it in Direction]),
        ("outcome", [it.value for it in Outcome]),
        ("state", [it.value for it in State]),
        ("wait", [it.value for it in Wait]),
        ("lane", [it.name for it in Lane]),
    ],
)
def test_an_entry_names_every_value_that_there_is(word: str, values: list[str]) -> None:
    named = re.findall(r"`([^`]+)`", MEANING[word])
    assert set(values) <= set(named)


def test_a_status_that_is_no_more_is_not_named() -> None:
    named = re.findall(r"`([^`]+)`", MEANING["status"])
    assert set(named) == {it.value for kind in (Status, StepStatusOut) for it in kind}
    definite, not_now = MEANING["outcome"].split("*Not now*")
    final = {it.value for it in Outcome if it.is_final}
    assert set(re.findall(r"`([^`]+)`", definite)) == final
    assert set(re.findall(r"`([^`]+)`", not_now)) == {it.value for it in Outcome} - final


@pytest.mark.parametrize("kind", [Kind])
def test_what_a_step_can_be_is_a_word_of_its_own(kind: type[Enum]) -> None:
    assert {str(it.value) for it in kind} <= set(WORDS)


def test_the_roles_are_named() -> None:
    assert all(it.value in MEANING["role"] for it in Role)


def test_a_word_in_italics_is_one_of_the_page() -> None:
    flat = " ".join(" ".join(meaning.split()) for meaning in MEANING.values())
    shown = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", flat)
    assert len(shown) > 100
    assert [it for it in shown if not any(word in WORDS for word in _simple(it))] == []


def _simple(word: str) -> list[str]:
    """The word, and what it may be a form of."""
    low = word[0].lower() + word[1:]
    irregular = {"held": "hold", "redriven": "redrive", "delivery": "deliver"}
    endings = ("", "s", "es", "'s", "ed", "red")
    return [irregular.get(low, low), *(low.removesuffix(it) for it in endings)]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/internals/architecture.md",
        "docs/reference/semantics.md",
    ],
)
def test_the_pages_where_a_reader_begins_lead_to_it(page: str) -> None:
    assert "glossary.md" in (ROOT / page).read_text()
