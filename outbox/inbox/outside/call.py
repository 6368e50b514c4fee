"""A call that is stored, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from outbox.inbox.handling.context import Context
from outbox.inbox.outside.registration import Outside
from outbox.inbox.outside.rules import Attempt
from outbox.inbox.rows import Arrival
from outbox.messages import Command, reply_type
from outbox.replies import Reply


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of a call, which was stored at `began`, on the monotonic clock. `known` is a
    result that was stored already, so that nothing is called."""

    arrival: Arrival
    outside: Outside
    context: Context
    attempt: Attempt
    began: float
    known: Reply | None = None

    @property
    def id(self) -> str:
        """The id of its command."""
        return self.arrival.envelope.id

    @property
    def reply_type(self) -> Any:
        """The type of the values that the command promises."""
        cls = type(self.arrival.message)
        assert issubclass(cls, Command), "only commands have calls"
        return reply_type(cls)


@dataclass(frozen=True, slots=True)
class Answered:
    """The result that the provider answered: the reply is DONE or REFUSED."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class AnswersLater:
    """The result that the provider will answer on a way of its own; the reply is PENDING, as
    `reply_of` makes it."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class NotMade:
    """The result that definitely nothing happened; the reply says when to ask again."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The result that it is not known what happened, because of this error."""

    error: str


@dataclass(frozen=True, slots=True)
class AfterFailed:
    """The result that is known, and could not be written, since `after` raised this."""

    reply: Reply
    error: BaseException


Result = Answered | AnswersLater | NotMade | NoAnswer


def outcome_of(result: Result) -> str:
    """The result in a word, for a metric."""
    match result:
        case Answered(reply):
            return reply.outcome.value
        case AnswersLater():
            return "later"
        case NotMade():
            return "not-made"
        case NoAnswer():
            return "no-answer"
        case other:
            assert_never(other)
