"""The page on Kubernetes: its table is that of the chart, its commands were run or say why not."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.checkout import ROOT
from tests.support.deploy import rendering
from tests.support.deploy.facts import problem_of_command
from tests.support.deploy.rendering import CHART
from tests.support.deploy.tools import environment
from tests.support.repository.manual import blocks, rows

PAGE = "docs/operate/kubernetes.md"
_RUN, _DRY = "# Run by the tests.", "# Run by the tests with --dry-run=client, since "
_NOT_RUN = "# Not run here: there is no cluster."
_OBJECT = re.compile(r"\b(cronjob|job|service|deployment)/([\w-]+)")


def leaves(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Each value by its path, and its default as JSON. What is empty has no values within."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"`.{before}{key}`", f"`{json.dumps(value)}`"


def test_every_value_of_the_chart_is_on_the_page_with_its_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    shown = [(value, default) for value, default, _ in rows(PAGE, "values")]
    assert shown == list(leaves(values))
    assert all(len(meaning) > 5 for _, _, meaning in rows(PAGE, "values"))


def commented(text: str) -> Iterator[tuple[str, str]]:
    """Each key of the file by its path, with the comment above it that belongs to it alone."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if key := re.match(r"^( *)(\w+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            yield f"`.{'.'.join(path)}`", " ".join(comment)
        said = re.match(r"^ *# (.*)", line)
        comment = [*comment, said[1]] if said else []


def test_every_value_has_its_meaning_on_the_page_as_its_comment() -> None:
    comments = dict(commented((CHART / "values.yaml").read_text()))
    meanings = {
        value: re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", meaning)
        for value, _, meaning in rows(PAGE, "values")
    }
    told = {value: comments[value] for value in meanings}
    assert {value: it for value, it in told.items() if it != meanings[value]} == {}


def test_every_value_has_a_place_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def parts(of: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield of
        for it in of.values():
            if isinstance(it, dict):
                yield from parts(it)

    open_ones = [it for it in parts(schema) if "properties" in it and "type" in it]
    assert len(open_ones) > 10
    # What is misspelt is refused at every level that has names of ours.
    assert all(it["additionalProperties"] is False for it in open_ones)
    assert schema["properties"].keys() == {
        "global",  # helm's own
        *yaml.safe_load((CHART / "values.yaml").read_text()),
    }


def test_every_block_of_commands_says_whether_it_was_run() -> None:
    run, others = blocks(PAGE, "bash"), blocks(PAGE, "sh")
    assert [it for it in run if not it.startswith((f"{_RUN}\n", _DRY))] == []
    assert [it for it in others if not it.startswith(_NOT_RUN)] == []
    assert (len(run), len(others)) == (6, 9)
    assert blocks(PAGE, "") == []


def test_the_commands_that_are_said_to_be_run_are_run() -> None:
    count = 0
    for block in blocks(PAGE, "bash"):
        mark, *lines = block.splitlines()
        for line in lines:
            command = line if mark == _RUN else f"{line} --dry-run=client --output=name"
            ran = subprocess.run(
                ["bash", "-euc", command],
                cwd=ROOT,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=100,
            )
            assert (ran.returncode, bool(ran.stdout)) == (0, True), (line, ran.stderr)
            count += 1
    assert count == 11


@pytest.mark.parametrize("block", blocks(PAGE, "sh"), ids=lambda it: str(it).splitlines()[1][:40])
def test_the_commands_that_are_not_run_name_what_is_rendered(block: str) -> None:
    every = [*rendering.with_values("small"), *rendering.with_values("trial")]
    there = {(it["kind"].lower(), it["metadata"]["name"]) for it in every}
    # The one that the block before it makes.
    there.add(("job", "first-token"))
    named = _OBJECT.findall(block)
    named += [("job", it) for it in re.findall(r"sagabox-migrate-\w+", block)]
    assert [it for it in named if it not in there] == []
    paths = re.findall(r"deploy/[\w./-]+", block.replace("deployment/", ""))
    assert [it for it in paths if not (ROOT / it).exists()] == []
    called = [shlex.split(it) for it in re.findall(r"-- (sagabox .*)$", block, re.M)]
    assert {" ".join(it): problem_of_command(*it) for it in called} == {
        " ".join(it): None for it in called
    }
    for image in re.findall(r"registry\.example/sagabox:(\S+)", block):
        assert f'appVersion: "{image}"' in (CHART / "Chart.yaml").read_text()
    releases = re.findall(r"^helm uninstall (\S+)", block, re.M)
    assert named or paths or set(releases) == {rendering.NAME} or "secret" in block
