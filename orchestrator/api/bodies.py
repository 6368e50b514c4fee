"""A saga's input, read strictly as its own class."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput
from outbox.chassis.http.problems import HttpProblem
from outbox.errors import InvalidMessage
from outbox.wire import strict_json
from outbox.wire.codec import decode_value

S = TypeVar("S")

IN_OPENAPI = {
    "requestBody": {
        "required": True,
        "description": "The saga's input; GET /definitions/{name} has its schema",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}
"""The description, in the OpenAPI document, of a body that the framework does not read."""


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises HttpProblem where it is none that every database can
    keep."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HttpProblem(
            415,
            "unsupported-media-type",
            f"The body is {media_type[:100]!r}, and must be application/json.",
            next_step="Send one JSON object with content-type: application/json.",
        )
    try:
        value = strict_json.check(await request.body())
    except ValueError as error:
        raise HttpProblem(
            400,
            "malformed-json",
            f"The body cannot be read: {error}.",
            next_step="Send one JSON object, encoded in UTF-8, as application/json.",
        ) from None
    if not isinstance(value, dict):
        raise InvalidInput(
            f"the body is a JSON {_KINDS[type(value)]} and no object",
            next_step='send an object with the fields of the input, such as {"field": "value"}',
        )
    return value


def read_input(saga: Saga[S], body: dict[str, Any]) -> S:
    """The input as the saga's own class. Raises InvalidInput, which names the field."""
    try:
        return decode_value(saga.state, body)
    except InvalidMessage as error:
        raise InvalidInput(
            error.problem,
            next_step=f"see the schema of its input: GET /definitions/{saga.name}/{saga.version}",
        ) from error


_KINDS: dict[type[Any], str] = {
    list: "array",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
