"""The page of capacity is computed from recorded figures, and its arithmetic is what it says."""

from __future__ import annotations

import pytest

from benchmarks import names, record
from benchmarks.figures import Figures
from benchmarks.names import COSTS, DELETION, ORDINARY, POSTGRESQL, PROCESSOR, SAGAS
from benchmarks.report import capacity

ONE, MANY = names.row(SAGAS, 1), names.row(SAGAS, 64)
FIGURES = Figures(
    {
        (POSTGRESQL, DELETION, ONE, names.RATE): 20.0,
        **{
            (POSTGRESQL, PROCESSOR, ONE, it): 12.0
            for it in ("articles", "comments", "orchestrator", "PostgreSQL")
        },
        (POSTGRESQL, PROCESSOR, MANY, "articles"): 1.0,
        (POSTGRESQL, PROCESSOR, MANY, "comments"): 1.2,
        (POSTGRESQL, PROCESSOR, MANY, "orchestrator"): 1.8,
        (POSTGRESQL, PROCESSOR, MANY, "PostgreSQL"): 1.5,
        (POSTGRESQL, COSTS, MANY, "WAL bytes"): 15_000.0,
        (POSTGRESQL, COSTS, MANY, "disk bytes"): 10_000.0,
    }
)


def test_the_page_is_that_of_the_recorded_figures() -> None:
    assert record.capacity_page() == record.CAPACITY.read_text("utf-8"), (
        "run: python -m benchmarks.record"
    )


def test_the_arithmetic_is_that_of_the_page() -> None:
    rows = {row[0]: tuple(row[1:]) for row in capacity.table(FIGURES).rows}
    assert rows == {
        # 10 x 12 ms / 0.6; 1,000 x 1 ms / 0.6; 100,000 x 1 ms / 0.6
        "articles: cores": ("0.2", "1.7", "170"),
        "articles: processes": ("2", "2", "167"),
        "comments: cores": ("0.2", "2", "200"),
        "comments: processes": ("2", "2", "200"),
        "orchestrator: cores": ("0.2", "3", "300"),
        "orchestrator: processes": ("2", "3", "300"),
        "orchestrators with a database of their own": ("1", "1", "19"),
        "PostgreSQL: cores, all databases": ("0.2", "2.5", "250"),
        "connections, all databases": ("126", "147", "14,007"),
        "WAL, MB/s": ("0.15", "15", "1,500"),
        # 1,000 x 15 kB x 86,400 s
        "WAL, GB a day": ("13", "1,300", "130,000"),
        # 1,000 x 10 kB x 86,400 s x 30
        "disk for 30 days, GB": ("260", "26,000", "2,600,000"),
    }


def test_a_figure_that_was_not_recorded_is_missed() -> None:
    with pytest.raises(KeyError):
        capacity.table(FIGURES, ORDINARY)


def test_the_numbers_of_the_arithmetic_are_on_the_page() -> None:
    text = record.CAPACITY.read_text("utf-8")
    for told in (
        f"/ 1000 / {capacity.BUSY:g}",
        f"orchestrator / {capacity.NODES}",
        f"processes \u00d7 {capacity.CONNECTIONS}",
        f"kept for {capacity.DAYS} days",
    ):
        assert told in text, told
