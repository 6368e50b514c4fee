"""What the documentation shows is what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from orchestrator import create_app
from orchestrator.cli import main
from orchestrator.cli.processes.services import SERVICES
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.settings import OrchestratorSettings
from outbox.chassis.settings import documented
from outbox.replies import Outcome
from tests.support.checkout import ROOT
from tests.support.repository.manual import blocks

DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_shows_the_quickstart_and_the_quickstart_runs(tmp_path: Path) -> None:
    example = ROOT / "examples" / "quickstart.py"
    assert example.read_text() in (ROOT / "README.md").read_text()
    ran = subprocess.run(
        [sys.executable, str(example), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"packed a lamp for order [0-9a-f-]{36}\n", ran.stdout)


def test_every_setting_is_in_the_documentation_with_its_meaning() -> None:
    text = (ROOT / "docs" / "operate" / "configuration.md").read_text()
    for service in SERVICES.values():
        for setting in documented(service.settings_model()):
            line = next((it for it in text.splitlines() if f"`{setting.variable}`" in it), "")
            assert setting.meaning in line, setting.variable
            assert not setting.default or f"`{setting.default}`" in line, setting.variable


def test_every_outcome_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "guide" / "messages.md").read_text()
    assert [it for it in Outcome if f"`{it}`" not in text] == []


def test_the_saga_in_the_readme_is_that_of_the_blog() -> None:
    source = (ROOT / "orchestrator" / "sagas" / "delete_article.py").read_text()
    snippet = "delete_article = Saga(" + source.partition("delete_article = Saga(")[2]
    assert snippet in (ROOT / "README.md").read_text()


def test_the_snippets_of_the_page_on_sagas_are_those_of_the_example() -> None:
    files = [
        *(ROOT / "examples" / "shop").glob("*.py"),
        ROOT / "tests/unit/repository/test_example_shop.py",
    ]
    sources = [path.read_text() for path in files]
    shown = blocks("docs/guide/sagas.md", "python")
    assert len(shown) == 11
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_the_snippets_of_the_page_on_adopting_are_those_of_the_examples() -> None:
    folders = [ROOT / "examples" / name for name in ("shop", "travel")]
    sources = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    shown = blocks("docs/guide/adopting.md", "python")
    assert len(shown) == 11
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_the_snippets_of_the_page_on_plain_http_services_are_those_of_the_example() -> None:
    sources = [path.read_text() for path in (ROOT / "examples" / "rest_payments").glob("*.py")]
    shown = blocks("docs/guide/rest.md", "python")
    assert len(shown) == 5
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_the_snippets_of_the_page_on_later_answers_are_those_of_the_examples() -> None:
    folders = [ROOT / "examples" / name for name in ("travel", "approvals")]
    sources = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    shown = blocks("docs/guide/later-answers.md", "python")
    assert len(shown) == 7
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_the_snippets_of_the_page_on_one_process_are_those_of_the_example() -> None:
    sources = [path.read_text() for path in (ROOT / "examples" / "small").rglob("*.py")]
    shown = blocks("docs/guide/one-process.md", "python")
    assert len(shown) == 10
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_the_second_page_of_the_readme_is_from_the_example() -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("## Add it to your service\n")[2].partition("\n## ")[0]
    shown = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(shown) == 4
    sources = [path.read_text() for path in (ROOT / "examples" / "shop").glob("*.py")]
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []
    plumbing = [line for each in shown[:2] for line in each.splitlines()]
    assert len(plumbing) <= 10


def test_the_snippets_of_the_page_on_wsgi_are_those_of_the_examples() -> None:
    files = (ROOT / "examples").glob("orders_*/**/*.py")
    sources = [path.read_text() for path in files]
    shown = blocks("docs/guide/wsgi.md", "python")
    assert len(shown) == 9
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_the_snippets_of_the_page_on_webhooks_are_those_of_the_example() -> None:
    sources = [path.read_text() for path in (ROOT / "examples" / "webhooks").glob("*.py")]
    shown = blocks("docs/guide/webhooks.md", "python")
    assert len(shown) == 2
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_the_page_on_sagas_tells_every_status() -> None:
    text = (ROOT / "docs" / "guide" / "sagas.md").read_text()
    runs, steps = text.split("| a step is |")
    assert [it for it in Status if f"\n| `{it}` |" not in runs] == []
    assert [it for it in StepStatus if f"\n| `{it}` |" not in steps] == []


def test_the_commands_of_the_page_on_sagas_are_ones_that_the_terminal_takes() -> None:
    lines = "".join(blocks("docs/guide/sagas.md", "")).splitlines()
    commands = [shlex.split(it)[1:] for it in lines if it.startswith("sagabox ")]
    assert len(commands) == 14
    group = typer.main.get_command(main)
    for words in commands:
        # Reads options and arguments as a call does, and raises where they do not fit.
        with group.make_context("sagabox", list(words)) as context:
            assert isinstance(group, typer.core.TyperGroup)
            _, command, rest = group.resolve_command(context, words)
            assert command is not None
            command.make_context(words[0], rest, parent=context).close()


def test_the_request_of_the_page_on_sagas_shows_the_token_that_it_needs() -> None:
    (request,) = [it for it in blocks("docs/guide/sagas.md", "") if it.startswith("curl")]
    assert '-H "authorization: Bearer $SAGABOX_TOKEN"' in request


def test_the_addresses_of_the_page_on_sagas_are_those_of_the_orchestrator() -> None:
    settings = OrchestratorSettings(
        secrets="one:" + "c2VjcmV0" * 8, database_url="sqlite:////nowhere/at-all.sqlite"
    )
    paths = create_app(settings, sagas=[], participants={}).openapi()["paths"]
    text = (ROOT / "docs" / "guide" / "sagas.md").read_text()
    text = re.sub(r"/sagas/(place-order|\{id\})", "/sagas/{saga}", text)
    verbs = re.findall(r"^sagabox (\w+) ID .*--reason", text, re.M)
    found = {(verb, path) for verb, path in re.findall(r"`(GET|POST) (/sagas[^` ]*)`", text)}
    assert ("POST", "/sagas/{saga}/VERB") in found
    found |= {("POST", f"/sagas/{{saga}}/{verb}") for verb in verbs}
    wrong = [it for it in sorted(found) if it[0].lower() not in paths.get(it[1], {})]
    assert (len(found), wrong) == (14, [("POST", "/sagas/{saga}/VERB")])


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\"]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        headings = re.findall(
            r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M
        )
        assert heading in map(_anchor, headings), f"{target}#{heading}"


def _anchor(heading: str) -> str:
    """What a heading is called in an address."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_page_on_semantics_has_the_promises_of_the_readme() -> None:
    promised = re.findall(r"^\| \*\*(P\d)\*\* \|", (ROOT / "README.md").read_text(), re.M)
    explained = re.findall(
        r"^### (P\d): ", (ROOT / "docs/reference/semantics.md").read_text(), re.M
    )
    assert promised == explained == [f"P{it}" for it in range(1, 10)]


def test_the_commands_of_the_page_on_migrations_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operate" / "migrations.md").read_text()
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
    assert {"setup", "demo", "dev", "test", "quick", "check", "bench", "soak"} <= targets
