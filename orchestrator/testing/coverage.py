"""What the tools of this package try, and what none of them does: kept here and nowhere else.

A tool that joins gets a member of `Tool`, and says in each row that it covers how it does so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Tool(StrEnum):
    """The tools."""

    EXPLORE = "explore"
    """`explore` and `sagabox explore`: every order, with few faults, of the machine's decisions."""


class Sort(StrEnum):
    """What a row is about."""

    CONSTRUCT = "construct"
    """What a saga is written with."""
    FAULT = "fault"
    """What may go wrong, or come in between."""
    PROMISE = "promise"
    """What must hold all the same."""


@dataclass(frozen=True)
class Row:
    """One thing, and how each tool covers it; a tool that is not named does not. `limits` says what
    is left out, and what to look at for it instead."""

    sort: Sort
    name: str
    covered: Mapping[Tool, str] = field(default_factory=dict)
    limits: str = ""


def _construct(name: str, explored: str = "", limits: str = "") -> Row:
    return _row(Sort.CONSTRUCT, name, explored, limits)


def _fault(name: str, explored: str = "", limits: str = "") -> Row:
    return _row(Sort.FAULT, name, explored, limits)


def _promise(name: str, explored: str = "", limits: str = "") -> Row:
    return _row(Sort.PROMISE, name, explored, limits)


def _row(sort: Sort, name: str, explored: str, limits: str) -> Row:
    return Row(sort, name, {Tool.EXPLORE: explored} if explored else {}, limits)


COVERAGE: tuple[Row, ...] = (
    _construct("compensatable", "done, refused, locked, ongoing, expired, in doubt, undone"),
    _construct("pivot", "done, refused, locked, ongoing, in doubt"),
    _construct("retriable", "done, refused (a fault), locked, ongoing, in doubt"),
    _construct("after=", "all orders of steps that run side by side"),
    _construct("when_locked=", "both ways"),
    _construct("retry=", "how often, within the bounds of the faults", "how long the pauses are"),
    _construct("deadline=", "it comes at any moment, or not", "how long it is"),
    _construct("on_reply=", "with one made up answer, or with those given as replies="),
    _construct("state=", "one input at a time"),
    _construct("one_active=", limits="two runs of one key: the orchestrator's start decides"),
    _construct("version=", limits="a run whose definition changed: a new version is another saga"),
    _fault("crashes", "before and after every commit, and between two"),
    _fault("duplicates", "of every command and answer"),
    _fault("losses", "of every command and answer"),
    _fault("late", "a deadline passes before the answer"),
    _fault("refusals", "of a retriable step and of a compensation"),
    _fault("locks", "of every step, both ways"),
    _fault("ongoing", "of every step, both ways"),
    _fault("expiries", "of every command that may be given up"),
    _fault("burials", "of every command"),
    _fault("cancels", "at any moment at which it is possible"),
    _fault("retries", "of every stuck step"),
    _fault("skips", "of every stuck step, with the first of its replies"),
    _fault("pauses", "at any moment, and resumed at any later one"),
    _fault("terminations", "at any moment"),
    _fault("resolutions", "at any moment at which the run is STUCK"),
    _fault("reordering", "always: the network keeps no order"),
    _fault(
        "several answers lost in one crash",
        limits="one at a time; give a loss for each further one",
    ),
    _fault(
        "too-busy, not-attempted, failed, rejected",
        limits="they decide nothing, whoever delivers goes on trying: explored as a delay",
    ),
    _fault("too-old, unknown", limits="an inbox that was purged too early, or restored"),
    _fault("a database that is down, slow or full", limits="storage is taken for whole"),
    _fault("two orchestrators at once", limits="leases and fences are not in the model"),
    _promise("P1", limits="a message leaves if and only if its transaction committed: the outbox"),
    _promise("P2", "at participants that keep the rules of the inbox", "your handlers' own code"),
    _promise("P3", "at participants that keep the rules of the inbox", "your handlers' own code"),
    _promise("P4", "everywhere"),
    _promise("P5", "everywhere"),
    _promise("P6", limits="the order of messages of one key: nothing here relies on it"),
    _promise("P7", limits="a process that lost its lease writes nothing"),
    _promise("P8", limits="memory, queues and history are bounded"),
    _promise("P9", limits="the blog's own"),
    _promise("order", "at every compensation that takes effect"),
    _promise("end", "from everywhere, without further faults"),
    _promise("total", "every answer, timer and request, and the saga's own functions"),
    _promise("your invariants", "everywhere"),
)
"""All of it, in the order in which it is shown."""


def not_covered(tool: Tool) -> tuple[Row, ...]:
    """What that tool leaves out, in whole or in part."""
    return tuple(row for row in COVERAGE if tool not in row.covered or row.limits)
