"""The signals to a run: what can happen to it from outside, one class each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from outbox.replacing import quick
from outbox.replies import Outcome, Reply

ACCEPTED = Reply(
    Outcome.ONGOING, code="accepted", reason="it is on its way; the answer comes as a message"
)
"""The value in place of an answer where the transport only took the command, durably."""


@quick
@dataclass(frozen=True, slots=True)
class Replied:
    """A participant answered a command. `source` is the sender of an answer that came as a message;
    None where it came back on the way of the command, and so from the command's participant."""

    command_id: str
    reply: Reply
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Buried:
    """A command was given up by the relay: it became a dead letter of the orchestrator."""

    command_id: str
    reason: str


class TimerKind(StrEnum):
    """The reason why a timer was set."""

    DEADLINE = "deadline"
    """The answer is overdue."""
    REPEAT = "repeat"
    """It is time to ask again."""
    BEGIN = "begin"
    """It is time for the run to begin."""


@quick
@dataclass(frozen=True, slots=True)
class TimerFired:
    """A durable timer came due. It guards one command; if that is answered, it means nothing, and
    so does a timer that fires again, or late. That of a begin has the run's id in its place."""

    kind: TimerKind
    command_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Turn back and undo. Possible until the point of no return was sent."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """End at once and undo nothing. What is in effect stays, and is listed."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Try a stuck step again."""

    step: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Take a stuck step for done (forward, with the result supplied, as JSON) or leave it as it is
    (backward: then it is listed as not undone)."""

    step: str
    actor: str
    reason: str
    result: Any = None


@dataclass(frozen=True, slots=True)
class Resolve:
    """End a stuck run; the operator has taken care of the effects that are not undone."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing until it is resumed; answers are still taken in, and no deadline counts."""

    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on after a pause."""

    actor: str
    reason: str


OperatorSignal = Cancel | Terminate | Retry | Skip | Resolve | Pause | Resume
Signal = Replied | Buried | TimerFired | OperatorSignal
