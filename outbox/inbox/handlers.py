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

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, overload

from outbox.errors import InvalidHandlers, InvalidMessage
from outbox.inbox.handling.context import Context
from outbox.inbox.handling.handler import Handler
from outbox.inbox.handling.registration import On, OnList, check_signature, is_async
from outbox.inbox.outside.registration import (
    KEY_VALID_FOR,
    OUTSIDE_SECONDS,
    After,
    Before,
    OnOutside,
    Outside,
    outside_of,
)
from outbox.messages import Command, Event, Message, MessageType, type_of
from outbox.wire.codec import check_class

__all__ = ["Context", "Handler", "Handlers"]

M = TypeVar("M", bound=Message)
R = TypeVar("R")

_OF_ONE = "session", "message", "context"
_OF_LISTS = "session", "messages", "contexts"


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

    def outside(
        self,
        message_class: type[Command[R]],
        *,
        timeout: float = OUTSIDE_SECONDS,
        keyed: bool,
        key_valid_for: timedelta = KEY_VALID_FOR,
        before: Before | None = None,
        after: After[R] | None = None,
    ) -> OnOutside[R]:
        """Register `(command, context)`, which calls a provider: without a transaction, and with
        `context.id` as the key of the call. It returns the command's own value, or Done or Refused;
        Pending, where the provider answers later on a way of its own, by `Service.complete`; Locked
        or Ongoing, which say that definitely nothing happened.

        That it begins is stored before, its result after. An exception, `timeout` seconds or a
        death leave it in doubt. It is then called again, under the same key, if the provider is
        `keyed`: if it promises that a repetition within `key_valid_for` of the first call has no
        second effect. Without that promise, and later, the command is UNKNOWN: nothing is called
        again. A Refused that follows a doubt counts only where it is keyed.

        A coroutine is cut off at the timeout. A plain function runs in a thread, which goes on, and
        a repetition may overlap with it: its late result still counts.

        `before(session, command, context)` runs once, in the transaction that stores the call.
        Refused or Locked end the matter; any other value, of JSON's own types, is `context.before`
        in each attempt. `after(session, command, reply, context)` runs in the transaction that
        stores the result: the command's value, or Refused, after which it takes back what `before`
        wrote. Where it raises, the result is kept, the command FAILED, and `after` tried again. It
        is not called after Pending, nor for a success that comes after the command's undo: that
        undo comes once more.

        Raises InvalidHandlers and InvalidMessage as `on` does.
        """

        def register(function: Callable[..., Any]) -> None:
            call = outside_of(
                message_class,
                function,
                timeout=timeout,
                keyed=keyed,
                key_valid_for=key_valid_for,
                before=before,
                after=after,
            )
            self.keep_outside(message_class, call)

        return OnOutside(register)

    def keep_outside(self, message_class: type[Message], call: Outside) -> None:
        """Register a call to the outside that is made up already, as `outside` does it."""
        self._admit(message_class)
        first = call.first
        self._keep(Handler(message_class, first, False, is_async(first), outside=call))

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
        self._admit(cls)
        check_signature(cls, function, *(_OF_LISTS if takes_lists else _OF_ONE))
        handler = Handler(cls, function, takes_lists, is_async(function), timeout)
        if timeout is not None and not 0 < timeout < float("inf"):
            raise InvalidHandlers(
                f"the timeout of {handler.name} is {timeout!r}",
                next_step="give the seconds that a call may take",
            )
        self._keep(handler)

    def _admit(self, cls: type[Message]) -> None:
        """Raises InvalidHandlers where these messages can have no handler here, or no other one."""
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

    def _keep(self, handler: Handler) -> None:
        check_class(handler.message_class)
        for rule in self._rules:
            rule(handler)
        self._by_type[handler.type] = handler
