"""What the tools of this package try, and what each of them does not: kept here and nowhere else.

`sagabox coverage` prints it. A tool that joins gets a member of `Tool`, and a word in every row; a
construct, a fault, a promise or a transport that joins gets a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tool(StrEnum):
    """The tools."""

    EXPLORE = "explore"
    """`explore` and `sagabox explore`: every order, with few faults, of the machine's decisions."""
    SIMULATE = "simulate"
    """`simulate` and `sagabox simulate`: random histories with many faults, of the whole engine."""
    CHECK_SAGA = "check_saga"
    """`check_saga`: one fault after the other, with your own handlers and tables, on SQLite."""


class Sort(StrEnum):
    """What a row is about."""

    CONSTRUCT = "construct"
    """What a saga is written with."""
    FAULT = "fault"
    """What may go wrong, or come in between."""
    PROMISE = "promise"
    """What must hold all the same."""
    TRANSPORT = "transport"
    """How messages travel."""


@dataclass(frozen=True)
class Covered:
    """`how` a tool covers something, not at all where that is empty; `limits` says what it leaves
    out, and what to look at for it instead."""

    how: str = ""
    limits: str = ""


@dataclass(frozen=True)
class Row:
    """One thing, and what each tool does about it."""

    sort: Sort
    name: str
    explore: Covered
    simulate: Covered
    check_saga: Covered

    def by(self, tool: Tool) -> Covered:
        """What that tool does about it."""
        found: Covered = getattr(self, tool.value)
        return found


def _row(sort: Sort, name: str, explore: str, simulate: str, check_saga: str) -> Row:
    return Row(sort, name, *map(_covered, (explore, simulate, check_saga)))


def _covered(told: str) -> Covered:
    """What stands behind `but` are the limits."""
    how, _, limits = told.partition("but ")
    return Covered(how.rstrip(" ,"), limits)


_CONSTRUCT, _FAULT, _PROMISE, _TRANSPORT = Sort
_HANDLERS = "at participants that keep the rules of the inbox, but not your handlers' own code"
_BY_TESTS = "but by the tests of outbox and inbox"

COVERAGE: tuple[Row, ...] = (
    _row(
        _CONSTRUCT,
        "compensatable",
        "done, refused, locked, ongoing, expired, in doubt, undone",
        "done, refused, failed, locked, ongoing, expired, in doubt, undone",
        "done, refused, failed, locked, undone",
    ),
    _row(
        _CONSTRUCT,
        "pivot",
        "done, refused, locked, ongoing, in doubt",
        "done, refused, failed, locked, ongoing, in doubt",
        "done, refused, failed, locked",
    ),
    _row(
        _CONSTRUCT,
        "retriable",
        "done, refused (a fault), locked, ongoing, in doubt",
        "done, refused (a fault), failed, locked, ongoing, in doubt",
        "done, failed, locked",
    ),
    _row(
        _CONSTRUCT,
        "after=",
        "all orders of steps that run side by side",
        "made-up graphs of up to six steps",
        "in the order in which the node sends, but the other orders: explore",
    ),
    _row(
        _CONSTRUCT,
        "when_locked=",
        "both ways",
        "both ways",
        "as the saga says",
    ),
    _row(
        _CONSTRUCT,
        "retry=",
        "how often, within the bounds of the faults, but not how long the pauses are",
        "with its pauses",
        "with its pauses",
    ),
    _row(
        _CONSTRUCT,
        "deadline=",
        "it comes at any moment, or not, but not how long it is",
        "of seconds and of minutes",
        "of a command that is held up on its way",
    ),
    _row(
        _CONSTRUCT,
        "on_reply=",
        "with one made up answer, or with those given as replies=",
        "with one made up answer",
        "with what your handlers answer",
    ),
    _row(
        _CONSTRUCT,
        "state=",
        "one input at a time",
        "one made up input",
        "with the input that you give",
    ),
    _row(
        _CONSTRUCT,
        "one_active=",
        "but two runs of one key: the orchestrator's start decides",
        "up to three runs of two keys, by message and by the API",
        "but one run at a time: simulate",
    ),
    _row(
        _CONSTRUCT,
        "version=",
        "but a run whose definition changed: a new version is another saga",
        "but one version at a time",
        "but one version at a time",
    ),
    _row(
        _FAULT,
        "crashes",
        "before and after every commit, and between two",
        "node_crash at every crash point of engine and relay, service_crash around every commit",
        "at every crash point of engine, relay, inbox and outbox, each time that it is reached",
    ),
    _row(
        _FAULT,
        "duplicates",
        "of every command and answer",
        "duplicate, of requests, soon or half a minute late",
        "of every message, at once and when all is over",
    ),
    _row(
        _FAULT,
        "losses",
        "of every command and answer",
        "request_lost, answer_lost",
        "of every first answer, but of requests: simulate",
    ),
    _row(
        _FAULT,
        "late",
        "a deadline passes before the answer",
        "delay, partition, locked, paused",
        "a command that is held up until it was undone",
    ),
    _row(
        _FAULT,
        "refusals",
        "of a retriable step and of a compensation",
        "refused_late, and refused where the business may",
        "but of what must succeed: simulate",
    ),
    _row(
        _FAULT,
        "locks",
        "of every step, both ways",
        "locked",
        "of every step and compensation",
    ),
    _row(
        _FAULT,
        "ongoing",
        "of every step, both ways",
        "ongoing",
        "but as your handlers answer it: explore",
    ),
    _row(
        _FAULT,
        "expiries",
        "of every command that may be given up",
        "by delays beyond a short deadline",
        "but an action that is held up meets the bar of its undo first: explore",
    ),
    _row(
        _FAULT,
        "burials",
        "of every command",
        "poison, until the relay gives up",
        "of every command, by a handler that fails for good",
    ),
    _row(
        _FAULT,
        "cancels",
        "at any moment at which it is possible",
        "cancel",
        "during every step that can be undone",
    ),
    _row(
        _FAULT,
        "retries",
        "of every stuck step",
        "of every stuck step, after the healing",
        "of every step that failed for good",
    ),
    _row(
        _FAULT,
        "skips",
        "of every stuck step, with the first of its replies",
        "but explore does",
        "but explore does",
    ),
    _row(
        _FAULT,
        "pauses",
        "at any moment, and resumed at any later one",
        "pause, and resumed after the healing",
        "but explore does",
    ),
    _row(
        _FAULT,
        "terminations",
        "at any moment",
        "terminate",
        "but explore does",
    ),
    _row(
        _FAULT,
        "resolutions",
        "at any moment at which the run is STUCK",
        "but explore does",
        "but explore does",
    ),
    _row(
        _FAULT,
        "reordering",
        "always: the network keeps no order",
        "by delays, and between the ways",
        "an action behind its compensation, but no other order: explore",
    ),
    _row(
        _FAULT,
        "several answers lost in one crash",
        "but one at a time; give a loss for each further one",
        "node_crash",
        "every first answer",
    ),
    _row(
        _FAULT,
        "too-busy, not-attempted, failed, rejected",
        "but they decide nothing, whoever delivers goes on trying: explored as a delay",
        "handler_fails, and what waits behind it, but rejected: by the tests of the relay",
        "failed, but the others: by the tests of the relay",
    ),
    _row(
        _FAULT,
        "too-old, unknown",
        "but an inbox that was purged too early, or restored",
        "but an inbox that was purged too early, or restored",
        "but an inbox that was purged too early, or restored",
    ),
    _row(
        _FAULT,
        "partitions",
        "but explored as losses and delays",
        "partition",
        "but simulate does",
    ),
    _row(
        _FAULT,
        "wrong clocks",
        "but explored as deadlines at any moment",
        "skew",
        "but simulate does",
    ),
    _row(
        _FAULT,
        "starts that come twice",
        "but the machine knows one",
        "start_twice",
        "but simulate does",
    ),
    _row(
        _FAULT,
        "commits of unknown outcome",
        "explored as a crash before and after it",
        "commit_lost, commit_failed",
        "a crash before and after it",
    ),
    _row(
        _FAULT,
        "a database that is down, slow or full",
        "but storage is taken for whole",
        "database_away, but slow or full: by the tests with real processes",
        "but simulate, and the tests with real processes",
    ),
    _row(
        _FAULT,
        "two orchestrators at once",
        "but leases and fences are not in the model",
        "node_pause past the lease, but transactions that overlap: by the tests on PostgreSQL",
        "but one node: simulate",
    ),
    _row(
        _PROMISE,
        "P1",
        "but a message leaves if and only if its transaction committed: the outbox",
        "for the orchestrator's messages, but those of services by the tests of the outbox",
        "at every crash, but what a handler adds to its outbox: ask the world for sent()",
    ),
    _row(
        _PROMISE,
        "P2",
        _HANDLERS,
        _HANDLERS,
        "by the tables of your services",
    ),
    _row(
        _PROMISE,
        "P3",
        _HANDLERS,
        _HANDLERS,
        "by the tables of your services",
    ),
    _row(
        _PROMISE,
        "P4",
        "everywhere",
        "at the end of every run",
        "at the end of every way",
    ),
    _row(
        _PROMISE,
        "P5",
        "everywhere",
        "at every compensation",
        "at every compensation",
    ),
    _row(
        _PROMISE,
        "P6",
        "but the order of messages of one key: nothing here relies on it",
        _BY_TESTS,
        _BY_TESTS,
    ),
    _row(
        _PROMISE,
        "P7",
        "but a process that lost its lease writes nothing",
        "by what its writes would lead to",
        "but one node: simulate",
    ),
    _row(
        _PROMISE,
        "P8",
        "but memory, queues and history are bounded",
        _BY_TESTS,
        _BY_TESTS,
    ),
    _row(
        _PROMISE,
        "P9",
        "but the blog's own",
        "but the blog's own",
        "but the blog's own",
    ),
    _row(
        _PROMISE,
        "order",
        "at every compensation that takes effect",
        "at every compensation that takes effect",
        "at every compensation that takes effect",
    ),
    _row(
        _PROMISE,
        "end",
        "from everywhere, without further faults",
        "an hour after everything healed",
        "of every way, once what went wrong is mended",
    ),
    _row(
        _PROMISE,
        "total",
        "every answer, timer and request, and the saga's own functions",
        "a run that cannot be worked on does not end",
        "your functions and your handlers, but every answer at any moment: explore",
    ),
    _row(
        _PROMISE,
        "your invariants",
        "everywhere",
        "but explore checks them",
        "at the end of every way",
    ),
    _row(
        _TRANSPORT,
        "http",
        "but messages have no way there, only an order: by the tests with real processes",
        "but the network is virtual: by the tests with real processes",
        "but there is no network: by the tests with real processes",
    ),
    _row(
        _TRANSPORT,
        "memory",
        "but messages have no way there, only an order: by the contract of transports",
        "but the network is virtual: by the contract of transports",
        "but messages go to the inbox directly: by the contract of transports",
    ),
)
"""All of it, in the order in which it is shown."""


def not_covered(tool: Tool) -> tuple[Row, ...]:
    """What that tool leaves out, in whole or in part."""
    return tuple(row for row in COVERAGE if not row.by(tool).how or row.by(tool).limits)
