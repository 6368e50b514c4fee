"""Handlers: the functions that do what messages ask for.

    handlers = Handlers("comments")

    @handlers.on(CloseThread)
    async def close(session: AsyncSession, command: CloseThread, context: Context) -> ThreadClosed:
        ...

A handler works in the transaction that it is given, and never commits it: the inbox does, together
with the row that keeps the message from taking effect twice. It may be `async` and take an
`AsyncSession`, or plain and take a `Session`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.errors import InvalidHandlers, InvalidMessage
from outbox.inbox.registration import On, OnList, check_signature, is_async
from outbox.messages import Command, Event, Message, MessageType, reply_type, type_of
from outbox.replies import PENDING, Done, Locked, Ongoing, Outcome, Pending, Refused, Reply
from outbox.wire.codec import check_class, encode_value

M = TypeVar("M", bound=Message)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Context:
    """The context of a message for its handler.

    `attempt` counts the calls for this message from 1, as far as this process remembers. More than
    1 means that an earlier call was rolled back, but not its effects outside of the database.
    `undoes` are the commands that are to be undone now, for a compensation: id -> "ran"; "pending",
    where the answer of the command has not come; or "in-doubt", where its call to the outside ended
    without one, so that it may have had its effect, or have it later.
    """

    id: str
    correlation: str | None
    causation: str | None
    attempt: int
    source: str
    trace: str | None
    undoes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function, and how to call it."""

    message_class: type[Message]
    function: Callable[..., Any]
    takes_lists: bool
    is_async: bool
    timeout: float | None = None
    """Seconds that a call may take; None where the inbox decides."""
    check: Callable[[Any], None] | None = None
    """Raises InvalidMessage for a message that no repetition makes right."""

    async def __call__(
        self, session: AsyncSession, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Reply]:
        """Call the function: the answers to the messages, in their order. Only one message where it
        takes no lists.

        Raises what the function raises, TypeError where it returns a type that no handler may, and
        InvalidMessage where the value is not the one that the command declares.
        """
        arguments = self._arguments(messages, contexts)
        if self.is_async:
            result = await self.function(session, *arguments)
        else:
            result = await session.run_sync(self.function, *arguments)
        return self._replies(result, messages)

    def call_plain(
        self, session: Session, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Reply]:
        """As calling it, in the caller's thread, for a function that is not async."""
        result = self.function(session, *self._arguments(messages, contexts))
        return self._replies(result, messages)

    def _arguments(
        self, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> tuple[object, object]:
        return (messages, contexts) if self.takes_lists else (messages[0], contexts[0])

    def _replies(self, result: object, messages: Sequence[Message]) -> list[Reply]:
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"{self.name} is not async, and returned a coroutine")
        if not self.takes_lists:
            return [self._reply_of(result)]
        if not isinstance(result, Sequence) or len(result) != len(messages):
            raise TypeError(
                f"{self.name} must return one result for each of {len(messages)} messages, "
                f"and returned {_described(result)}"
            )
        return [self._reply_of(each) for each in result]

    @property
    def type(self) -> str:
        """The type of the messages."""
        return str(type_of(self.message_class))

    @property
    def name(self) -> str:
        """The function's own name, for people."""
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def is_for_commands(self) -> bool:
        """Whether it handles commands, whose answers the sender awaits."""
        return issubclass(self.message_class, Command)

    def _reply_of(self, result: object) -> Reply:
        if issubclass(self.message_class, Command):
            return reply_of(result, reply_type(self.message_class))
        if isinstance(result, Refused | Locked | Ongoing | Pending):
            raise TypeError(
                f"{self.name} returned {_described(result)} for an event, which is a fact "
                "and cannot be refused"
            )
        return Reply(Outcome.DONE)


class Handlers:
    """The handlers of one consumer, by message type. `consumer` is the name of the service; each
    message takes effect once per consumer, even if another of its handlers took it."""

    def __init__(self, consumer: str) -> None:
        if not 0 < len(consumer) <= 100:
            raise InvalidHandlers(
                f"{consumer!r} is no name for a consumer",
                next_step="give the service's name, of 1 to 100 characters",
            )
        self.consumer = consumer
        self._by_type: dict[str, Handler] = {}
        self._built_in: dict[str, Handler] = {}
        self._rules: list[Callable[[Handler], None]] = []

    @overload
    def on(self, message_class: type[Command[R]], *, timeout: float | None = None) -> On[R]: ...
    @overload
    def on(self, message_class: type[Event], *, timeout: float | None = None) -> On[None]: ...
    def on(self, message_class: type[Message], *, timeout: float | None = None) -> On[Any]:
        """Register `(session, message, context)`. For a command it returns the command's own value,
        or Done, Refused, Locked, Ongoing, Pending; for an event nothing.

        A call that takes longer than `timeout` seconds is ended, and its message FAILED; without
        it `InboxLimits.handler` counts. Raises InvalidHandlers for a second handler of a type, a
        wrong signature, or a function or time that the database of the inbox does not allow;
        InvalidMessage where a message of that class, or its reply, would not arrive as it was sent.
        """
        return On(lambda function: self._add(message_class, function, False, timeout))

    @overload
    def on_list(
        self, message_class: type[Command[R]], *, timeout: float | None = None
    ) -> OnList[R]: ...
    @overload
    def on_list(
        self, message_class: type[Event], *, timeout: float | None = None
    ) -> OnList[None]: ...
    def on_list(self, message_class: type[Message], *, timeout: float | None = None) -> OnList[Any]:
        """Register `(session, messages, contexts)`, which returns one result for each message. The
        `timeout` is that of a call, as for `on`.

        Messages of one key come in their order. Since a list has no single cause, messages that the
        handler adds must name theirs: `outbox.add(..., causation=context.id)`. Then they belong to
        its saga and its trace.
        """
        return OnList(lambda function: self._add(message_class, function, True, timeout))

    def check(self, message_class: type[M], function: Callable[[M], None]) -> None:
        """Reject each message of that class, which has a handler here, for which the function
        raises InvalidMessage. The handler is not called for it."""
        name = str(type_of(message_class))
        self._by_type[name] = replace(self._by_type[name], check=function)

    def find(self, type: str) -> Handler | None:
        """The handler of that message type."""
        return self._by_type.get(type) or self._built_in.get(type)

    def restrict(self, rule: Callable[[Handler], None]) -> None:
        """Hold all handlers to a rule, which raises InvalidHandlers: those that are registered, and
        those to come."""
        for handler in self._by_type.values():
            rule(handler)
        self._rules.append(rule)

    def __iter__(self) -> Iterator[Handler]:
        """The registered handlers."""
        return iter(self._by_type.values())

    def build_in(
        self, message_class: type[M], function: Callable[..., Any], check: Callable[[M], None]
    ) -> None:
        """Register a handler of the inbox itself, for every consumer, with its check: a plain
        function that waits for the database alone. It is not among `types`, and a handler of the
        consumer's own goes first."""
        handler = Handler(message_class, function, takes_lists=False, is_async=False, check=check)
        self._built_in[str(type_of(message_class))] = handler

    @property
    def types(self) -> tuple[str, ...]:
        """The message types that are handled, sorted."""
        return tuple(sorted(self._by_type))

    def versions_of(self, type: str) -> tuple[str, ...]:
        """The handled types that differ from `type` in their version only."""
        try:
            asked = MessageType.parse(type)
        except InvalidMessage:
            return ()
        prefix = f"{asked.owner}.{asked.name}.v"
        return tuple(known for known in self.types if known.startswith(prefix))

    def _add(
        self,
        cls: type[Message],
        function: Callable[..., Any],
        takes_lists: bool,
        timeout: float | None,
    ) -> None:
        if not issubclass(cls, Event | Command):
            raise InvalidHandlers(
                f"{cls.__name__} is neither an Event nor a Command",
                next_step="derive it from one of them",
            )
        name = str(type_of(cls))
        known = self._by_type.get(name)
        if known is not None:
            raise InvalidHandlers(
                f"{name} has a handler already: {known.name}",
                next_step="let one handler do both: they share one transaction",
            )
        check_signature(cls, function, takes_lists)
        check_class(cls)
        handler = Handler(cls, function, takes_lists, is_async(function), timeout)
        if timeout is not None and not 0 < timeout < float("inf"):
            raise InvalidHandlers(
                f"the timeout of {handler.name} is {timeout!r}",
                next_step="give the seconds that a call may take",
            )
        for rule in self._rules:
            rule(handler)
        self._by_type[name] = handler


def reply_of(result: object, tp: Any = Any) -> Reply:
    """The reply that a handler's result stands for, as it is stored and sent. `tp` is the type of
    the values that the command declares. That of Pending has as `value` the seconds it expects.

    Raises InvalidMessage where a value is of another type or cannot be put on the wire, TypeError
    where a code or reason is no text.
    """
    match result:
        case Refused(code, reason):
            return Reply(Outcome.REFUSED, code=_text(code), reason=_text(reason))
        case Locked(by):
            return Reply(Outcome.LOCKED, code="locked", reason=_text(by))
        case Ongoing(retry_after):
            return Reply(Outcome.ONGOING, code="ongoing", retry_after=_seconds(retry_after))
        case Pending(note, expect):
            # The transaction knows the time, and makes a Progress of it.
            seconds = None if expect is None else expect.total_seconds()
            return Reply(Outcome.ONGOING, value=seconds, code=PENDING, reason=_text(note))
        case Done(value):
            return _done(value, tp)
        case _:
            return _done(result, tp)


def _done(value: object, tp: Any) -> Reply:
    # A handler that returns nothing gives no value, whatever is declared: the reader says so.
    return Reply(Outcome.DONE, value=None if value is None else encode_value(value, tp))


def _seconds(pause: float | timedelta) -> float:
    return pause.total_seconds() if isinstance(pause, timedelta) else float(pause)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a refusal's code and reason are texts, and one is {value!r}")
    return value


def _described(result: object) -> str:
    if isinstance(result, Sequence) and not isinstance(result, str):
        return f"{len(result)} in a {type(result).__name__}"
    return type(result).__name__
