"""The envelope around a message: CloudEvents 1.0, with extensions of ours.

Pure: bytes in, values out. See `docs/guide/messages.md` for the attributes on the wire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from outbox.errors import MalformedEnvelope
from outbox.messages import MAX_KEY_LENGTH, MAX_TYPE_LENGTH
from outbox.replacing import quick, replace
from outbox.replies import Reply
from outbox.wire import attributes as at
from outbox.wire import reply_json, strict_json

SPEC_VERSION = "1.0"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
JSON = "application/json"
REPLY_TYPE = "sagabox.reply.v1"

MAX_NAME_LENGTH = 100
"""The longest `source` and `reply_to`; they are names of services."""


@quick
@dataclass(frozen=True, slots=True)
class Envelope:
    """One message on its way. `data` is the exact JSON of the payload, UTF-8.

    On the wire: `key` is `partitionkey`, `correlation` (the saga) `correlationid`, `causation` the
    id of the message that caused this one, `trace` a W3C `traceparent`, `undoes` the ids of the
    commands that this one compensates, separated by single spaces, `expires` is `expirytime`,
    `expires_in` is `expiresin`, `due` and `run_number` are `due` and `runnumber`.

    `due` is when the message was to leave at the earliest: fixed when it was added, and the same in
    each copy, so that a receiver can tell its age. `run_number` is the number that the run got when
    it began. Either is None where the sender is older than the attribute.

    `expires_in` is what is left until `expires`, in milliseconds, by the clock of the sender when
    it sends: so a receiver need not have the same time. A message that is not under way has None.
    """

    id: str
    source: str
    type: str
    key: str
    time: datetime
    data: bytes
    correlation: str | None = None
    causation: str | None = None
    trace: str | None = None
    reply_to: str | None = None
    undoes: tuple[str, ...] = ()
    expires: datetime | None = None
    due: datetime | None = None
    run_number: str | None = None
    expires_in: int | None = None


def sent_at(envelope: Envelope, now: datetime) -> Envelope:
    """The envelope as it is sent at that moment."""
    if envelope.expires is None:
        return envelope
    left = (envelope.expires - now) // timedelta(milliseconds=1)
    return replace(envelope, expires_in=left)


def moment_in(now: datetime, milliseconds: int) -> datetime:
    """When so much time is over, as `expires_in` has it: 15 digits of it reach beyond the years 1
    and 9999, and stand for the first or the last moment then."""
    try:
        return now + timedelta(milliseconds=milliseconds)
    except OverflowError:
        if milliseconds > 0:
            return datetime.max.replace(tzinfo=now.tzinfo)
        return datetime.min.replace(tzinfo=now.tzinfo)


# --- Writing ---------------------------------------------------------------------------------


def to_structured(envelope: Envelope) -> bytes:
    """A CloudEvent in structured mode. `data` is embedded byte for byte.

    Raises ValueError where a time has no zone; so do the other writers.
    """
    return orjson.dumps(_event(envelope), option=orjson.OPT_UTC_Z)


def to_batch(envelopes: Sequence[Envelope]) -> bytes:
    """A CloudEvents batch, in the order given. Each `data` is embedded byte for byte."""
    return orjson.dumps([_event(each) for each in envelopes], option=orjson.OPT_UTC_Z)


def to_binary(envelope: Envelope) -> tuple[dict[str, str], bytes]:
    """Headers (lower case, ASCII) and body of a CloudEvent in HTTP's binary mode."""
    headers = {"content-type": JSON}
    for name, text in texts_of(envelope).items():
        headers[f"ce-{name}"] = at.quoted(text)
    return headers, envelope.data


def texts_of(envelope: Envelope) -> dict[str, str]:
    """Its attributes by name, each as the text that it is in the other modes; without the data."""
    return {
        name: at.written(value) if isinstance(value, datetime) else value
        for name, value in _attributes(envelope).items()
    }


def headers_json(envelope: Envelope) -> str:
    """The `headers` column: all attributes without a column of their own, as short JSON."""
    headers = {"source": envelope.source} | _extensions(envelope)
    return orjson.dumps(headers, option=orjson.OPT_UTC_Z).decode()


def with_due(headers: str, due: datetime, *, anew: bool = False) -> str:
    """The `headers` column with `due` added: only where it has none, unless `anew`. A text that is
    not JSON of this library stays as it is."""
    try:
        known = orjson.loads(headers)
    except orjson.JSONDecodeError:
        return headers
    if not isinstance(known, dict) or ("due" in known and not anew):
        return headers
    return orjson.dumps(known | {"due": at.utc(due)}, option=orjson.OPT_UTC_Z).decode()


def _event(envelope: Envelope) -> dict[str, Any]:
    event = _attributes(envelope)
    event["datacontenttype"] = JSON
    event["data"] = orjson.Fragment(envelope.data)
    return event


def _attributes(envelope: Envelope) -> dict[str, Any]:
    attributes = {
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "time": at.utc(envelope.time),
        "partitionkey": envelope.key,
    } | _extensions(envelope)
    if envelope.expires_in is not None:
        # As a text: CloudEvents' integers have 32 bits, and a year has more milliseconds.
        attributes["expiresin"] = str(envelope.expires_in)
    return attributes


def _extensions(envelope: Envelope) -> dict[str, Any]:
    extensions: dict[str, Any] = {}
    if envelope.correlation is not None:
        extensions["correlationid"] = envelope.correlation
    if envelope.causation is not None:
        extensions["causationid"] = envelope.causation
    if envelope.trace is not None:
        extensions["traceparent"] = envelope.trace
    if envelope.reply_to is not None:
        extensions["replyto"] = envelope.reply_to
    if envelope.undoes:
        extensions["undoes"] = " ".join(envelope.undoes)
    if envelope.expires is not None:
        extensions["expirytime"] = at.utc(envelope.expires)
    if envelope.due is not None:
        extensions["due"] = at.utc(envelope.due)
    if envelope.run_number is not None:
        extensions["runnumber"] = envelope.run_number
    return extensions


# --- Reading ---------------------------------------------------------------------------------


def from_structured(body: bytes) -> Envelope:
    """The envelope in a structured CloudEvent. Raises MalformedEnvelope naming the attribute."""
    return _from_event(_parsed(body), None)


def from_batch(body: bytes) -> list[Envelope]:
    """The envelopes of a batch, in order. Raises MalformedEnvelope naming position (from 0) and
    attribute; then none of the batch may be used."""
    events = _parsed(body)
    if not isinstance(events, list):
        raise MalformedEnvelope(
            "a batch of CloudEvents is a JSON list, and the body is none",
            next_step=f"send a list, or a single event as {STRUCTURED}",
        )
    return [_from_event(event, position) for position, event in enumerate(events)]


def from_binary(headers: Mapping[str, str], body: bytes) -> Envelope:
    """The envelope in a CloudEvent of HTTP's binary mode; the case of the names does not matter.

    `data` keeps the body's exact bytes. Raises MalformedEnvelope naming the attribute.
    """
    attributes: dict[str, Any] = {}
    for name, value in headers.items():
        lowered = name.lower()
        if lowered.startswith("ce-"):
            attributes[lowered[3:]] = at.unquoted(lowered, value)
        elif lowered == "content-type":
            attributes["datacontenttype"] = value
    return from_texts(attributes, body, None)


def from_texts(attributes: Mapping[str, Any], data: bytes, position: int | None) -> Envelope:
    """The envelope with these attributes, and exactly these bytes of data. Raises MalformedEnvelope
    naming position (from 0, None outside of a batch) and attribute."""
    try:
        strict_json.dumps(strict_json.loads(data))
    except ValueError as error:
        raise at.wrong("data", position, str(error)) from None
    return _envelope(attributes, data, position)


def from_row(id: str, type: str, key: str, time: datetime, payload: str, headers: str) -> Envelope:
    """The envelope in a row of the outbox; `headers` is what `headers_json` wrote.

    The row is trusted, since this library wrote it; only text that is not such JSON is refused
    (MalformedEnvelope).
    """
    try:
        rest = orjson.loads(headers)
        get = rest.get
        expires, due = get("expirytime"), get("due")
        return Envelope(
            id,
            rest["source"],
            type,
            key,
            time,
            payload.encode(),
            correlation=get("correlationid"),
            causation=get("causationid"),
            trace=get("traceparent"),
            reply_to=get("replyto"),
            undoes=tuple(rest["undoes"].split(" ")) if "undoes" in rest else (),
            expires=None if expires is None else datetime.fromisoformat(expires),
            due=None if due is None else datetime.fromisoformat(due),
            run_number=get("runnumber"),
        )
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise MalformedEnvelope(
            f"the headers of message {id} in the database are not what this library writes "
            f"({error!r})",
            next_step="mend or delete that row; another program has changed it",
        ) from error


def _parsed(body: bytes) -> Any:
    try:
        return strict_json.loads(body)
    except ValueError as error:
        raise MalformedEnvelope(
            f"the body is no CloudEvent: {error}",
            next_step=f"send {STRUCTURED} or {BATCH} in UTF-8",
        ) from None


def _from_event(event: Any, position: int | None) -> Envelope:
    if not isinstance(event, dict):
        raise at.wrong("event", position, "must be a JSON object")
    if "data_base64" in event:
        raise at.wrong("data_base64", position, "is not understood; the payload is JSON in 'data'")
    if "data" not in event:
        raise at.wrong("data", position, "is missing")
    try:
        # The bytes in which the sender wrote `data` are gone with the parsing; these are equal to
        # them as JSON, which is all that a handler or a fingerprint depends on.
        data = strict_json.dumps(event["data"])
    except ValueError as error:
        raise at.wrong("data", position, str(error)) from None
    return _envelope(event, data, position)


def _envelope(attributes: Mapping[str, Any], data: bytes, position: int | None) -> Envelope:
    get = attributes.get
    version = get("specversion")
    if version != SPEC_VERSION:
        problem = f"must be {SPEC_VERSION!r}, and is {at.short(version)}"
        raise at.wrong("specversion", position, problem)
    content_type = get("datacontenttype")
    if content_type is not None and content_type != JSON:
        at.media_type("datacontenttype", content_type, JSON, position)
    return Envelope(
        id=at.identifier("id", get("id"), position),
        source=at.text("source", get("source"), MAX_NAME_LENGTH, position),
        type=at.text("type", get("type"), MAX_TYPE_LENGTH, position),
        key=at.text("partitionkey", get("partitionkey"), MAX_KEY_LENGTH, position),
        time=at.instant("time", get("time"), position),
        data=data,
        correlation=at.optional_identifier("correlationid", get("correlationid"), position),
        causation=at.optional_identifier("causationid", get("causationid"), position),
        trace=at.trace(get("traceparent")),
        reply_to=at.optional_text("replyto", get("replyto"), MAX_NAME_LENGTH, position),
        undoes=at.identifiers("undoes", get("undoes"), position),
        expires=at.optional_instant("expirytime", get("expirytime"), position),
        expires_in=at.optional_integer("expiresin", get("expiresin"), position),
        due=at.optional_instant("due", get("due"), position),
        run_number=at.optional_identifier("runnumber", get("runnumber"), position),
    )


# --- Replies ---------------------------------------------------------------------------------


def replies_to_batch(
    source: str,
    envelopes: Sequence[Envelope],
    replies: Sequence[Reply],
    new_id: Callable[[], str],
    now: datetime,
) -> bytes:
    """The answer to a batch: one event of type REPLY_TYPE for each envelope, whose `causationid`
    is the id of the message that it answers. `replies` are in the order of `envelopes`."""
    return to_batch(
        [
            Envelope(
                id=new_id(),
                source=source,
                type=REPLY_TYPE,
                key=asked.key,
                time=now,
                data=reply_json.dumps(reply),
                correlation=asked.correlation,
                causation=asked.id,
                trace=asked.trace,
            )
            for asked, reply in zip(envelopes, replies, strict=True)
        ]
    )


def replies_from_batch(body: bytes, ids: Sequence[str]) -> list[Reply]:
    """The replies to the messages `ids`, in that order; answers to others are ignored.

    Raises MalformedEnvelope where the body is no batch of replies, or one of them is missing.
    """
    answers: dict[str | None, Reply] = {}
    for position, event in enumerate(from_batch(body)):
        if event.type != REPLY_TYPE:
            raise at.wrong("type", position, f"must be {REPLY_TYPE!r}, and is {event.type!r}")
        try:
            answers[event.causation] = reply_json.loads(event.data)
        except ValueError as error:
            raise at.wrong("data", position, f"is no reply: {error}") from None
    return replies_to(ids, answers)


def replies_to(ids: Sequence[str], answers: Mapping[str | None, Reply]) -> list[Reply]:
    """The replies to the messages `ids`, in that order. Raises MalformedEnvelope where one of them
    is missing."""
    missing = [each for each in ids if each not in answers]
    if missing:
        raise MalformedEnvelope(
            f"{len(missing)} of {len(ids)} messages got no reply, the first of them {missing[0]}",
            next_step="look into the receiver: it must answer each message of a batch",
        )
    return [answers[each] for each in ids]


# --- Comparing -------------------------------------------------------------------------------


def fingerprint(envelope: Envelope) -> bytes:
    """The fingerprint of a message, 32 bytes: two messages under one id ask for the same if it is
    equal. It covers type, key, undone ids and data, and nothing of how the message travelled.

    The data counts as canonical JSON (sorted keys, no blanks), never as bytes: in a structured
    event or a batch the sender's own bytes are lost when the body is parsed, and a redelivery over
    another transport must look the same. Raises ValueError where `data` is not JSON.
    """
    # A JSON list frames its parts, so that no text can pass from one into the next.
    head = orjson.dumps([envelope.type, envelope.key, sorted(envelope.undoes)])
    data = strict_json.dumps(strict_json.loads(envelope.data), sort_keys=True)
    return hashlib.sha256(head + data).digest()
