"""Python types as JSON: pydantic's reading of them, made strict and the same everywhere.

Of which types what arrives would not be what was sent, `declarations` says.
"""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from outbox.errors import InvalidMessage
from outbox.wire.declarations import flaw_in
from outbox.wire.shape import Shape


def shape_of(tp: Any) -> Shape:
    """The shape of a class or type. Raises InvalidMessage where JSON cannot carry it, or where what
    arrives would not be what was sent."""
    return _made(tp)


@functools.lru_cache(maxsize=4096)
def _made(tp: Any) -> Shape:
    name = tp.__qualname__ if isinstance(tp, type) else str(tp)
    try:
        schema = TypeAdapter(tp).core_schema
        shape = Shape(schema)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise InvalidMessage(
            f"{name} cannot be sent, since not all of its fields have a form in JSON: "
            f"{str(error).splitlines()[0]}",
            next_step="give its fields types that JSON can carry, and declare those types at the "
            "top level of a module",
        ) from error
    flaw = flaw_in(schema)
    if flaw is not None:
        raise InvalidMessage(
            f"{name} would not arrive as it was sent: {flaw.problem}", next_step=flaw.next_step
        )
    return shape
