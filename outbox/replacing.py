"""Values of frozen dataclasses with slots, made and copied in a quarter of the usual time: those
that are made anew at each step of a run.

The constructor that `dataclasses` writes sets each field of a frozen class by a call, and that is
most of what such a value costs. Here a value is filled while it is of a *twin*, a class with the
same slots that is not frozen, and then gets its own class. As in `dataclasses`, the functions that
do so are compiled for each class, from the names of its fields.

A class that checks its values in `__post_init__` is not for this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

V = TypeVar("V")


def quick(cls: type[V]) -> type[V]:
    """Give the dataclass a constructor that takes the same and is quicker. Raises TypeError where
    it is none of those that this is for, or has a field that goes by name only or has a factory.

    Put it above `@dataclass(frozen=True, slots=True)`.
    """
    kind: Any = cls
    made, plain = _fields_of(kind), kind.__init__
    known = {"_twin": _twin_of(kind), "_cls": cls, "_plain": plain, "_set": object.__setattr__}
    taken = ["_self"]
    for it in made:
        if not it.init or it.kw_only or it.default_factory is not MISSING:
            raise TypeError(
                f"the field {it.name!r} of {cls.__name__} is no argument of its constructor, goes "
                "by name only, or has a factory"
            )
        known[f"_default_{it.name}"] = it.default
        is_needed = it.default is MISSING
        taken.append(it.name if is_needed else f"{it.name}=_default_{it.name}")
    names = [it.name for it in made]
    code = [
        f"def __init__({', '.join(taken)}):",
        # One of a class below this one may have other slots.
        "    if _self.__class__ is not _cls:",
        f"        return _plain({', '.join(['_self', *names])})",
        "    _set(_self, '__class__', _twin)",
        *(f"    _self.{it} = {it}" for it in names),
        "    _self.__class__ = _cls",
    ]
    kind.__init__ = functools.wraps(plain)(_compiled("__init__", code, known))
    return cls


if TYPE_CHECKING:
    # Checkers know what that one takes, for each class.
    from dataclasses import replace as replace  # noqa: PLC0414 - it is this module's name
else:

    def replace(value: Any, /, **changes: Any) -> Any:
        """A copy of the value with these fields changed, made without its constructor. Raises
        TypeError where its class is none of those, or has no such field."""
        cls = type(value)
        copied = _copied(cls)
        try:
            return copied(value, **changes)
        except TypeError:
            for name in changes.keys() - {it.name for it in fields(cls)}:
                raise TypeError(f"{cls.__name__} has no field {name!r}") from None
            raise


@functools.cache
def _copied(cls: Any) -> Callable[..., Any]:
    """What makes a copy of a value of that class, with these fields changed."""
    names = [it.name for it in _fields_of(cls)]
    known = {"_twin": _twin_of(cls), "_cls": cls, "_new": object.__new__, "_kept": object()}
    code = [
        f"def replace(_value, /, *, {', '.join(f'{it}=_kept' for it in names)}):",
        "    _copy = _new(_twin)",
        *(f"    _copy.{it} = _value.{it} if {it} is _kept else {it}" for it in names),
        "    _copy.__class__ = _cls",
        "    return _copy",
    ]
    return _compiled("replace", code, known)


def _fields_of(cls: Any) -> tuple[Field[Any], ...]:
    """The fields of a class for which this is."""
    if "__slots__" not in vars(cls) or hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__} is no dataclass with slots and without __post_init__")
    return fields(cls)


@functools.cache
def _twin_of(cls: Any) -> type[Any]:
    """A class with the same slots, whose instances can be changed, and can become ones of `cls`."""
    members: dict[str, Any] = {
        "__slots__": vars(cls)["__slots__"],
        "__setattr__": object.__setattr__,
        "__module__": cls.__module__,
    }
    if "__orig_bases__" in vars(cls):  # a generic class says here of what
        members["__orig_bases__"] = vars(cls)["__orig_bases__"]
    return type(f"{cls.__name__} in the making", cls.__bases__, members)


def _compiled(name: str, code: Sequence[str], known: dict[str, Any]) -> Callable[..., Any]:
    """The function that these lines define; they may use what is `known`."""
    exec("\n".join(code), known)
    compiled: Callable[..., Any] = known[name]
    return compiled
