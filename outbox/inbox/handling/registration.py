"""The registration of a handler: the decorators, and whether a function can be one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, get_type_hints, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.errors import InvalidHandlers
from outbox.inbox.handling.context import Context
from outbox.messages import Message
from outbox.replies import Done, Locked, Ongoing, Pending, Refused

M = TypeVar("M", bound=Message)
R = TypeVar("R")
_OF_MESSAGES = ("message", "command")
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


def check_signature(cls: type[Message], function: Callable[..., Any], *places: str) -> None:
    """Raises InvalidHandlers where the function cannot be called for these messages: with an
    argument in each of these places, of the type that the function declares there."""
    name = name_of(function)
    expected = f"({', '.join(places)})"
    next_step = f"declare it as def {name}{expected}"
    try:
        signature = inspect.signature(function)
        signature.bind(*places)
    except (TypeError, ValueError):
        raise InvalidHandlers(
            f"{name} cannot be called as {expected}", next_step=next_step
        ) from None
    try:
        hints = get_type_hints(function)
    except Exception:  # without resolved hints there is nothing to check
        return
    for place, parameter in zip(places, signature.parameters, strict=False):
        hint = hints.get(parameter)
        if not isinstance(hint, type):
            continue
        right = _right_places(cls, hint)
        if right and place not in right:
            raise InvalidHandlers(
                f"{name} declares {parameter}: {hint.__name__} where it gets the {place}",
                next_step=next_step,
            )
        if place in _OF_MESSAGES and issubclass(hint, Message) and not issubclass(cls, hint):
            raise InvalidHandlers(
                f"{name} is registered for {cls.__name__} and declares to take {hint.__name__}",
                next_step="register it for the class that it takes",
            )


def _right_places(cls: type[Message], hint: type) -> tuple[str, ...]:
    """The places in which an argument of that type can stand; none where it is not known."""
    if issubclass(hint, Context):
        return ("context",)
    if issubclass(hint, Session | AsyncSession):
        return ("session",)
    return _OF_MESSAGES if issubclass(hint, Message) and issubclass(cls, hint) else ()
