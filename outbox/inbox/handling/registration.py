"""The registration of a handler: the decorators, and whether a function can be one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, get_type_hints, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.errors import InvalidHandlers
from outbox.messages import Message
from outbox.replies import Done, Locked, Ongoing, Pending, Refused

if TYPE_CHECKING:
    from outbox.inbox.handling.handler import Context

M = TypeVar("M", bound=Message)
R = TypeVar("R")
Result: TypeAlias = "R | Done[R] | Refused | Locked | Ongoing | Pending"


class On(Generic[R]):
    """The decorator that `Handlers.on` gives; `R` is what the handler must return."""

    def __init__(self, register: Callable[[Callable[..., Any]], None]) -> None:
        self._register = register

    @overload
    def __call__(
        self, function: Callable[[AsyncSession, M, Context], Coroutine[Any, Any, Result[R]]]
    ) -> Callable[[AsyncSession, M, Context], Coroutine[Any, Any, Result[R]]]: ...
    @overload
    def __call__(
        self, function: Callable[[Session, M, Context], Result[R]]
    ) -> Callable[[Session, M, Context], Result[R]]: ...
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self._register(function)
        return function


class OnList(Generic[R]):
    """The decorator that `Handlers.on_list` gives."""

    def __init__(self, register: Callable[[Callable[..., Any]], None]) -> None:
        self._register = register

    @overload
    def __call__(
        self,
        function: Callable[
            [AsyncSession, Sequence[M], Sequence[Context]],
            Coroutine[Any, Any, Sequence[Result[R]]],
        ],
    ) -> Callable[
        [AsyncSession, Sequence[M], Sequence[Context]], Awaitable[Sequence[Result[R]]]
    ]: ...
    @overload
    def __call__(
        self,
        function: Callable[[Session, Sequence[M], Sequence[Context]], Sequence[Result[R]]],
    ) -> Callable[[Session, Sequence[M], Sequence[Context]], Sequence[Result[R]]]: ...
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self._register(function)
        return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - not to see if it is callable
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def name_of(function: Callable[..., Any]) -> str:
    """The function's own name, for people."""
    return getattr(function, "__qualname__", repr(function))


def check_signature(cls: type[Message], function: Callable[..., Any], *parameters: str) -> None:
    """Raises InvalidHandlers where the function cannot be called for these messages: with such
    parameters, and one of them a `message` or `command` of that class."""
    name = name_of(function)
    expected = f"({', '.join(parameters)})"
    try:
        signature = inspect.signature(function)
        signature.bind(*parameters)
    except (TypeError, ValueError):
        raise InvalidHandlers(
            f"{name} cannot be called as {expected}",
            next_step=f"declare it as def {name}{expected}",
        ) from None
    position = next((at for at, it in enumerate(parameters) if it in ("message", "command")), None)
    if position is None:
        return
    parameter = list(signature.parameters.values())[position : position + 1]
    try:
        hints = get_type_hints(function)
    except Exception:  # without resolved hints there is nothing to check
        return
    hint = hints.get(parameter[0].name) if parameter else None
    if not isinstance(hint, type) or not issubclass(hint, Message) or issubclass(cls, hint):
        return
    raise InvalidHandlers(
        f"{name} is registered for {cls.__name__} and declares to take {hint.__name__}",
        next_step="register it for the class that it takes",
    )
