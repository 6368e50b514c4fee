"""The goals, in one table, and whether they are reached. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks import names
from benchmarks.figures import Figures, Name
from benchmarks.names import POSTGRESQL, SQLITE


@dataclass(frozen=True)
class Goal:
    """A limit for a figure, or for what it is of the figure `against`. Without an `at_least` it
    is at most `limit`."""

    title: str
    figure: Name
    limit: float
    against: Name | None = None
    at_least: bool = False
    unit: str = "x"

    def measured(self, figures: Figures) -> float | None:
        """The value, or None where something for it was not measured."""
        return figures.ratio(self.figure, self.against)

    def reached(self, value: float) -> bool:
        """Whether such a value is within the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


def _deletion(contender: str, clients: int, column: str) -> Name:
    return (POSTGRESQL, names.DELETION, names.row(contender, clients), column)


def _rate(contender: str) -> Name:
    return _deletion(contender, 64, names.RATE)


def _against(contender: str, others: Mapping[str, float], handlers: str) -> Iterator[Goal]:
    for other, limit in others.items():
        title = f"sagas/s at 64 ({handlers}), against {other}"
        yield Goal(title, _rate(contender), limit, _rate(other), at_least=True)


def _edge(row: str, column: str) -> Name:
    return (POSTGRESQL, names.EDGE, row, column)


def _growth(what: str) -> Goal:
    few, many = (
        (POSTGRESQL, names.GROWTH, what, names.with_runs(count)) for count in names.RUN_COUNTS
    )
    return Goal(f"{what} at 1,000,000 finished runs, against 1,000", many, 1.2, few)


_LISTS = {names.PLAIN: 15, names.BARE: 6, names.DBOS: 25, names.RESTATE: 15}
_ONES = {names.PLAIN: 5, names.DBOS: 10}
_ONE = _deletion(names.SAGAS, 1, names.P50)
_COMMENT_RATE = _edge(names.at("POST /comments", 64), names.RATE)
_COMMENT_P50 = _edge(names.at("POST /comments", 1), names.P50)

GOALS: tuple[Goal, ...] = (
    *_against(names.SAGAS, _LISTS, "list handlers"),
    *_against(names.ORDINARY, _ONES, "ordinary handlers"),
    *(
        Goal(f"p50 of a saga at 1, against {it}", _ONE, limit, _deletion(it, 1, names.P50))
        for it, limit in ((names.PLAIN, 0.7), (names.BARE, 1.3))
    ),
    Goal(
        "a command through /messages at 1, against POST /comments",
        _edge(names.at("a command", 1), names.P50),
        1.8,
        _COMMENT_P50,
    ),
    Goal("sagas/s at 64, against POST /comments", _rate(names.SAGAS), 0.5, _COMMENT_RATE, True),
    Goal("p50 of a saga at 1, against POST /comments", _ONE, 12, _COMMENT_P50),
    Goal(
        "processor time of all processes for a saga at 64",
        (POSTGRESQL, names.PROCESSOR, names.row(names.SAGAS, 64), names.ALL),
        2.5,
        unit="ms",
    ),
    *(
        Goal(
            f"starts, against single-row inserts, {place}",
            (place, names.ENGINE, names.STARTS, names.RATE),
            0.5,
            (place, names.ENGINE, names.INSERTS, names.RATE),
            at_least=True,
        )
        for place in (POSTGRESQL, SQLITE)
    ),
    *(
        Goal(
            f"relay, against executemany, {place}",
            (place, names.RELAYING, names.RELAY, names.RATE),
            limit,
            (place, names.RELAYING, names.EXECUTEMANY, names.RATE),
            at_least=True,
        )
        for place, limit in ((POSTGRESQL, 0.8), (SQLITE, 0.4))
    ),
    Goal(
        "event from commit to handler in another process, idle, p50",
        (POSTGRESQL, names.LATENCY, names.IDLE, names.P50),
        10,
        unit="ms",
    ),
    *(
        Goal(
            f"relay through {it}, against its client alone",
            (POSTGRESQL, names.BROKERS, it, names.RELAYED),
            0.7,
            (POSTGRESQL, names.BROKERS, it, names.ALONE),
            at_least=True,
        )
        for it in (names.NATS, names.NATS_ALWAYS, names.RABBITMQ, names.REDIS)
    ),
    *map(_growth, names.GROWING),
    Goal(
        "memory of 100,000 waiting runs",
        (POSTGRESQL, names.WAITING, names.with_runs(100_000), names.MEMORY),
        300,
        unit="MB",
    ),
)
"""All of them, in the order in which they are shown."""
