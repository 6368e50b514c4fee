"""The table of docs/operate/capacity.md: from what a deletion costs to what so many a second need.

Pure: it computes with recorded figures alone, so that the page says what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks import names
from benchmarks.figures import Figures
from benchmarks.report.page import put
from benchmarks.report.tables import Table

RATES = (10, 1_000, 100_000)
"""Sagas a second, on the page."""
BUSY = 0.6
"""The part of a core that is planned to be busy."""
LEAST_PROCESSES = 2
"""Of each service, so that one may be replaced."""
NODES = 16
"""The nodes that share one orchestrator's database, at most."""
CONNECTIONS = 21
"""Of a process: its pool, and one for wake-ups."""
DAYS = 30
"""How long runs and inboxes are kept."""

_DAY = 86_400
_SERVICES = ("articles", "comments", "orchestrator")
_FEW, _MANY = 1, 64


@dataclass(frozen=True)
class Costs:
    """What one saga of four steps costs: milliseconds of processor time by process, bytes of the
    log, and bytes that stay on the disk."""

    milliseconds: dict[str, float]
    log: float
    disk: float


def costs(figures: Figures, contender: str, rate: float) -> Costs:
    """The costs at that rate: those of one client where one client makes as many, since batches are
    small then; else those of many. Raises KeyError where a figure was not recorded."""
    of_one, of_many = names.row(contender, _FEW), names.row(contender, _MANY)
    single = figures.values[names.POSTGRESQL, names.DELETION, of_one, names.RATE]
    row = of_one if rate <= single else of_many

    def cost(column: str) -> float:
        return figures.values[names.POSTGRESQL, names.COSTS, of_many, column]

    return Costs(
        {
            it: figures.values[names.POSTGRESQL, names.PROCESSOR, row, it]
            for it in (*_SERVICES, names.POSTGRESQL)
        },
        cost("WAL bytes"),
        cost("disk bytes"),
    )


def table(figures: Figures, contender: str = names.SAGAS) -> Table:
    """What each rate needs, with that kind of handlers."""
    columns = [list(_needs(costs(figures, contender, rate), rate)) for rate in RATES]
    head = ["", *(f"{rate:,} sagas/s" for rate in RATES)]
    titles = [title for title, _ in columns[0]]
    values = [[value for _, value in column] for column in columns]
    rows = [[title, *row] for title, row in zip(titles, zip(*values, strict=True), strict=True)]
    return Table("Capacity", head, rows)


def cost_table(figures: Figures) -> Table:
    """What one saga costs, by the recorded figures that the other table is made of."""
    kinds: Sequence[tuple[str, str, float]] = (
        ("at 1 client", names.SAGAS, RATES[0]),
        ("at 64 clients", names.SAGAS, RATES[1]),
        ("at 64 clients, ordinary handlers", names.ORDINARY, RATES[1]),
    )
    rows = []
    for title, contender, rate in kinds:
        each = costs(figures, contender, rate)
        milliseconds = [f"{each.milliseconds[it]:.3g}" for it in (*_SERVICES, names.POSTGRESQL)]
        rows.append(
            [
                title,
                *milliseconds,
                f"{each.log / 1000:.3g}",
                f"{each.disk / 1000:.3g}",
            ]
        )
    head = [
        "",
        *(f"{it}, ms" for it in (*_SERVICES, names.POSTGRESQL)),
        "WAL, kB",
        "disk, kB",
    ]
    return Table("One saga", head, rows)


def filled(text: str, figures: Figures) -> str:
    """The page with its tables anew."""
    ordinary = table(figures, names.ORDINARY)
    cores = [row for row in ordinary.rows if "cores" in row[0] or "processes" in row[0]]
    return put(
        text,
        {
            "costs": cost_table(figures).as_markdown(),
            "capacity": table(figures).as_markdown(),
            "ordinary": Table("", ordinary.head, cores).as_markdown(),
        },
    )


def _needs(each: Costs, rate: int) -> Iterator[tuple[str, str]]:
    cores = {it: rate * ms / 1000 / BUSY for it, ms in each.milliseconds.items()}
    processes = {it: max(LEAST_PROCESSES, math.ceil(cores[it])) for it in _SERVICES}
    for it in _SERVICES:
        yield f"{it}: cores", _number(cores[it])
        yield f"{it}: processes", f"{processes[it]:,}"
    yield "orchestrators with a database of their own", f"{_orchestrators(processes):,}"
    yield "PostgreSQL: cores, all databases", _number(cores[names.POSTGRESQL])
    yield "connections, all databases", f"{sum(processes.values()) * CONNECTIONS:,}"
    yield "WAL, MB/s", _number(rate * each.log / 1e6)
    yield "WAL, GB a day", _number(rate * each.log * _DAY / 1e9)
    yield f"disk for {DAYS} days, GB", _number(rate * each.disk * _DAY * DAYS / 1e9)


def _orchestrators(processes: dict[str, int]) -> int:
    return math.ceil(processes["orchestrator"] / NODES)


def _number(value: float) -> str:
    """Two digits that count, as people read them."""
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}"
