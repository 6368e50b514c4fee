"""The commands of the page on backups: those for SQLite are run, and the rest by a restore."""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from orchestrator.cli import main
from orchestrator.cli.audit.lost import Loss
from tests.support.blog.restoring import PAGE, scripts
from tests.support.checkout import ROOT
from tests.support.deploy import rendering
from tests.support.images import composed
from tests.support.images.told import require_command
from tests.support.repository.manual import blocks

SHELL = {"base backup", "restore point", "last log", "restore", "by name"}
SAGABOX = {"look", "tell orchestrator", "tell participant", "audit", "repair"}
SQLITE = {"sqlite backup", "sqlite vacuum"}


def test_every_block_of_the_page_is_one_that_a_test_runs() -> None:
    assert set(scripts()) == SHELL | SAGABOX | SQLITE
    shown = (ROOT / PAGE).read_text("utf-8").count("```sh")
    assert shown == len(scripts()) + len(_not_run())


def _not_run() -> list[str]:
    return [it for it in blocks(PAGE, "sh") if it.startswith("# Not run here: ")]


def _typed(program: str) -> list[list[str]]:
    lines = [line for block in _not_run() for line in block.splitlines()]
    return [shlex.split(it)[1:] for it in lines if it.startswith(f"{program} ")]


def test_what_is_stopped_in_compose_is_each_service_of_ours_and_nothing_else() -> None:
    typed = [words for words in _typed("docker") if words[3] != "run"]
    assert [words[3] for words in typed] == ["stop", "ps", "start"]
    for words in typed:
        assert words[:3] == ["compose", "-f", "deploy/compose.yaml"]
        assert sorted(words[4:]) == sorted(composed.serving())


def test_what_runs_in_compose_is_told_the_address_of_each_database_that_it_opens() -> None:
    typed = [words for words in _typed("docker") if words[3] == "run"]
    told = []
    for words in typed:
        (at,) = (words.index(it) for it in composed.serving() if it in words)
        require_command(words[at + 1 :])
        options = list(pairwise(words[:at]))
        given = dict(it.split("=", 1) for option, it in options if option == "--env")
        mounted = dict(it.split(":")[1::-1] for option, it in options if option == "--volume")
        assert sorted(given.values()) == sorted(mounted)
        secrets = {f"$PWD/deploy/{it['file'].removeprefix('./')}" for it in _secrets().values()}
        assert set(mounted.values()) <= secrets
        own = composed.variables(composed.serving()[words[at]])
        named = {it for it in {*own, *given} if it.startswith("SAGABOX_DATABASE_URL_")}
        told.append((words[at + 1], sorted(it.split("_")[3].lower() for it in named)))
    assert told == [
        ("restored", ["orchestrator"]),
        ("restored", ["comments", "orchestrator"]),
        ("audit", ["articles", "comments", "orchestrator"]),
    ]


def _secrets() -> Mapping[str, Mapping[str, str]]:
    found: Mapping[str, Mapping[str, str]] = composed.compose()["secrets"]
    return found


@pytest.mark.parametrize("values", rendering.OVERLAYS)
def test_what_is_stopped_in_a_cluster_is_each_deployment_of_the_chart(values: str) -> None:
    typed = _typed("kubectl")
    assert [words[2] for words in typed] == ["annotate", "scale", "wait", "scale", "annotate"]
    assert {tuple(words[:2]) for words in typed} == {("--namespace", rendering.NAME)}
    selectors = [words[words.index("--selector") + 1] for words in typed]
    release, components = selectors[2].split(",", 1)
    assert {*selectors[:2], *selectors[3:], release} == {
        f"app.kubernetes.io/instance={rendering.NAME}"
    }
    one_of = re.fullmatch(r"app\.kubernetes\.io/component in \((.*)\)", components)
    assert one_of is not None
    stopped = set()
    for it in rendering.with_values(values):
        if it["kind"] in ("Deployment", "ScaledObject"):
            labels = it["metadata"]["labels"]
            assert labels["app.kubernetes.io/instance"] == rendering.NAME
            stopped.add(labels["app.kubernetes.io/component"])
    assert stopped == set(one_of[1].split(","))


def test_what_systemd_stops_is_each_unit_that_serves() -> None:
    ((verb, *units),) = _typed("systemctl")
    there = {it.name for it in (ROOT / "deploy" / "systemd").iterdir()}
    assert verb == "stop"
    assert {it.replace("@*", "@") for it in units} == {it for it in there if "migrate" not in it}


@pytest.mark.parametrize("name", sorted(SAGABOX))
def test_its_commands_are_ones_that_the_terminal_takes(name: str) -> None:
    (line,) = scripts()[name].splitlines()
    words = shlex.split(line)
    assert words.pop(0) == "sagabox"
    command = typer.main.get_command(main)
    context = command.make_context("sagabox", list(words))
    found, inner, rest = command.resolve_command(context, words)  # type: ignore[attr-defined]  # it is a group of commands
    inner.make_context(found, list(rest), parent=context)


@pytest.mark.parametrize("name", sorted(SQLITE))
def test_a_copy_of_a_database_that_is_in_use_is_whole(name: str, tmp_path: Path) -> None:
    file, copy = tmp_path / "comments.sqlite", tmp_path / "copy.sqlite"
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE told (number integer)")
    writer.executemany("INSERT INTO told VALUES (?)", [(it,) for it in range(100)])
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO told VALUES (1000)")  # not committed, so not in the copy
    script = scripts()[name].replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    ran = subprocess.run(
        ["bash", "-euc", script],
        env={"FILE": str(file), "COPY": str(copy)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    writer.execute("COMMIT")
    writer.close()
    restored = sqlite3.connect(copy)
    assert restored.execute("SELECT count(*), max(number) FROM told").fetchone() == (100, 99)
    assert restored.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    restored.close()


def test_the_page_tells_what_to_do_about_each_loss() -> None:
    text = (ROOT / PAGE).read_text("utf-8")
    for loss in Loss:
        assert f"| `{loss.value}` |" in text
