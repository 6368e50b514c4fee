"""The page of the documentation: its tables between marks, and its pictures. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from benchmarks import names
from benchmarks.figures import Figures
from benchmarks.names import BARE, DBOS, ORDINARY, PLAIN, POSTGRESQL, RESTATE, SAGAS
from benchmarks.report.plots import Bars, drawn
from benchmarks.report.tables import Table, figure_tables, goal_table

_ORDER = (SAGAS, ORDINARY, BARE, PLAIN, RESTATE, DBOS)
_CLIENTS = (1, 16, 64, 256)


def filled(text: str, figures: Figures, machine: Mapping[str, str]) -> str:
    """The page with its tables anew: goals, figures and machine, each between two comments."""
    skipped = [f"Left out was {name}: {why}." for name, why in figures.skipped.items()]
    sections = {
        "goals": goal_table(figures).as_markdown(),
        "figures": "\n\n".join(_sections(figures)),
        "machine": "\n\n".join(
            [Table("", ["what", "with which"], list(machine.items())).as_markdown(), *skipped]
        ),
    }
    return put(text, sections)


def put(text: str, sections: Mapping[str, str]) -> str:
    """The page with these sections anew, each between the two comments of its name."""
    for name, content in sections.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        place = marks.search(text)
        if place is None:
            raise ValueError(f"the page has no place for {name}")
        text = f"{text[: place.start()]}{place[1]}{content}\n{place[2]}{text[place.end() :]}"
    return text


def pictures(figures: Figures) -> Mapping[str, str]:
    """SVGs, by the names of their files; of what was measured on PostgreSQL."""
    wanted = {
        "rates.svg": ("deletions a second", names.DELETION, names.RATE),
        "latencies.svg": ("p50 of a deletion, ms", names.DELETION, names.P50),
        "processor.svg": ("processor ms of a deletion", names.PROCESSOR, names.ALL),
    }
    return {
        name: drawn(Bars(title, _values(figures, part, column)))
        for name, (title, part, column) in wanted.items()
    }


def _values(figures: Figures, part: str, column: str) -> Mapping[str, Mapping[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for clients in _CLIENTS:
        group = f"{clients} client{'s' if clients > 1 else ''}"
        for contender in _ORDER:
            row = names.row(contender, clients)
            value = figures.values.get((POSTGRESQL, part, row, column))
            if value is not None:
                found.setdefault(group, {})[contender] = value
    return found


def _sections(figures: Figures) -> Iterator[str]:
    for table in figure_tables(figures):
        yield f"### {table.title}\n\n{table.as_markdown()}"
