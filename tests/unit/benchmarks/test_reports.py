from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from benchmarks import names, record
from benchmarks.catalogue import PARTS
from benchmarks.figures import Figures
from benchmarks.goals import Goal
from benchmarks.report import page
from benchmarks.report.plots import Bars, drawn
from benchmarks.report.tables import figure_tables, goal_table, number

RATE = ("here", "part", "sagas", "a second")
P50 = ("here", "part", "sagas", "p50 ms")
OTHERS = ("here", "part", "calls", "a second")
FIGURES = Figures({RATE: 171.4, P50: 41.25, OTHERS: 31.0})
GOALS = (
    Goal("against calls", RATE, 5, OTHERS, at_least=True),
    Goal("p50", P50, 40, unit="ms"),
    Goal("memory", ("here", "waiting", "runs", "MB"), 300, unit="MB"),
)


def test_the_table_of_goals_says_what_was_measured_and_whether_that_is_enough() -> None:
    table = goal_table(FIGURES, GOALS)

    assert table.rows == [
        ["against calls", ">= 5 x", "5.53 x", "yes"],
        ["p50", "<= 40 ms", "41.2 ms", "no"],
        ["memory", "<= 300 MB", "not measured", ""],
    ]


def test_a_table_has_a_column_for_all_that_any_of_its_rows_has() -> None:
    (table,) = figure_tables(FIGURES)

    assert table.title == "here: part"
    assert table.as_markdown().splitlines() == [
        "|  | a second | p50 ms |",
        "| --- | --: | --: |",
        "| sagas | 171 | 41.2 |",
        "| calls | 31.0 |  |",
    ]
    assert table.as_text().splitlines() == [
        "here: part",
        "          a second   p50 ms",
        "  sagas        171     41.2",
        "  calls       31.0",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0, "0"),
        (12_345.6, "12,346"),
        (99.94, "99.9"),
        (1.234, "1.23"),
        (0.126, "0.126"),
    ],
)
def test_a_number_has_three_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_bars_are_as_long_as_their_values_say() -> None:
    picture = drawn(Bars("rates & more", {"64 clients": {"sagas": 100, "calls": 25}}))

    root = ET.fromstring(picture)
    bars = [float(it.attrib["width"]) for it in root if it.tag.endswith("rect")][1:]
    assert bars[1] == pytest.approx(bars[0] / 4)
    assert {it.text for it in root if it.tag.endswith("text")} == {
        *("rates & more", "64 clients", "sagas", "calls", "100", "25.0")
    }


def test_the_page_is_filled_between_its_marks_alone() -> None:
    marks = [f"<!-- {it} -->\nold\n<!-- end of {it} -->" for it in ("goals", "figures", "machine")]
    text = "\n\nsaid\n\n".join(marks)

    filled = page.filled(text, FIGURES, {"Python": "3.11"})

    assert "old" not in filled
    assert filled.count("\n\nsaid\n\n") == 2
    assert "| Python | 3.11 |" in filled
    assert page.filled(filled, FIGURES, {"Python": "3.11"}) == filled
    with pytest.raises(ValueError, match="no place for goals"):
        page.filled("", FIGURES, {})


def test_the_pictures_show_what_was_measured_on_postgresql() -> None:
    row = (names.POSTGRESQL, names.DELETION, names.row(names.SAGAS, 64))
    figures = Figures()
    figures.add(row, {names.RATE: 171})

    assert "64 clients" in page.pictures(figures)["rates.svg"]
    assert "sagas, list handlers" in page.pictures(figures)["rates.svg"]


def test_the_page_in_the_documentation_shows_what_is_recorded() -> None:
    assert record.page() == record.PAGE.read_text("utf-8"), "python -m benchmarks.record writes it"


def test_the_page_says_of_each_part_what_it_measures() -> None:
    told = re.findall(r"^\| (\w+) \|", record.PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(set(PARTS) - set(told)) == []
