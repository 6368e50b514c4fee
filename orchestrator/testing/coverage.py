"""The coverage of this package's tools: what each of them tries, and what it leaves out.

`sagabox coverage` prints it. A new tool gets a member of `Tool`, and a word in every row; a new
construct, fault, promise or transport gets a row.
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


class Subject(StrEnum):
    """The kind of thing that a row of the list is about."""

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
    """The coverage of one row by one tool: `how` it covers it, empty where it does not; `limits`
    says what it leaves out, and what to use instead."""

    how: str = ""
    limits: str = ""


@dataclass(frozen=True)
class CoverageRow:
    """One row of the list, and what each tool does about it."""

    subject: Subject
    name: str
    explore: Covered
    simulate: Covered
    check_saga: Covered

    def by(self, tool: Tool) -> Covered:
        """What that tool does about it."""
        found: Covered = getattr(self, tool.value)
        return found


def _row(
    subject: Subject,
    name: str,
    explore: str | Covered,
    simulate: str | Covered,
    check_saga: str | Covered,
) -> CoverageRow:
    """A row; a tool's plain text says how it covers the whole of it."""
    whole = (
        Covered(told) if isinstance(told, str) else told for told in (explore, simulate, check_saga)
    )
    return CoverageRow(subject, name, *whole)


_HANDLERS = Covered(
    "at participants that keep the rules of the inbox", "not your handlers' own code"
)
_BY_TESTS = Covered(limits="by the tests of outbox and inbox")

COVERAGE: tuple[CoverageRow, ...] = (
    _row(
        Subject.CONSTRUCT,
        "compensatable",
        "done, refused, locked, ongoing, pending, expired, in doubt, undone",
        "done, refused, failed, locked, ongoing, pending, expired, in doubt, undone",
        "done, refused, failed, locked, undone",
    ),
    _row(
        Subject.CONSTRUCT,
        "pivot",
        "done, refused, locked, ongoing, pending, in doubt",
        "done, refused, failed, locked, ongoing, pending, in doubt",
        "done, refused, failed, locked",
    ),
    _row(
        Subject.CONSTRUCT,
        "retriable",
        "done, refused (a fault), locked, ongoing, pending, in doubt",
        "done, refused (a fault), failed, locked, ongoing, pending, in doubt",
        "done, failed, locked",
    ),
    _row(
        Subject.CONSTRUCT,
        "after=",
        "all orders of steps that run side by side",
        "made-up graphs of up to six steps",
        Covered("in the order in which the node sends", "the other orders: explore"),
    ),
    _row(
        Subject.CONSTRUCT,
        "when_locked=",
        "both ways",
        "both ways",
        "as the saga says",
    ),
    _row(
        Subject.CONSTRUCT,
        "retry=",
        Covered("how often, within the bounds of the faults", "not how long the pauses are"),
        "with its pauses",
        "with its pauses",
    ),
    _row(
        Subject.CONSTRUCT,
        "deadline=",
        Covered("it comes at any moment, or not", "not how long it is"),
        "of seconds and of minutes",
        "of a command that is held up on its way",
    ),
    _row(
        Subject.CONSTRUCT,
        "on_reply=",
        "with one made up answer, or with those given as replies=",
        "with one made up answer",
        "with what your handlers answer",
    ),
    _row(
        Subject.CONSTRUCT,
        "state=",
        "one input at a time",
        "one made up input",
        "with the input that you give",
    ),
    _row(
        Subject.CONSTRUCT,
        "one_active=",
        Covered(limits="two runs of one key: the orchestrator's start decides"),
        "up to three runs of two keys, by message and by the API",
        Covered(limits="one run at a time: simulate"),
    ),
    _row(
        Subject.CONSTRUCT,
        "version=",
        Covered(limits="a run whose definition changed: a new version is another saga"),
        Covered(limits="one version at a time"),
        Covered(limits="one version at a time"),
    ),
    _row(
        Subject.FAULT,
        "crashes",
        "before and after every commit, and between two",
        "node_crash at every crash point of engine and relay, service_crash around every commit",
        "at every crash point of engine, relay, inbox, outbox and outside, each time it is reached",
    ),
    _row(
        Subject.FAULT,
        "duplicates",
        "of every command and answer",
        "duplicate, of requests, soon or half a minute late",
        "of every message, at once and when all is over",
    ),
    _row(
        Subject.FAULT,
        "losses",
        "of every command and answer",
        "request_lost, answer_lost",
        Covered("of every first answer", "of requests: simulate"),
    ),
    _row(
        Subject.FAULT,
        "late",
        "a deadline passes before the answer",
        "delay, partition, locked, paused",
        "a command that is held up until it was undone",
    ),
    _row(
        Subject.FAULT,
        "refusals",
        "of a retriable step and of a compensation",
        "refused_late, and refused where the business may",
        Covered(limits="of what must succeed: simulate"),
    ),
    _row(
        Subject.FAULT,
        "locks",
        "of every step, both ways",
        "locked",
        "of every step and compensation",
    ),
    _row(
        Subject.FAULT,
        "ongoing",
        "of every step, both ways",
        "ongoing",
        Covered(limits="as your handlers answer it: explore"),
    ),
    _row(
        Subject.FAULT,
        "outlasts",
        Covered("as ongoing, and a copy that arrives later", "ask for both: ongoing, duplicates"),
        "outlasts: a handler goes on after its delivery, and what it says is told to the next copy",
        Covered(limits="simulate does"),
    ),
    _row(
        Subject.FAULT,
        "accepted",
        "of every command, and the answer as a message",
        "accepted; the command and its answer, a message, are lost, doubled or late",
        Covered(limits="simulate does"),
    ),
    _row(
        Subject.FAULT,
        "expiries",
        "of every command that may be given up",
        "by delays beyond a short deadline",
        Covered(limits="an action that is held up meets the bar of its undo first: explore"),
    ),
    _row(
        Subject.FAULT,
        "burials",
        "of every command",
        "poison, until the relay gives up",
        "of every command, by a handler that fails for good",
    ),
    _row(
        Subject.FAULT,
        "cancels",
        "at any moment at which it is possible",
        "cancel",
        "during every step that can be undone",
    ),
    _row(
        Subject.FAULT,
        "retries",
        "of every stuck step",
        "of every stuck step, after the healing",
        "of every step that failed for good",
    ),
    _row(
        Subject.FAULT,
        "skips",
        "of every stuck step, with the first of its replies",
        Covered(limits="explore does"),
        Covered(limits="explore does"),
    ),
    _row(
        Subject.FAULT,
        "pauses",
        "at any moment, and resumed at any later one",
        "pause, and resumed after the healing",
        Covered(limits="explore does"),
    ),
    _row(
        Subject.FAULT,
        "terminations",
        "at any moment",
        "terminate",
        Covered(limits="explore does"),
    ),
    _row(
        Subject.FAULT,
        "resolutions",
        "at any moment at which the run is STUCK",
        Covered(limits="explore does"),
        Covered(limits="explore does"),
    ),
    _row(
        Subject.FAULT,
        "later",
        "a start for later: it begins at any moment, and persons may come before",
        "later, by message and by the API; signals and crashes before and at the begin",
        Covered(limits="a start for later: simulate"),
    ),
    _row(
        Subject.FAULT,
        "brokers",
        Covered("accepted", "queues with readers: simulate"),
        "broker_away, unconfirmed, late_confirm, redelivered, split, interleaved; reader_crash "
        "and takeover of the library's readers, with messages that are held; copies after skip, "
        "and of what a participant has forgotten",
        Covered(limits="simulate does"),
    ),
    _row(
        Subject.FAULT,
        "pendings",
        "of every command: done or refused later, too late, while it is undone; an undo, too",
        "pending, and completed soon or a minute late, twice or too late; its message may be lost",
        Covered(limits="as your handlers answer it: explore"),
    ),
    _row(
        Subject.FAULT,
        "calls",
        "of every command: a call has one effect, and is made again once its time has passed",
        Covered("call, at a provider that honours keys", "a provider that does not: explore"),
        Covered(limits="as your handlers make it: explore"),
    ),
    _row(
        Subject.FAULT,
        "hangs",
        "a call's process dies before or after its effect, or the call ends late, or as unknown",
        "hang: the process dies before or after the effect, the call fails after it, or ends late",
        Covered(limits="explore does"),
    ),
    _row(
        Subject.FAULT,
        "reordering",
        "always: the network keeps no order",
        "by delays, and between the ways",
        Covered("an action behind its compensation", "no other order: explore"),
    ),
    _row(
        Subject.FAULT,
        "several answers lost in one crash",
        Covered(limits="one at a time; give a loss for each further one"),
        "node_crash",
        "every first answer",
    ),
    _row(
        Subject.FAULT,
        "too-busy, not-attempted, failed, rejected",
        Covered(limits="they decide nothing, the sender goes on trying: explored as a delay"),
        Covered("handler_fails, and what waits behind it", "rejected: by the tests of the relay"),
        Covered("failed", "the others: by the tests of the relay"),
    ),
    _row(
        Subject.FAULT,
        "too-old, unknown",
        Covered(limits="an inbox that was purged too early, or restored"),
        Covered(limits="an inbox that was purged too early, or restored"),
        Covered(limits="an inbox that was purged too early, or restored"),
    ),
    _row(
        Subject.FAULT,
        "partitions",
        Covered(limits="explored as losses and delays"),
        "partition",
        Covered(limits="simulate does"),
    ),
    _row(
        Subject.FAULT,
        "wrong clocks",
        Covered(limits="explored as deadlines at any moment"),
        "skew",
        Covered(limits="simulate does"),
    ),
    _row(
        Subject.FAULT,
        "starts",
        Covered("of a run that is there or was removed", "two starts at once: simulate"),
        "start_twice",
        Covered(limits="simulate does"),
    ),
    _row(
        Subject.FAULT,
        "removals",
        "a run that has ended, its tombstone and its key, while copies are on their way",
        Covered(
            "removed to an archive, as dead letters are, and tombstones later; remover_crash; "
            "under_way and start_late: starts that come days or seconds after they were made, and "
            "copies of commands, answers and requests of persons",
            "idempotency keys: explore",
        ),
        Covered(limits="no run is old enough"),
    ),
    _row(
        Subject.FAULT,
        "commits of unknown outcome",
        "explored as a crash before and after it",
        "commit_lost, commit_failed",
        "a crash before and after it",
    ),
    _row(
        Subject.FAULT,
        "a database that is down, slow or full",
        Covered(limits="storage is taken for whole"),
        Covered("database_away", "slow or full: by the tests with real processes"),
        Covered(limits="simulate, and the tests with real processes"),
    ),
    _row(
        Subject.FAULT,
        "two orchestrators at once",
        Covered(limits="leases and fences are not in the model"),
        Covered(
            "node_pause past the lease", "transactions that overlap: by the tests on PostgreSQL"
        ),
        Covered(limits="one node: simulate"),
    ),
    _row(
        Subject.PROMISE,
        "P1",
        Covered(limits="a message leaves if and only if its transaction committed: the outbox"),
        Covered("for the orchestrator's messages", "those of services by the tests of the outbox"),
        Covered("at every crash", "what a handler adds to its outbox: ask the world for sent()"),
    ),
    _row(
        Subject.PROMISE,
        "P2",
        _HANDLERS,
        _HANDLERS,
        "by the tables of your services",
    ),
    _row(
        Subject.PROMISE,
        "P3",
        _HANDLERS,
        _HANDLERS,
        "by the tables of your services",
    ),
    _row(
        Subject.PROMISE,
        "P4",
        "everywhere",
        "at the end of every run",
        "at the end of every way",
    ),
    _row(
        Subject.PROMISE,
        "P5",
        "everywhere",
        "at every compensation",
        "at every compensation",
    ),
    _row(
        Subject.PROMISE,
        "P6",
        Covered(limits="the order of messages of one key: nothing here relies on it"),
        _BY_TESTS,
        _BY_TESTS,
    ),
    _row(
        Subject.PROMISE,
        "P7",
        Covered(limits="a process that lost its lease writes nothing"),
        "by what its writes would lead to",
        Covered(limits="one node: simulate"),
    ),
    _row(
        Subject.PROMISE,
        "P8",
        Covered(limits="memory, queues and history are bounded"),
        _BY_TESTS,
        _BY_TESTS,
    ),
    _row(
        Subject.PROMISE,
        "P9",
        Covered(limits="the blog's own"),
        Covered(limits="the blog's own"),
        Covered(limits="the blog's own"),
    ),
    _row(
        Subject.PROMISE,
        "order",
        "at every compensation that takes effect",
        "at every compensation that takes effect",
        "at every compensation that takes effect",
    ),
    _row(
        Subject.PROMISE,
        "end",
        "from everywhere, without further faults",
        "an hour after everything healed",
        "of every way, once what went wrong is mended",
    ),
    _row(
        Subject.PROMISE,
        "total",
        "every answer, timer and request, and the saga's own functions",
        "a run that cannot be worked on does not end",
        Covered("your functions and your handlers", "every answer at any moment: explore"),
    ),
    _row(
        Subject.PROMISE,
        "your invariants",
        "everywhere",
        Covered(limits="explore checks them"),
        "at the end of every way",
    ),
    _row(
        Subject.TRANSPORT,
        "grpc",
        Covered(
            limits="messages have no way there, only an order: by the tests with real processes"
        ),
        Covered(limits="the network is virtual: by the tests with real processes"),
        Covered(limits="there is no network: by the tests with real processes"),
    ),
    _row(
        Subject.TRANSPORT,
        "http",
        Covered(
            limits="messages have no way there, only an order: by the tests with real processes"
        ),
        Covered(limits="the network is virtual: by the tests with real processes"),
        Covered(limits="there is no network: by the tests with real processes"),
    ),
    _row(
        Subject.TRANSPORT,
        "inprocess",
        Covered(limits="messages have no way there, only an order: by the contract of transports"),
        Covered(limits="the network is virtual: by the contract, and by the death of the process"),
        Covered(limits="messages go to the inbox directly: by the contract of transports"),
    ),
    _row(
        Subject.TRANSPORT,
        "memory",
        Covered(limits="messages have no way there, only an order: by the contract of transports"),
        Covered(limits="the network is virtual: by the contract of transports"),
        Covered(limits="messages go to the inbox directly: by the contract of transports"),
    ),
    _row(
        Subject.TRANSPORT,
        "webhook",
        Covered(limits="a run sends no events to subscribers: by the tests with real ones"),
        Covered(limits="the network is virtual: by the tests with real subscribers"),
        Covered(limits="there are no subscribers: by the tests with real ones"),
    ),
)
"""The whole list, in the order in which it is shown."""


def not_covered(tool: Tool) -> tuple[CoverageRow, ...]:
    """What that tool leaves out, in whole or in part."""
    return tuple(row for row in COVERAGE if not row.by(tool).how or row.by(tool).limits)
