"""The page of the terminal names the options of the commands that work on databases."""

from __future__ import annotations

import pytest
import typer.main

from orchestrator.cli import main
from tests.support.checkout import ROOT

PAGE = (ROOT / "docs/operate/cli.md").read_text()
OF_ALL = {"--json", "--help", "--url"}
"""What the page tells once for all commands."""


@pytest.mark.parametrize("name", ["audit", "restored", "retention"])
def test_the_page_names_every_option_of_a_command_on_databases(name: str) -> None:
    command = typer.main.get_command(main).commands[name]  # type: ignore[attr-defined]  # a group
    options = {it for parameter in command.params for it in parameter.opts if it[:2] == "--"}
    _, _, section = PAGE.partition("## Commands on databases\n")
    section = section.partition("\n## ")[0]
    assert f"sagabox {name}" in section
    missing = sorted(it for it in options - OF_ALL if f"`{it}" not in section)
    assert not missing
