"""Messages and replies' values as JSON, and back.

A field takes what pydantic takes for it, read strictly: a text is no number, and a number no text.
Unknown fields are ignored, so that a sender may be newer than its receiver. Bytes travel as base64,
times as RFC 3339 in UTC. `strict_json` tells what is refused besides.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import core_schema

from outbox.errors import InvalidMessage, MessageTooLarge
from outbox.messages import Command, Message, reply_type, type_of
from outbox.wire import strict_json
from outbox.wire.json_types import shape_of
from outbox.wire.sameness import Difference, difference
from outbox.wire.shape import Shape

M = TypeVar("M", bound=Message)
T = TypeVar("T")

MAX_MESSAGE_BYTES = 256 * 1024

_SHOWN_PROBLEMS = 3
# What pydantic's serializer puts around the reason.
_WRAPPING = re.compile(
    r"Pydantic serializer warnings: PydanticSerializationUnexpectedValue\(|(?<=\])\)$"
    r"|Error serializing to JSON: |PydanticSerializationError: |Error calling function `\w+`: "
    r"|ValueError: "
)
_ANYTHING = Shape(core_schema.any_schema())
_SCALARS = frozenset({type(None), bool, int, float, str})


def check_class(cls: type[Message]) -> None:
    """Raise InvalidMessage, which names the field, where a message of that class or the value of
    its reply would not arrive as it was sent."""
    _message_shape(cls)
    if issubclass(cls, Command):
        try:
            shape_of(reply_type(cls))
        except InvalidMessage as error:
            raise InvalidMessage(
                f"the reply to {cls.__name__}: {error.problem}", next_step=error.next_step
            ) from error


def encode(message: Message, *, limit: int = MAX_MESSAGE_BYTES) -> bytes:
    """The JSON of the dataclass' fields, UTF-8. `decode` makes the same message of what it returns,
    with values of the same types at every depth.

    Raises InvalidMessage naming the field that does not fit, MessageTooLarge above `limit` bytes.
    """
    cls, name = type(message), str(type_of(message))
    if "message_type" not in vars(cls):
        _refuse_type_of_another(cls, name)
    return _encoded(_message_shape(cls), message, name, limit)


def decode(cls: type[M], data: bytes) -> M:
    """The message of that class. Raises InvalidMessage naming the field that does not fit."""
    message: M = _decoded(_message_shape(cls), data, str(type_of(cls)))
    return message


def check_size(name: str, data: bytes, limit: int) -> None:
    """Raises MessageTooLarge where the JSON has more than `limit` bytes once it is compact, which
    is what `encode` counts; blanks of a foreign writer do not count."""
    if len(data) > limit:
        size = len(strict_json.dumps(strict_json.loads(data)))
        if size > limit:
            raise MessageTooLarge(name, size, limit)


def encode_value(value: object, tp: Any = Any) -> Any:
    """A reply's value as JSON-ready Python. `decode_value` makes the same value of it, where it is
    given the same `tp`; without one, dataclasses, lists, dicts and scalars are written.

    Raises InvalidMessage where it is no such value, MessageTooLarge above MAX_MESSAGE_BYTES.
    """
    if tp is not Any:
        return strict_json.loads(written_value(value, tp))
    name = f"the value {type(value).__name__}"
    return strict_json.loads(_encoded(_ANYTHING, _in_plain_terms(value), name, MAX_MESSAGE_BYTES))


def written_value(value: object, tp: Any) -> bytes:
    """The same as JSON, UTF-8. Raises what `encode_value` does."""
    name = f"the value {type(value).__name__}"
    return _encoded(shape_of(tp), value, name, MAX_MESSAGE_BYTES)


def decode_value(tp: type[T], value: Any) -> T:
    """A reply's value read as `tp`. Raises InvalidMessage naming the field that does not fit."""
    name = f"the value {getattr(tp, '__name__', tp)}"
    try:
        data = strict_json.dumps(value)
    except ValueError as error:
        raise _misfit(name, error) from None
    decoded: T = _decoded(shape_of(tp), data, name)
    return decoded


def _message_shape(cls: type[Message]) -> Shape:
    # Inherited fields are not enough: those that the class adds itself would be lost in silence.
    if "__dataclass_fields__" not in vars(cls):
        raise InvalidMessage(
            f"{cls.__name__} is not a dataclass",
            next_step="put @dataclass(frozen=True) above the class",
        )
    return shape_of(cls)


def _refuse_type_of_another(cls: type[Message], name: str) -> None:
    declared = next(it for it in cls.__mro__ if "message_type" in vars(it))
    if "__dataclass_fields__" in vars(declared):
        raise InvalidMessage(
            f"{cls.__name__} has its type {name} from {declared.__name__}, and would arrive as one",
            next_step=f"declare a type of its own: class {cls.__name__}(..., type=..., key=...)",
        )


def _encoded(shape: Shape, value: object, name: str, limit: int) -> bytes:
    try:
        data = shape.write(value)
        # Reading what was written costs a few microseconds, and finds here, where the author of
        # the mistake is on the stack, what every receiver would refuse later.
        strict_json.check(data)
        differing = difference(value, shape.read(data))
    except ValueError as error:
        raise _misfit(name, error, _field_at_fault(shape, value)) from None
    if differing is not None:
        raise _changed(name, differing)
    if len(data) > limit:
        raise MessageTooLarge(name, len(data), limit)
    return data


def _decoded(shape: Shape, data: bytes, name: str) -> Any:
    try:
        strict_json.check(data)
        return shape.read(data)
    except ValueError as error:
        raise _misfit(name, error) from None


def _in_plain_terms(value: object) -> Any:
    """The value as lists, dicts and scalars; a typed object is written by the shape of its type."""
    match value:
        case _ if type(value) in _SCALARS:
            return value
        case list() | tuple():
            return [_in_plain_terms(each) for each in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _in_plain_terms(each) for key, each in value.items()}
        case _:
            return strict_json.loads(written_value(value, type(value)))


def _field_at_fault(shape: Shape, value: Any) -> str | None:
    """The first field of a dataclass that cannot be written by itself."""
    # With no field at all, a function of the user's may still write what it likes.
    if not dataclasses.is_dataclass(value) or not _can_be_written(shape, value, set()):
        return None
    names = [it.name for it in dataclasses.fields(value)]
    return next((name for name in names if not _can_be_written(shape, value, {name})), None)


def _can_be_written(shape: Shape, value: object, names: set[str]) -> bool:
    try:
        strict_json.check(shape.write_only(value, names))
    except ValueError:
        return False
    return True


def _misfit(name: str, error: ValueError, field: str | None = None) -> InvalidMessage:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [_field_problem(each["loc"], each["msg"]) for each in found[:_SHOWN_PROBLEMS]]
        if len(found) > _SHOWN_PROBLEMS:
            problems.append(f"and {len(found) - _SHOWN_PROBLEMS} more")
        problem = ", ".join(problems)
    else:
        problem = _WRAPPING.sub("", " ".join(str(error).split()))
        problem = _field_problem(() if field is None else (field,), problem)
    return InvalidMessage(
        f"{name} does not fit its declaration: {problem}",
        next_step="send what the class in the owner's contract declares",
    )


def _changed(name: str, differing: Difference) -> InvalidMessage:
    return InvalidMessage(
        f"{name} would not arrive as it was sent: "
        f"{_field_problem(differing.path, differing.problem)}",
        next_step="give the field a value of exactly the type that it declares, or declare what is "
        "given; docs/guide/messages.md says what comes back as it was",
    )


def _field_problem(path: tuple[int | str, ...], problem: str) -> str:
    return f"field {'.'.join(map(str, path))!r}: {problem}" if path else problem
