"""What the documentation shows is what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.services import SERVICES
from outbox.replies import Outcome
from outbox.web.settings import documented

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_shows_the_quickstart_and_the_quickstart_runs(tmp_path: Path) -> None:
    example = ROOT / "examples" / "quickstart.py"
    assert example.read_text() in (ROOT / "README.md").read_text()
    ran = subprocess.run(
        [sys.executable, str(example), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"packed a lamp for order [0-9a-f-]{36}\n", ran.stdout)


def test_every_setting_is_in_the_documentation_with_its_meaning() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for service in SERVICES.values():
        for setting in documented(service.settings_model()):
            line = next((it for it in text.splitlines() if f"`{setting.variable}`" in it), "")
            assert setting.meaning in line, setting.variable
            assert not setting.default or f"`{setting.default}`" in line, setting.variable


def test_every_outcome_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "messages.md").read_text()
    assert [it for it in Outcome if f"`{it}`" not in text] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_commands_of_the_page_on_migrations_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "migrations.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("sagabox migrate ")]
    assert len(commands) == 5
    for command in commands:
        words = shlex.split(command)[2:]
        subprocess.run(
            [sys.executable, "-m", "migrations", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
        )


def test_make_help_lists_the_targets_that_everybody_uses() -> None:
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = set(re.findall(r"make ([a-z]+)", shown))
    assert {"setup", "demo", "dev", "test", "check", "bench", "soak"} <= targets
