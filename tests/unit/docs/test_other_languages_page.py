"""The page on other languages shows what the example has, and commands that the terminal takes."""

from __future__ import annotations

import shlex

import pytest
import typer

from orchestrator.cli import main
from tests.support.checkout import ROOT
from tests.support.repository.manual import blocks, commands

PAGE = "docs/guide/other-languages.md"


def test_its_snippets_are_those_of_the_example() -> None:
    sources = [path.read_text() for path in (ROOT / "examples/node_participant").glob("*.mjs")]
    shown = blocks(PAGE, "js")
    assert len(shown) == 4
    assert [it for it in shown if not any(it in source for source in sources)] == []


def test_its_saga_is_one_that_a_test_runs_across_the_example() -> None:
    test = ROOT / "tests/integration/orchestrator/testing/test_node_in_a_saga.py"
    (shown,) = blocks(PAGE, "python")
    assert f"\n{shown}" in test.read_text()


@pytest.mark.parametrize("page", [PAGE, "docs/operate/cli.md"])
def test_its_trials_are_commands_that_the_terminal_takes(page: str) -> None:
    words = [shlex.split(it)[1:] for it in commands(page, "sh") if "sagabox conform" in it]
    assert words
    group = typer.main.get_command(main)
    assert isinstance(group, typer.core.TyperGroup)
    for arguments in words:
        with group.make_context("sagabox", list(arguments)) as context:
            _, command, rest = group.resolve_command(context, arguments)
            assert command is not None
            command.make_context("conform", rest, parent=context).close()
