"""The row of the outbox that holds an envelope; `envelope.from_row` is the way back."""

from __future__ import annotations

from typing import Any

from outbox.wire.envelope import Envelope, headers_json


def to_row(envelope: Envelope, destination: str, bucket: int) -> dict[str, Any]:
    """The values of its columns, those excepted that the database gives."""
    return {
        "id": envelope.id,
        "destination": destination,
        "bucket": bucket,
        "aggregatetype": envelope.type.partition(".")[0],
        "aggregateid": envelope.key,
        "type": envelope.type,
        "payload": envelope.data.decode(),
        "headers": headers_json(envelope),
        "occurred_at": envelope.time,
    }
