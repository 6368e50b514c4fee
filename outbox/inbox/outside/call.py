"""A call that is stored, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, assert_never

from outbox.inbox.handling.context import Context
from outbox.inbox.outside.registration import Outside
from outbox.inbox.outside.rules import Attempt, Promise
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
    def promise(self) -> Promise:
        """What holds of this attempt."""
        return self.outside.promise_for(self.arrival.message, self.context.before)

    @property
    def seconds(self) -> float:
        """The seconds after which it is cut off."""
        return self.outside.seconds_for(self.arrival.message, self.context.before)

    @property
    def reply_type(self) -> Any:
        """The type of the values that the command promises."""
        cls = type(self.arrival.message)
        assert issubclass(cls, Command), "only commands have calls"
        return reply_type(cls)


@dataclass(frozen=True, slots=True)
class Answered:
    """The result that the provider answered: the reply is DONE or REFUSED. A refusal that
    `is_certain` counts also after a doubt."""

    reply: Reply
    is_certain: bool = False


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
class GoesOn:
    """The result that the provider works on it, and is asked again after `retry_after` seconds,
    with `kept` (JSON). With `in_doubt` it is asked by the call itself once more."""

    kept: str
    note: str
    retry_after: float
    in_doubt: bool


@dataclass(frozen=True, slots=True)
class NeverKnown:
    """The result that it is not known what happened, and that no repetition finds it out."""

    reason: str


@dataclass(frozen=True, slots=True)
class AfterFailed:
    """The result that is known, and could not be written, since `after` raised this."""

    reply: Reply
    error: BaseException


Result = Answered | AnswersLater | NotMade | NoAnswer | GoesOn | NeverKnown


NO_ANSWER: Final = "no-answer"
"""The word for a call that ended without an answer."""


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
            return NO_ANSWER
        case GoesOn():
            return "goes-on"
        case NeverKnown():
            return "never-known"
        case other:
            assert_never(other)
