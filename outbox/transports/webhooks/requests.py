"""Requests of a webhook: events as headers and a body."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from outbox.transports.webhooks.webhook import Mode
from outbox.wire.envelope import (
    BATCH,
    STRUCTURED,
    Envelope,
    from_structured,
    to_batch,
    to_binary,
    to_structured,
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request before it is signed. `id` is the same each time that the same events are sent
    together: the event's own id, or one made from those of a batch."""

    id: str
    headers: dict[str, str]
    body: bytes


def request_of(mode: str, envelopes: Sequence[Envelope]) -> Request:
    """The request with these events; one alone, except in a batch."""
    match mode:
        case Mode.BATCH:
            ids = " ".join(each.id for each in envelopes)
            id = f"batch-{hashlib.sha256(ids.encode()).hexdigest()[:32]}"
            return Request(id, {"content-type": BATCH}, to_batch(envelopes))
        case Mode.BINARY:
            headers, body = to_binary(envelopes[0])
            return Request(envelopes[0].id, headers, body)
        case _:
            body = to_structured(envelopes[0])
            return Request(envelopes[0].id, {"content-type": STRUCTURED}, body)


def check(envelope: Envelope) -> None:
    """Raises MalformedEnvelope or ValueError where no subscriber could read the event."""
    from_structured(to_structured(envelope))


def is_command(envelope: Envelope) -> bool:
    """Whether it asks for an answer, which no subscriber gives."""
    return envelope.reply_to is not None or bool(envelope.undoes)
