"""The registration of a call to the outside: its decorator, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeAlias, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.errors import InvalidHandlers, InvalidMessage
from outbox.inbox.handling.context import Context
from outbox.inbox.handling.registration import Result, check_signature, is_async, name_of
from outbox.inbox.handling.results import reply_of
from outbox.inbox.outside.rules import Promise
from outbox.messages import Command, Message
from outbox.replies import PENDING, Done, Locked, Ongoing, Outcome, Pending, Refused, Reply
from outbox.wire import strict_json
from outbox.wire.codec import encode_value
from outbox.wire.sameness import difference

M = TypeVar("M", bound=Message)
R = TypeVar("R")
Before: TypeAlias = (
    "Callable[[AsyncSession, Any, Context], Coroutine[Any, Any, object]]"
    " | Callable[[Session, Any, Context], object]"
)
After: TypeAlias = (
    "Callable[[AsyncSession, Any, R | Refused, Context], Coroutine[Any, Any, None]]"
    " | Callable[[Session, Any, R | Refused, Context], None]"
)


OUTSIDE_SECONDS = 30.0
KEY_VALID_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Outside:
    """A registered call: its function, its promise, and what is done in the database around it."""

    function: Callable[..., Any]
    is_async: bool
    promise: Promise
    before: Callable[..., Any] | None
    after: Callable[..., Any] | None
    promised: Callable[[Any, Any], Promise] | None = None
    """What holds of the call for a command, given what is kept for its next attempt; where it is
    left out, the same holds of all."""

    def promise_for(self, command: Message, kept: Any) -> Promise:
        """What holds of the next attempt of the call for that command."""
        return self.promise if self.promised is None else self.promised(command, kept)

    @property
    def name(self) -> str:
        """The function's own name, for people."""
        return name_of(self.function)

    @property
    def seconds(self) -> float:
        """The seconds that it may take at most."""
        return self.promise.timeout.total_seconds()

    def seconds_for(self, command: Message, kept: Any) -> float:
        """The seconds after which the next attempt for that command is cut off."""
        return self.promise_for(command, kept).timeout.total_seconds()

    @property
    def first(self) -> Callable[..., Any]:
        """What is done in the transaction that stores the call."""
        return self.before or _nothing

    @property
    def in_sessions(self) -> tuple[tuple[str, bool], ...]:
        """The names of its functions that get a session, and whether each is async."""
        given = [each for each in (self.before, self.after) if each is not None]
        return tuple((name_of(each), is_async(each)) for each in given)


class OnOutside(Generic[R]):
    """The decorator that `Handlers.outside` gives; `R` is what the call must return."""

    def __init__(self, register: Callable[[Callable[..., Any]], None]) -> None:
        self._register = register

    @overload
    def __call__(
        self, function: Callable[[M, Context], Coroutine[Any, Any, Result[R]]]
    ) -> Callable[[M, Context], Coroutine[Any, Any, Result[R]]]: ...
    @overload
    def __call__(
        self, function: Callable[[M, Context], Result[R]]
    ) -> Callable[[M, Context], Result[R]]: ...
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self._register(function)
        return function


def outside_of(
    cls: type[Message],
    function: Callable[..., Any],
    *,
    timeout: float,
    keyed: bool,
    key_valid_for: timedelta,
    before: Callable[..., Any] | None,
    after: Callable[..., Any] | None,
) -> Outside:
    """The call that is registered for these messages. Raises InvalidHandlers."""
    name = name_of(function)
    if not issubclass(cls, Command):
        raise InvalidHandlers(
            f"{name} is registered as a call to the outside for {cls.__name__}, which is no "
            "command: an event awaits no answer",
            next_step="send a command from a handler of the event, and register the call for that",
        )
    if not 0 < timeout < float("inf"):
        raise InvalidHandlers(
            f"the timeout of {name} is {timeout!r}",
            next_step="give the seconds that a call may take",
        )
    if key_valid_for <= timedelta():
        raise InvalidHandlers(
            f"key_valid_for of {name} is {key_valid_for}",
            next_step="give the time for which the provider remembers a key, or say keyed=False",
        )
    check_signature(cls, function, "command", "context")
    if before is not None:
        check_signature(cls, before, "session", "command", "context")
    if after is not None:
        check_signature(cls, after, "session", "command", "reply", "context")
    promise = Promise(timedelta(seconds=timeout), keyed, key_valid_for)
    return Outside(function, is_async(function), promise, before, after)


@dataclass(frozen=True)
class Begun(Reply):
    """The reply to a command whose call is to be made. `before` is JSON, for each attempt."""

    before: str | None = None


def begun(outside: Outside, result: object) -> Reply:
    """The reply that a result of `before` stands for. Raises InvalidMessage where it would not be
    the same after it was stored, and TypeError where it cannot be meant so."""
    match result:
        case Refused() | Locked() | Ongoing():
            return reply_of(result)
        case Pending():
            raise TypeError(
                f"{name_of(outside.first)} returned Pending, and what follows is a call"
            )
        case Done(value):
            kept = value
        case _:
            kept = result
    stored = encode_value(kept)
    differing = difference(kept, stored)
    if differing is not None:
        raise InvalidMessage(
            f"what {name_of(outside.first)} returned cannot be stored: {differing.problem}",
            next_step="return texts, numbers, and lists and dicts of them",
        )
    text = None if stored is None else strict_json.dumps(stored).decode()
    return Begun(Outcome.ONGOING, code=PENDING, before=text)


def _nothing(session: object, command: object, context: object) -> None:
    """What is done before a call that needs nothing."""
