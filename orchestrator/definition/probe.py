"""The probe of a step's function: finds the class of its command without any real state.

A return annotation names the command. A lambda is called once with a stand-in that answers every
attribute, item and call with itself; the command that it returns has the class.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Any

from outbox.errors import InvalidMessage
from outbox.messages import Command, type_of


class _Anything:
    """A stand-in for a value of any type while a lambda is probed."""

    def __getattr__(self, _name: str) -> _Anything:
        return self

    def __getitem__(self, _key: object) -> _Anything:
        return self

    def __call__(self, *_: object, **__: object) -> _Anything:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "?"

    def _same(self, *_: object) -> _Anything:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _same
    __truediv__ = __floordiv__ = __mod__ = __neg__ = _same


def is_stand_in(value: object) -> bool:
    """Whether it comes from the stand-in of a probe, so that it says nothing."""
    return isinstance(value, _Anything)


def sample_of(make: Callable[[Any], Command[Any]]) -> Command[Any]:
    """A command that `make` makes of a stand-in. Raises InvalidMessage."""
    return _made(make)


def command_class(make: Callable[[Any], Command[Any]]) -> type[Command[Any]]:
    """The class of the command that `make` returns. Raises InvalidMessage."""
    found = _annotated(make) or _called(make)
    type_of(found)
    return found


def returned_class(function: Callable[..., Any]) -> type[Any] | None:
    """The class in the function's return annotation; None where there is none, or it is no
    class."""
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception:  # annotations may name what is imported for types only
        return None
    return returned if isinstance(returned, type) else None


def _annotated(make: Callable[[Any], Command[Any]]) -> type[Command[Any]] | None:
    returned = returned_class(make)
    return returned if returned is not None and issubclass(returned, Command) else None


def _called(make: Callable[[Any], Command[Any]]) -> type[Command[Any]]:
    return type(_made(make))


def _made(make: Callable[[Any], Command[Any]]) -> Command[Any]:
    try:
        made = make(_Anything())
    except InvalidMessage:
        raise
    except Exception as error:
        raise InvalidMessage(
            f"it cannot be seen which command it makes ({type(error).__name__}: {error})",
            next_step="write it as a function whose return annotation is the command's class",
        ) from error
    if not isinstance(made, Command):
        raise InvalidMessage(
            f"it makes {type(made).__name__}, which is no Command",
            next_step="return an instance of a Command subclass",
        )
    return made
