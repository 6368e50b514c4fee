"""Messages as packets: one CloudEvent in structured mode, signed.

The signature covers the body, the name of the queue and the orchestrator's statement about ended
sagas. Its time counts for nothing here, since a packet may rest in a broker for days: what comes
twice, or late, is for the inbox to tell.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import datetime

from outbox.errors import MalformedEnvelope
from outbox.replacing import replace
from outbox.transports.brokers.broker import Packet
from outbox.transports.http.signing import Keyring, require_signature, sign
from outbox.wire.envelope import (
    STRUCTURED,
    Envelope,
    from_structured,
    from_texts,
    texts_of,
    to_structured,
)
from outbox.wire.settled import EndedSagas

_METHOD = "PUBLISH"


def partition_of(key: str, partitions: int) -> int:
    """The partition of an order key; the same for ever, as long as their number is."""
    return zlib.crc32(key.encode()) % partitions


def packed(
    envelope: Envelope,
    queue: str,
    partitions: int,
    *,
    keys: Keyring,
    now: datetime,
    statement: Mapping[str, str] | None = None,
) -> Packet:
    """The envelope as a packet for that queue. What is left of its time is left out: it may rest on
    its way, and its end says the same. Raises MalformedEnvelope or ValueError where no receiver
    could read it. `statement` are the headers of one about ended sagas."""
    if envelope.expires_in is not None:
        envelope = replace(envelope, expires_in=None)
    body = to_structured(envelope)
    # As a receiver checks it, without the cost of reading the body that was just written.
    from_texts(texts_of(envelope), envelope.data, None)
    headers = {"content-type": STRUCTURED}
    if statement is not None:
        headers |= {name.lower(): value for name, value in statement.items()}
    signed = sign(keys, method=_METHOD, target=queue, headers=headers, body=body, now=now)
    headers |= {name.lower(): value for name, value in signed.items()}
    return Packet(partition_of(envelope.key, partitions), headers, body, envelope.key)


def unpacked(packet: Packet, queue: str, *, keys: Keyring) -> tuple[Envelope, EndedSagas | None]:
    """The envelope in a packet of that queue, and what it says of ended sagas.

    Raises UntrustedRequest where it is not signed by one of these keys for that queue, and
    MalformedEnvelope.
    """
    require_signature(keys, method=_METHOD, target=queue, headers=packet.headers, body=packet.body)
    return from_structured(packet.body), _statement(packet)


def _statement(packet: Packet) -> EndedSagas | None:
    try:
        return EndedSagas.from_headers(packet.headers)
    except MalformedEnvelope:
        # Without it the inbox only remembers for longer.
        return None
