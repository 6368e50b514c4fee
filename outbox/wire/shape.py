"""The writer and reader of one type's values, from the schema that pydantic derives.

Users' classes stay plain dataclasses. Pydantic keeps its settings on the classes themselves, so
they are put into the schema, at every level of it. (Its own models keep theirs.)
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
from pydantic_core import SchemaSerializer, SchemaValidator, core_schema

from outbox.wire.attributes import moment, written

_SETTINGS = core_schema.CoreConfig(
    extra_fields_behavior="ignore",
    allow_inf_nan=False,
    # Written as it is, so that the strict reader finds it; the default would write null instead.
    ser_json_inf_nan="constants",
    ser_json_bytes="base64",
    val_json_bytes="base64",
)


class Shape:
    """The writer and reader of one type's values. Made once for each type: see `shape_of`."""

    def __init__(self, schema: core_schema.CoreSchema) -> None:
        strict = _tightened(schema)
        self._serializer = SchemaSerializer(strict, _SETTINGS)
        self._validator = SchemaValidator(strict, _SETTINGS)

    def write(self, value: object) -> bytes:
        """Compact JSON. Raises ValueError where a value is not of its declared type.

        Not every misfit is found (None passes for a str): only `read` tells.
        """
        return self._serializer.to_json(value, warnings="error")

    def write_briefly(self, value: object) -> bytes:
        """The same without the fields of dataclasses that have their defaults."""
        return self._serializer.to_json(value, warnings="error", exclude_defaults=True)

    def write_only(self, value: object, names: set[str]) -> bytes:
        """The same of these fields of a dataclass alone."""
        return self._serializer.to_json(value, warnings="error", include=names)

    def read(self, data: bytes) -> Any:
        """The value. Raises ValueError; a pydantic ValidationError where a field does not fit."""
        return self._validator.validate_json(data, strict=True)


def _tightened(node: Any) -> Any:
    """The schema with our settings on every class, every time held to UTC, and every set sorted."""
    match node:
        case {"type": "datetime"}:
            # The node itself comes second, for the limits that its author may have put on it.
            return core_schema.chain_schema([_TIME_READER, node], serialization=_TIME_WRITER)
        case dict():
            tight = {key: _tightened_part(key, part) for key, part in node.items()}
            match node:
                case {"type": "dataclass" | "typed-dict"}:
                    tight["config"] = {**node.get("config", {}), **_SETTINGS}
                case {"type": "set" | "frozenset"}:
                    tight["serialization"] = _SET_WRITER
                case _:
                    pass
            return tight
        case list():
            return [_tightened(each) for each in node]
        case _:
            return node


def _tightened_part(key: str, part: Any) -> Any:
    match key, part:
        case (("default" | "metadata"), _):
            return part  # the user's own values, not parts of the schema
        case (("fields" | "choices"), dict()):
            return {name: _tightened(each) for name, each in part.items()}  # names are the user's
        case _:
            return _tightened(part)


def _write_time(value: datetime) -> str:
    if not isinstance(value, datetime):
        raise ValueError(f"Expected a datetime, and it is {value!r}")
    return written(value)


def _write_set(value: Any, write: core_schema.SerializerFunctionWrapHandler) -> list[Any]:
    # The order of a set differs from process to process, and a message must not: sent again by
    # another one, it would look like another message under the same id.
    return sorted(write(value), key=orjson.dumps)


_SET_WRITER = core_schema.wrap_serializer_function_ser_schema(_write_set, when_used="json")
_TIME_READER = core_schema.no_info_plain_validator_function(moment)
_TIME_WRITER = core_schema.plain_serializer_function_ser_schema(
    _write_time, return_schema=core_schema.str_schema(), when_used="json"
)
