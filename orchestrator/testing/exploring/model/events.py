"""What can happen next in an explored run, as values that a test can write down."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from outbox.replies import Outcome


class What(StrEnum):
    """The kinds of events."""

    STARTS = "starts"
    """The run begins."""
    SCHEDULED = "scheduled"
    """The run is asked for, and begins later."""
    BEGINS = "begins"
    """It is time for a scheduled run to begin."""
    ARRIVES = "arrives"
    """A command arrives at its participant, which gives `answer`."""
    ANSWERED = "answered"
    """`answer` arrives at the orchestrator."""
    ACCEPTED = "accepted"
    """The way takes a command durably; it arrives later, and its answer is a message."""
    LOST = "lost"
    """A command, or with `answer` that answer to it, never arrives."""
    BURIED = "buried"
    """A command becomes a dead letter."""
    COMPLETED = "completed"
    """What was pending is completed with `answer`: by a person or another service, or by the `call`
    to the outside that was made for it."""
    OVERDUE = "overdue"
    """The time of a `call` passes, and it goes on; with `answer`, it has had its effect before."""
    DIED = "died"
    """The process that makes a `call` dies; with `answer`, the call has had its effect before."""
    DEADLINE = "deadline"
    """A definite answer is overdue."""
    REPEAT = "repeat"
    """It is time to ask once more."""
    CRASH = "crash"
    """The orchestrator crashes between two commits."""
    CANCEL = "cancel"
    TERMINATE = "terminate"
    RESOLVE = "resolve"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    SKIP = "skip"
    REMOVED = "removed"
    """Retention removes the run, and remembers its id by itself."""
    FORGOTTEN = "forgotten"
    """It removes the tombstone of the id, or the run whose id is too old for one."""
    UNKEYED = "unkeyed"
    """It removes the idempotency key."""
    AGAIN = "again"
    """The message that asked for the run comes again."""
    SAME_KEY = "same key"
    """A caller asks with the idempotency key again."""


class Crash(StrEnum):
    """When the orchestrator crashes over what happens."""

    BEFORE_COMMIT = "before commit"
    """What happened is not stored, and comes again."""
    AFTER_COMMIT = "after commit"
    """It is stored, and what it leads to is sent at recovery."""


@dataclass(frozen=True)
class Event:
    """One thing that happens. `attempt` counts the different commands of a step in one direction.

    `choice` says which of several values a participant answers with; with `copy`, a copy of the
    message stays on its way. `accepted` tells the copies of a command that the way has accepted,
    and the answers that are messages, from the others. `later` tells the answers that come later,
    and those that came so; `call` counts the attempts of a call to the outside, from 1. `void`
    tells the question that a skip asks from the step's own command.
    """

    what: What
    step: str | None = None
    undo: bool = False
    attempt: int = 1
    answer: Outcome | None = None
    choice: int = 0
    copy: bool = False
    crash: Crash | None = None
    accepted: bool = False
    later: bool = False
    call: int = 0
    void: bool = False

    def source(self) -> str:
        """The expression that makes it; it needs the names Crash, Event, Outcome and What."""
        words = [f"What.{self.what.name}"]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "step":
                words.append(repr(value))
            elif isinstance(value, StrEnum):
                words.append(f"{field.name}={type(value).__name__}.{value.name}")
            else:
                words.append(f"{field.name}={value!r}")
        return f"Event({', '.join(words)})"
