"""Messages of others as declared events: what the caller's function makes of them, under an id that
follows from theirs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from outbox.errors import MalformedEnvelope
from outbox.ids import compose, derive
from outbox.messages import Event, Message, type_of
from outbox.safe_text import described, fit
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.topics.foreign import ForeignMessage, foreign_of
from outbox.wire import attributes
from outbox.wire.codec import encode
from outbox.wire.envelope import MAX_NAME_LENGTH, Envelope

log = logging.getLogger("outbox.brokers")

Map = Callable[[ForeignMessage], Message | None]
"""Makes a declared event of a message, or None where it is not for this service. What it raises is
why the message is set aside."""
TheirId = str | Callable[[ForeignMessage], str | None] | None
"""Where the id of a message is: a header of that name, or what the function finds. Without it, the
`id` and `source` of the CloudEvent that it is."""

_PARENT = compose(0, 0)
_LONGEST_ID = 1000
_LONGEST_WHY = 300
"""So that the next step behind it is kept, too, where the message is held."""


@dataclass(frozen=True)
class Mapping:
    """How the messages of one topic become events. `clock` tells when a message came whose broker
    does not say when it took it."""

    topic: str
    map: Map
    id: TheirId
    now: Callable[[], datetime]

    def read(self, packet: Packet) -> Envelope | None:
        """The envelope of the event, as the inbox takes it; None where it is not for this service.

        Raises MalformedEnvelope where the message cannot be mapped.
        """
        foreign = foreign_of(packet, self.topic, self.now())
        try:
            message = self.map(foreign)
        except Exception as error:
            log.warning("a message of %s cannot be mapped", self.topic, exc_info=True)
            raise self._unmapped(f"{type(error).__name__}: {error}") from error
        if message is None:
            return None
        if not isinstance(message, Event):
            raise self._unmapped(f"the function gave a {type(message).__name__}, which is no event")
        try:
            return Envelope(
                id=inbox_id(foreign, self.id),
                source=source_of(self.topic),
                type=str(type_of(message)),
                key=message.message_key,
                time=foreign.at,
                data=encode(message),
                due=foreign.at,
                trace=_trace(foreign),
            )
        except Exception as error:  # the function for ids is the service's own, too
            raise self._unmapped(described(error)) from error

    def _unmapped(self, why: str) -> MalformedEnvelope:
        return MalformedEnvelope(
            fit(f"a message of the topic {self.topic} became no event: {why:.{_LONGEST_WHY}}"),
            next_step="correct the function that maps, and redrive the held message; or drop it",
        )


def inbox_id(foreign: ForeignMessage, id: TheirId) -> str:
    """The id under which the inbox knows the message, on any way that it came. Raises ValueError
    where it has none of its own."""
    if id is None:
        told = foreign.attributes
        name, source = told.get("id"), told.get("source")
        if not isinstance(name, str) or not isinstance(source, str) or not name or not source:
            raise ValueError("it is no CloudEvent with id and source; say where its id is: id=...")
        return derive(_PARENT, "cloudevent", source, name)
    theirs = foreign.headers.get(id.lower()) if isinstance(id, str) else id(foreign)
    if not isinstance(theirs, str) or not 0 < len(theirs) <= _LONGEST_ID:
        where = f"the header {id}" if isinstance(id, str) else "what the function for ids gives"
        raise ValueError(
            f"it has no id: {where} is {theirs!r:.50}; let its sender give it one, or say where "
            "another id is that is the same each time: id=..."
        )
    return derive(_PARENT, "topic", foreign.topic, theirs)


def source_of(topic: str) -> str:
    """The name of a topic among senders and queues, which no service can have."""
    name = f"topic:{topic}"
    if len(name) <= MAX_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME_LENGTH - 17]}-{digest}"


def _trace(foreign: ForeignMessage) -> str | None:
    return attributes.trace(
        foreign.attributes.get("traceparent") or foreign.headers.get("traceparent")
    )
