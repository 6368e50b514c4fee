"""A handler: a registered function, and its call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.handling.context import Context
from outbox.inbox.handling.registration import name_of
from outbox.inbox.handling.results import reply_of
from outbox.inbox.outside.registration import Outside, begun
from outbox.messages import Command, Message, reply_type, type_of
from outbox.replies import Locked, Ongoing, Outcome, Pending, Refused, Reply


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
    outside: Outside | None = None
    """The call to the outside that follows; the function is then what comes before it."""

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
        return name_of(self.function)

    @property
    def in_sessions(self) -> tuple[tuple[str, bool], ...]:
        """The names of its functions that get a session, and whether each is async."""
        if self.outside is not None:
            return self.outside.in_sessions
        return ((self.name, self.is_async),)

    @property
    def is_for_commands(self) -> bool:
        """Whether it handles commands, whose answers the sender awaits."""
        return issubclass(self.message_class, Command)

    def _reply_of(self, result: object) -> Reply:
        if self.outside is not None:
            return begun(self.outside, result)
        if issubclass(self.message_class, Command):
            return reply_of(result, reply_type(self.message_class))
        if isinstance(result, Refused | Locked | Ongoing | Pending):
            raise TypeError(
                f"{self.name} returned {_described(result)} for an event, which is a fact "
                "and cannot be refused"
            )
        return Reply(Outcome.DONE)


def _described(result: object) -> str:
    if isinstance(result, Sequence) and not isinstance(result, str):
        return f"{len(result)} in a {type(result).__name__}"
    return type(result).__name__
