from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import names, record
from benchmarks.contenders.deletions import Contender, Deleter
from benchmarks.contenders.installed import Environment, Missing
from benchmarks.figures import Figures
from benchmarks.parts import deletion
from benchmarks.places import Place
from tests.support.databases.databases import SqliteTemplates


def rates(sagas: float, calls: float = 10) -> Figures:
    figures = Figures()
    for name, value in ((names.SAGAS, sagas), (names.PLAIN, calls)):
        row = (names.POSTGRESQL, names.DELETION, names.row(name, 64))
        figures.add(row, {names.RATE: value})
    return figures


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "RECORDED", tmp_path / "recorded.json")
    return monkeypatch


def measure(run: pytest.MonkeyPatch, figures: Figures, *arguments: str) -> int:
    async def measured(_: argparse.Namespace) -> Figures:
        return figures

    run.setattr(command, "_measured", measured)
    return command.main(arguments)


def test_a_run_prints_the_table_of_goals_and_what_was_left_out(
    run: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = rates(200)
    figures.skipped["DBOS"] = "dbos is not installed"

    assert measure(run, figures) == 0

    said = capsys.readouterr().out
    assert "left out: DBOS: dbos is not installed" in said
    assert "sagas/s at 64 (list handlers), against plain httpx calls" in said
    assert "20.0 x       yes" in said
    assert record.figures(Path("build/bench.json")).values == figures.values


def test_a_part_by_name_prints_its_own_table(
    run: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(run, rates(200), "--only", names.DELETION)

    said = capsys.readouterr().out
    assert "PostgreSQL: deletion" in said
    assert "Goals" not in said


def test_a_run_far_worse_than_the_recorded_one_fails(
    run: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record.keep(rates(200), record.RECORDED)

    assert measure(run, rates(150)) == 0
    assert measure(run, rates(100)) == 1

    assert "far worse than recorded: sagas/s at 64 (list handlers)" in capsys.readouterr().err


def test_an_environment_that_was_not_made_is_missing_and_says_how_to_make_it() -> None:
    with pytest.raises(Missing, match="make bench-setup"):
        Environment("no-such-contender").python()


async def test_a_contender_that_is_missing_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @asynccontextmanager
    async def missing(*_: object) -> AsyncIterator[Deleter]:
        raise Missing("it is not installed")
        yield  # for the type checker, which needs a generator

    @asynccontextmanager
    async def no_services(*_: object) -> AsyncIterator[dict[bool, object]]:
        yield {False: object()}

    monkeypatch.setattr(deletion, "sets", no_services)
    place = Place("here", "sqlite://", SqliteTemplates(tmp_path).fresh, tmp_path)
    figures = Figures()

    await deletion.measure(place, figures, (1,), 1, 2, [Contender("gone", missing, 1)])

    assert figures == Figures({}, {"gone": "it is not installed"})
