"""Envelopes and replies as the messages of `v1/messages.proto`, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from outbox.errors import MalformedEnvelope
from outbox.replies import Reply
from outbox.transports.grpc.v1 import messages_pb2 as v1
from outbox.wire import attributes as at
from outbox.wire import reply_json, strict_json
from outbox.wire.envelope import JSON, Envelope, from_texts, replies_to, texts_of


def request_of(envelopes: Sequence[Envelope]) -> bytes:
    """A DeliverRequest. Raises ValueError where an envelope cannot be written."""
    written = (
        v1.Envelope(**texts_of(each), datacontenttype=JSON, data=each.data) for each in envelopes
    )
    return v1.DeliverRequest(envelopes=written).SerializeToString()


def envelopes_in(body: bytes) -> list[Envelope]:
    """The envelopes of a DeliverRequest, in order. Raises MalformedEnvelope naming position (from
    0) and attribute; then none of the batch may be used."""
    request = _read(v1.DeliverRequest(), body)
    return [_envelope(event, position) for position, event in enumerate(request.envelopes)]


def response_of(envelopes: Sequence[Envelope], replies: Sequence[Reply]) -> bytes:
    """A DeliverResponse to these envelopes. Raises ValueError where a value is no JSON, or there
    are more or fewer replies than envelopes."""
    written = []
    for asked, reply in zip(envelopes, replies, strict=True):
        fields = reply_json.value_of(reply)
        if "value" in fields:
            fields["value"] = strict_json.dumps(fields["value"])
        written.append(v1.Reply(causationid=asked.id, **fields))
    return v1.DeliverResponse(replies=written).SerializeToString()


def replies_in(body: bytes, ids: Sequence[str]) -> list[Reply]:
    """The replies to the messages `ids`, in that order; answers to others are ignored.

    Raises MalformedEnvelope where the body is no DeliverResponse, or one of them is missing.
    """
    response = _read(v1.DeliverResponse(), body)
    answers: dict[str | None, Reply] = {}
    for position, reply in enumerate(response.replies):
        try:
            answers[reply.causationid] = _reply(reply)
        except ValueError as error:
            raise at.wrong("reply", position, f"cannot be read: {error}") from None
    return replies_to(ids, answers)


def _envelope(event: v1.Envelope, position: int) -> Envelope:
    fields = _set(event)
    return from_texts(fields, fields.pop("data", b""), position)


def _reply(reply: v1.Reply) -> Reply:
    fields = _set(reply)
    if "value" in fields:
        fields["value"] = strict_json.loads(fields["value"])
    if not math.isfinite(fields.get("retry_after", 0.0)):
        raise ValueError(f"'retry_after' is {fields['retry_after']!r}, not a number of seconds")
    return reply_json.from_fields(fields)


def _set(message: Any) -> dict[str, Any]:
    """The fields that are set, by name: what this version does not know is not among them."""
    return {field.name: value for field, value in message.ListFields()}


def _read(message: Any, body: bytes) -> Any:
    try:
        message.ParseFromString(body)
    except (DecodeError, ValueError) as error:
        raise MalformedEnvelope(
            f"the body is no {message.DESCRIPTOR.full_name}: {error}",
            next_step="send what outbox/transports/grpc/v1/messages.proto declares",
        ) from None
    return message
