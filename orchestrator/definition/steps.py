"""The steps of a saga: the command of each, its compensation and its deadlines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

from orchestrator.errors import InvalidSaga
from outbox.messages import Command
from outbox.retry import RetryPolicy

S = TypeVar("S")
R = TypeVar("R")

DEFAULT_DEADLINE = timedelta(minutes=5)
DEFAULT_RETRY = RetryPolicy()


class Kind(StrEnum):
    """The kind of a step."""

    COMPENSATABLE = "compensatable"
    """It can be undone by its compensation."""
    PIVOT = "pivot"
    """The point of no return: once it may have happened, the saga only goes forward."""
    RETRIABLE = "retriable"
    """It comes after the point of no return and must succeed in the end."""


class WhenLocked(StrEnum):
    """The choice of a compensatable step when another operation holds the entity. A later step has
    none: it cannot be undone, so it cannot be given up either."""

    RETRY = "retry"
    """Ask again until the step's deadline."""
    REJECT = "reject"
    """Turn the saga back at once."""


@dataclass(frozen=True)
class Step(Generic[S]):
    """One step of a saga. Make it with `compensatable`, `pivot` or `retriable`.

    `deadline` is how long a compensatable step may stay without a definite answer before the saga
    turns back; a later step goes on beyond it, and is only shown as overdue.

    `retry` paces the saga's own repetitions. A compensatable step that is locked, and any step that
    is ongoing, is repeated at the ceiling once the policy gives up; a later step or a compensation
    that is refused or locked makes the run STUCK then.
    """

    name: str
    kind: Kind
    action: Callable[[S], Command[Any]]
    _: KW_ONLY
    compensation: Callable[[S], Command[Any]] | None = None
    on_reply: Callable[[S, Any], S] | None = None
    after: tuple[str, ...] | None = None
    deadline: timedelta = DEFAULT_DEADLINE
    retry: RetryPolicy = DEFAULT_RETRY
    when_locked: WhenLocked = WhenLocked.RETRY


def compensatable(
    name: str,
    action: Callable[[S], Command[R]],
    *,
    compensation: Callable[[S], Command[Any]],
    on_reply: Callable[[S, R], S] | None = None,
    after: Iterable[str] | None = None,
    deadline: timedelta = DEFAULT_DEADLINE,
    retry: RetryPolicy = DEFAULT_RETRY,
    when_locked: WhenLocked = WhenLocked.RETRY,
) -> Step[S]:
    """A step that `compensation` undoes. Both commands go to the same participant.

    `after` names the steps that it waits for; left out, it waits for the step before it in the
    list, and `after=()` waits for none.
    """
    return Step(
        name,
        Kind.COMPENSATABLE,
        action,
        compensation=compensation,
        on_reply=on_reply,
        after=_names(name, after),
        deadline=deadline,
        retry=retry,
        when_locked=when_locked,
    )


def pivot(
    name: str,
    action: Callable[[S], Command[R]],
    *,
    on_reply: Callable[[S, R], S] | None = None,
    deadline: timedelta = DEFAULT_DEADLINE,
    retry: RetryPolicy = DEFAULT_RETRY,
) -> Step[S]:
    """The point of no return. It comes after every compensatable step; refused, it turns the saga
    back; in doubt, it is repeated until the answer is known."""
    return Step(name, Kind.PIVOT, action, on_reply=on_reply, deadline=deadline, retry=retry)


def retriable(
    name: str,
    action: Callable[[S], Command[R]],
    *,
    on_reply: Callable[[S, R], S] | None = None,
    after: Iterable[str] | None = None,
    deadline: timedelta = DEFAULT_DEADLINE,
    retry: RetryPolicy = DEFAULT_RETRY,
) -> Step[S]:
    """A step after the point of no return: repeated until it succeeds or an operator steps in.

    It comes after the pivot (without one: after every compensatable step) and after the step
    before it in the list, or instead of that one after the steps that `after` names.
    """
    return Step(
        name,
        Kind.RETRIABLE,
        action,
        on_reply=on_reply,
        after=_names(name, after),
        deadline=deadline,
        retry=retry,
    )


def _names(step: str, after: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(after, str):
        # A text is an iterable of texts, so no type checker finds this mistake.
        raise InvalidSaga(
            f"step {step!r} has after={after!r}, which is a text and no list of names",
            next_step=f"write after=[{after!r}]",
        )
    return None if after is None else tuple(after)
