"""Divergences of one entity, by the rows in the services' databases.

Pure: from the rows that were read, and the rules that the services declare, to the broken rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from outbox.invariants import Holds, Mirrors, Missing, Refers, Rule, Wrong


@dataclass(frozen=True)
class Divergence:
    """One broken rule of one entity. Two are the same when all their values are.

    `saga_id` is the saga that left the trace, if any; `detail` says more, and holds no number that
    grows while nothing is wrong.
    """

    entity: str
    id: str
    wrong: Wrong
    saga_id: str | None = None
    detail: str = ""

    @property
    def code(self) -> str:
        """A short stable word for programs."""
        return self.wrong.code

    @property
    def place(self) -> tuple[str, ...]:
        """Its place in a sorted list."""
        return (self.entity, self.id, self.code, self.saga_id or "", self.detail)


@dataclass(frozen=True)
class Kept:
    """The entity's state at the service that keeps it."""

    is_gone: bool
    version: int | None = None


@dataclass(frozen=True)
class Row:
    """The sum of the rows that a rule is about. `saga` is the saga that they name."""

    number: int
    saga: str | None = None
    version: int | None = None
    is_fit: bool = True


@dataclass(frozen=True)
class Facts:
    """The facts about one entity: `rows` stand in the order of the rules."""

    id: str
    kept: Kept | None
    rows: Sequence[Sequence[Row]]

    @property
    def sagas(self) -> frozenset[str]:
        """All sagas that left a trace in it."""
        return frozenset(row.saga for rows in self.rows for row in rows if row.saga is not None)


def divergences(entity: str, rules: Sequence[Rule], facts: Facts) -> Iterator[Divergence]:
    """The divergences of this entity, given that no saga is at work on it."""

    def found(wrong: Wrong, saga: str | None = None, detail: str = "") -> Divergence:
        return Divergence(entity, facts.id, wrong, saga, detail)

    for rule, rows in zip(rules, facts.rows, strict=True):
        match rule:
            case Refers():
                missing = _missing(facts.kept)
                if rows and missing is not None and rule.only in (None, missing):
                    yield found(rule.wrong)
            case Mirrors():
                if wrong := _of_mirror(rule, facts.kept, rows):
                    yield found(*wrong)
            case Holds():
                if facts.kept is not None and not facts.kept.is_gone:
                    for saga in sorted({row.saga for row in rows if row.saga is not None}):
                        yield found(rule.wrong, saga)
            case _:
                assert_never(rule)


def _missing(kept: Kept | None) -> Missing | None:
    if kept is None:
        return Missing.UNKNOWN
    return Missing.GONE if kept.is_gone else None


def _of_mirror(rule: Mirrors, kept: Kept | None, rows: Sequence[Row]) -> tuple[Any, ...] | None:
    if kept is None or kept.is_gone:
        return None
    if not rows:
        return (rule.missing,)
    if rule.unfit is not None and not all(row.is_fit for row in rows):
        return (rule.unfit,)
    if rule.behind is not None and kept.version is not None:
        heard = max((row.version for row in rows if row.version is not None), default=None)
        if heard is None or heard < kept.version:
            return (rule.behind, None, f"version {kept.version} has not arrived")
    return None
