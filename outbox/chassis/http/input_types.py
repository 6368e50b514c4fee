"""The types of texts and ids that services take from clients."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from outbox.wire.attributes import moment

NO_NUL = r"^[^\x00]*$"
"""The pattern of a text that every database can store: PostgreSQL takes no NUL in one."""


def canonical_id(text: str) -> str:
    """A UUID in its one canonical form. Raises ValueError where it is none."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError("it is not an id; ids are UUIDs, in the form that was given out") from None


def id_in_path(text: str) -> str | None:
    """The id in an address, or None where it cannot be one."""
    try:
        return canonical_id(text)
    except ValueError:
        return None


_HEX = "[0-9a-fA-F]"
ID_PREFIX = "^(H{1,8}|H{8}-(H{0,4}|H{4}-(H{0,4}|H{4}-(H{0,4}|H{4}-H{0,12}))))$".replace("H", _HEX)
"""The pattern of the beginning of an id in its canonical form, in either case."""


def ids_that_begin(prefix: str) -> tuple[str, str]:
    """The first and the last id that can begin so; `prefix` is as ID_PREFIX has it."""
    digits = prefix.replace("-", "")
    return str(uuid.UUID(digits.ljust(32, "0"))), str(uuid.UUID(digits.ljust(32, "f")))


AnyId = Annotated[
    str, AfterValidator(canonical_id), WithJsonSchema({"type": "string", "format": "uuid"})
]
"""An id in a body or a query: any UUID, made canonical; everything else is a 422."""

Moment = Annotated[datetime, BeforeValidator(moment)]
"""A time in a query, with its zone: a moment in UTC; everything else is a 422."""
