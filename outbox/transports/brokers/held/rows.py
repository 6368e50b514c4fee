"""The rows of the held table, as values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from outbox.errors import MalformedEnvelope
from outbox.inbox.batches import order_key
from outbox.replacing import replace
from outbox.safe_text import fit
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.wire import envelope as wire
from outbox.wire.envelope import Envelope


class State(StrEnum):
    """The state of a row."""

    WAITING = "waiting"
    """It is tried again, or waits behind an earlier one of its key."""
    BLOCKED = "blocked"
    """It was given up, and its key stays behind it until an operator redrives or drops it."""
    DEAD = "dead"
    """It was given up, or could never be read, and the rest of its key goes on."""


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row that is to be tried. `attempts` are its failures before this attempt, `revision` is
    that of the row with it; `expires_in` is what is left of its time, in milliseconds."""

    seq: int
    queue: str
    packet: Packet
    undo_lane: bool
    key: str | None
    message_id: str | None
    saga: str | None
    state: State
    attempts: int
    revision: int
    last_error: str
    expires_in: int | None

    @property
    def order_key(self) -> LaneKey | None:
        """The key that it holds; None where it was never read."""
        return None if self.key is None else (self.undo_lane, self.key)

    def changed(self) -> HeldRow:
        """The row after one more change of it in the database."""
        return replace(self, revision=self.revision + 1)

    def envelope(self) -> Envelope:
        """The message in it, as it would come from the broker now. Raises MalformedEnvelope where
        the row was changed by another program."""
        read = wire.from_structured(self.packet.body)
        return read if self.expires_in is None else replace(read, expires_in=self.expires_in)


def read_row(row: Any) -> HeldRow:
    """The row of the table, with the database's time in `read_at`."""
    left = None
    if row.expires_at is not None:
        left = (row.expires_at - row.read_at) // timedelta(milliseconds=1)
    return HeldRow(
        seq=row.seq,
        queue=row.queue,
        packet=Packet(row.partition, json.loads(row.headers), row.body, row.key or ""),
        undo_lane=row.undo_lane,
        key=row.key,
        message_id=row.message_id,
        saga=row.saga,
        state=State(row.state),
        attempts=row.attempts,
        revision=row.revision,
        last_error=row.last_error,
        expires_in=left,
    )


def new_row(item: ToHold, consumer: str, now: datetime) -> dict[str, Any]:
    """The row of a packet that is held now, which has no turn yet."""
    envelope = item.envelope
    row: dict[str, Any] = {
        "consumer": consumer,
        "queue": item.queue,
        "partition": item.packet.partition,
        # In ASCII, since headers of strangers may have what no database takes.
        "headers": json.dumps(dict(item.packet.headers)),
        "body": item.packet.body,
        "fingerprint": fingerprint(item),
        "attempts": item.attempts,
        "revision": 0,
        "next_at": None,
        "last_error": fit(item.error),
        "held_at": now,
    }
    if envelope is None:
        unread = dict.fromkeys(("key", "message_id", "type", "source", "saga", "expires_at"))
        return row | unread | {"undo_lane": False, "state": State.DEAD.value}
    left = envelope.expires_in
    return row | {
        "undo_lane": order_key(envelope)[0],
        "key": envelope.key,
        "message_id": envelope.id,
        "type": envelope.type,
        "source": envelope.source,
        "saga": envelope.correlation if is_awaited(envelope) else None,
        "expires_at": None if left is None else wire.moment_in(now, left),
        "state": _state_of(item).value,
    }


def _state_of(item: ToHold) -> State:
    if not item.is_dead:
        return State.WAITING
    return State.BLOCKED if item.blocks else State.DEAD


def as_read(packet: Packet, envelope: Envelope) -> Packet:
    """The packet with the message that was read of it, as the worker reads it again. A packet of
    others has another body."""
    try:
        if wire.from_structured(packet.body).id == envelope.id:
            return packet
    except MalformedEnvelope:
        pass
    headers = {"content-type": wire.STRUCTURED}
    return Packet(packet.partition, headers, wire.to_structured(envelope), envelope.key)


def is_awaited(envelope: Envelope) -> bool:
    """Whether it is the command of a saga, which waits for the answer."""
    return envelope.correlation is not None and envelope.reply_to == envelope.source


def fingerprint(item: ToHold) -> bytes:
    """What two packets share if one of them is a copy of the other: 32 bytes.

    Of a message that was read it covers its sender, its id and what it asks for, since copies may
    differ in how they travelled; of another packet it covers the bytes, and its mark.
    """
    if item.envelope is None:
        parts = [b"packet", item.queue.encode(), item.packet.body, *filter(None, [item.mark])]
    else:
        read = item.envelope
        what = wire.fingerprint(read)
        parts = [b"message", item.queue.encode(), read.source.encode(), read.id.encode(), what]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.digest()
