"""What GitHub and pre-commit are told can be read, and agrees with the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.checkout import ROOT

GITHUB = ROOT / ".github"
FILES = [ROOT / ".pre-commit-config.yaml", *sorted(GITHUB.rglob("*.yml"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_all_that_is_there_is_known() -> None:
    names = {str(path.relative_to(GITHUB)) for path in GITHUB.rglob("*") if path.is_file()}
    assert names == {
        "ISSUE_TEMPLATE/bug.yml",
        "ISSUE_TEMPLATE/config.yml",
        "ISSUE_TEMPLATE/feature.yml",
        "PULL_REQUEST_TEMPLATE.md",
        "dependabot.yml",
        "workflows/ci.yml",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_a_mapping_and_no_key_stands_twice(path: Path) -> None:
    assert isinstance(read(path), dict)
    # YAML's parser takes the last of two equal keys without a word.
    top = re.findall(r"^([\w-]+):", path.read_text(), re.M)
    assert len(top) == len(set(top))


def test_the_workflow_runs_what_is_run_before_a_merge_on_every_python() -> None:
    workflow = read(GITHUB / "workflows" / "ci.yml")
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow[True]) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert job["strategy"]["matrix"]["python"] == classified
    assert "matrix.python" in job["container"]["image"]
    assert PROJECT["requires-python"] == f">={classified[0]}"


def test_the_workflow_fetches_the_commit_of_the_released_version() -> None:
    """A checkout has the newest commit alone, unless it is told otherwise."""
    (job,) = read(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    (checkout,) = [it for it in job["steps"] if it.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["fetch-depth"] == 0


def test_every_action_is_pinned_to_a_version() -> None:
    used = re.findall(r"uses: (\S+)", (GITHUB / "workflows" / "ci.yml").read_text())
    assert used
    assert [it for it in used if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", it)] == []


def test_what_runs_before_a_commit_is_what_make_check_runs() -> None:
    config = read(ROOT / ".pre-commit-config.yaml")
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in config["repos"][0]["hooks"]}
    assert set(hooks) == {"ruff-format", "ruff-check", "mypy", "rules"}
    for hook in hooks.values():
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
    recipe = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0]
    tests = re.findall(r"tests/\S+\.py", hooks["rules"]["entry"])
    assert tests == re.findall(r"tests/\S+\.py", recipe)
    assert [it for it in tests if not (ROOT / it).exists()] == []


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_asks_for_something_and_names_each_field_once(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"]
    assert form["description"]
    kinds = {"markdown", "textarea", "input", "dropdown"}
    assert {field["type"] for field in form["body"]} <= kinds
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in asked}) == len(asked)
    assert all(field["attributes"]["label"] for field in asked)
    assert any(field.get("validations", {}).get("required") for field in asked)


def test_the_questions_of_a_pull_request_are_those_of_the_page_for_contributors() -> None:
    template = (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text()
    questions = re.findall(r"\*\*(.+?)\*\*", template)
    assert len(questions) == 4
    page = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    assert [it for it in questions if it not in page] == []


def test_the_page_on_security_names_no_address_but_the_private_report() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert "Report a vulnerability" in text
    assert not re.search(r"\S@\S", text)
    assert [it for it in re.findall(r"\]\(([^)#:]+)\)", text) if not (ROOT / it).exists()] == []


def test_the_oldest_sqlalchemy_that_is_promised_is_the_one_that_is_tested() -> None:
    promised = re.search(r"sqlalchemy\[asyncio\]>=([\d.]+)", str(PROJECT["dependencies"]))
    locked = (ROOT / "requirements" / "sqlalchemy-2.0.txt").read_text()
    assert promised is not None
    assert f"\nsqlalchemy=={promised[1]} " in locked
