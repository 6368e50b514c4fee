"""The figures of a run, by name: values, and what was left out and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Name = tuple[str, str, str, str]
"""Where it was measured, the part, the row and the column of the part's table. Units stand in the
names."""


@dataclass
class Figures:
    """What was measured, in the order in which it is shown."""

    values: dict[Name, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """The reason for each thing that could not be measured."""

    def add(self, row: tuple[str, str, str], values: Mapping[str, float]) -> None:
        """Add the columns of a row."""
        self.values |= {(*row, column): value for column, value in values.items()}

    def ratio(self, name: Name, against: Name | None) -> float | None:
        """The figure, or what it is of another one; None where either was not measured."""
        value = self.values.get(name)
        if value is None or against is None:
            return value
        base = self.values.get(against)
        return value / base if base else None

    def replaced_by(self, others: Figures) -> Figures:
        """These, and the others in place of those of the same name."""
        kept = {name: why for name, why in self.skipped.items() if name in others.skipped}
        return Figures({**self.values, **others.values}, {**kept, **others.skipped})

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`; `from_json` reads it."""
        values: dict[str, Any] = {}
        for (place, part, row, column), value in self.values.items():
            rows = values.setdefault(place, {}).setdefault(part, {})
            rows.setdefault(row, {})[column] = float(f"{value:.5g}")
        return {"values": values, "skipped": self.skipped}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        """What `as_json` wrote."""
        figures = cls(skipped=dict(data["skipped"]))
        for place, parts in data["values"].items():
            for part, rows in parts.items():
                for row, columns in rows.items():
                    figures.add((place, part, row), columns)
        return figures
