"""The page on testing: its snippets stand here and run, and its story is the one that is found."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from orchestrator.cli import main
from orchestrator.testing import Faults, View, explore, simulate
from orchestrator.testing.exploring.model.faults import USUAL
from orchestrator.testing.exploring.model.promises import MEANINGS
from orchestrator.testing.virtual.chances import Fault
from tests.support.checkout import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    from shop.contract import Reserved
    from shop.saga import Placing, place_order

PAGE = (ROOT / "docs" / "guide" / "testing.md").read_text()


def test_an_order_keeps_every_promise() -> None:
    explore(place_order).check()


def test_an_order_keeps_every_promise_for_this_input() -> None:
    explore(
        place_order,
        Placing("order-7", card="1234"),
        faults=Faults(crashes=2, duplicates=1, burials=1, retries=1),
        replies={"reserve stock": [Reserved(total=80_00), Reserved(total=0)]},
    ).check()


def no_goods_are_held_back_for_nothing(view: View) -> bool | str:
    if view.ended and "reserve stock" in view.in_effect and "charge card" not in view.in_effect:
        return "goods are held back for an order that is not paid"
    return True


def test_no_goods_are_held_back_for_nothing() -> None:
    explore(place_order, invariants=[no_goods_are_held_back_for_nothing]).check()


def what_is_held_back_is_listed(view: View) -> bool | str:
    if "reserve stock" in view.not_undone:
        return True
    return no_goods_are_held_back_for_nothing(view)


def test_what_a_person_leaves_held_back_is_listed() -> None:
    by_hand = Faults(crashes=1, burials=1, terminations=1, resolutions=1)
    explore(place_order, faults=by_hand, invariants=[what_is_held_back_is_listed]).check()


def test_an_order_ends_rightly_under_every_fault() -> None:
    simulate(place_order, seeds=range(200)).check()


def blocks(language: str) -> list[str]:
    """The fenced blocks of the page in that language."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)
    return [it[2] for it in found if it[1] == language]


def test_the_snippets_of_the_page_are_those_of_this_file() -> None:
    source = Path(__file__).read_text()
    imports, *shown = blocks("python")
    lines = {it.strip() for it in Path(__file__).read_text().splitlines()}
    assert set(imports.splitlines()) <= lines
    assert len(shown) == 5
    assert [it for it in shown if f"\n{it}" not in source] == []


def test_the_story_of_the_page_is_the_one_that_is_found() -> None:
    faults = Faults(crashes=1, terminations=1)
    found = explore(place_order, faults=faults, invariants=[no_goods_are_held_back_for_nothing])
    assert found.violation is not None
    (story,) = blocks("text")
    assert " ".join(found.violation.story.split()) == " ".join(story.split())


def test_the_page_tells_every_fault_and_every_promise() -> None:
    assert [it.name for it in fields(Faults) if f"\n| `{it.name}` |" not in PAGE] == []
    assert [it.name for it in Fault if f"`{it.name.lower()}`" not in PAGE] == []
    assert [it for it in MEANINGS if f"\n| {it} |" not in PAGE] == []
    usual = {it.name for it in fields(Faults) if getattr(USUAL, it.name)}
    told = re.search(r"usual faults are one each of (.*?)\.", PAGE, re.S)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == usual


def test_the_commands_of_the_page_are_ones_that_the_terminal_takes() -> None:
    lines = "".join(blocks("")).splitlines()
    commands = [shlex.split(it)[1:] for it in lines if it.startswith("sagabox ")]
    assert len(commands) == 6
    group = typer.main.get_command(main)
    for words in commands:
        with group.make_context("sagabox", list(words)) as context:
            assert isinstance(group, typer.core.TyperGroup)
            _, command, rest = group.resolve_command(context, words)
            assert command is not None
            command.make_context(words[0], rest, parent=context).close()
