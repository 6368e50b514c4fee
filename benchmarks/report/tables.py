"""Figures and goals as tables, for a terminal and for a page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.figures import Figures
from benchmarks.goals import GOALS, Goal


@dataclass(frozen=True)
class Table:
    """The first column of its rows stands left, the others right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """Lines for a terminal."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [self.title, *(_line(row, widths) for row in (self.head, *self.rows))]
        return "\n".join(line.rstrip() for line in lines)

    def as_markdown(self) -> str:
        """The table alone, without its title."""
        rule = ["---", *("--:" for _ in self.head[1:])]
        rows = (self.head, rule, *self.rows)
        return "\n".join(f"| {' | '.join(' '.join(it.split()) for it in row)} |" for row in rows)


def goal_table(figures: Figures, goals: Sequence[Goal] = GOALS) -> Table:
    """Each goal with its limit, what was measured, and whether it is reached."""
    rows = []
    for goal in goals:
        value, sign = goal.measured(figures), ">=" if goal.at_least else "<="
        limit = f"{sign} {goal.limit:g} {goal.unit}"
        if value is None:
            rows.append([goal.title, limit, "not measured", ""])
        else:
            reached = "yes" if goal.reached(value) else "no"
            rows.append([goal.title, limit, f"{number(value)} {goal.unit}", reached])
    return Table("Goals", ["figure", "goal", "measured", "reached"], rows)


def figure_tables(figures: Figures) -> Iterator[Table]:
    """One for each part and kind of database."""
    subjects = dict.fromkeys((place, part) for place, part, _, _ in figures.values)
    for subject in subjects:
        mine = {name[2:]: it for name, it in figures.values.items() if name[:2] == subject}
        columns = list(dict.fromkeys(column for _, column in mine))
        rows = [
            [row, *(number(mine.get((row, column))) for column in columns)]
            for row in dict.fromkeys(row for row, _ in mine)
        ]
        yield Table(f"{subject[0]}: {subject[1]}", ["", *columns], rows)


def number(value: float | None) -> str:
    """Three digits that count, and as many as it has where it is larger."""
    if value is None:
        return ""
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if value == 0 or abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    cells = [first.ljust(widths[0])]
    cells += [it.rjust(width) for it, width in zip(others, widths[1:], strict=True)]
    return "  " + "   ".join(cells)
