"""The keys of `routes=`: single events, and patterns that stand for many.

"articles.*" are all events whose types begin with "articles.", and "*" is every event. For each
event the most particular key counts, alone: its own one, else its owner's, else "*".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from outbox.errors import OutboxError
from outbox.messages import OWNER, Event, Message, MessageType, type_of

EVERY = "*"
"""The pattern for every event."""

_MANY = ".*"


def key_of(key: type[Message] | str) -> str:
    """The type of an event, or the pattern, as text. Raises OutboxError for a pattern that cannot
    be, and InvalidMessage for a type."""
    if not isinstance(key, str):
        return str(type_of(key))
    if "*" not in key:
        return str(MessageType.parse(key))
    if key != EVERY and not (key.endswith(_MANY) and OWNER.fullmatch(key.removesuffix(_MANY))):
        raise OutboxError(
            f"{key!r} in routes= is no pattern of events",
            next_step='write "articles.*" for all events of the owner articles, "*" for every '
            "event, or the class or the whole type of a single one",
        )
    return key


def keys_of(keys: Iterable[type[Message] | str]) -> Mapping[type[Message] | str, str]:
    """Each key as text. Raises OutboxError where two of them mean the same, and as `key_of`."""
    found: dict[type[Message] | str, str] = {}
    for key in keys:
        text = key_of(key)
        if text in found.values():
            raise OutboxError(
                f"{text} is in routes= twice, as its class and as its type",
                next_step="write it once, with all of its destinations",
            )
        found[key] = text
    return found


def route_of(event: MessageType, routes: Mapping[str, Sequence[str]]) -> Sequence[str] | None:
    """The route of such an event among these, which are by keys as text; None where it has none."""
    for key in (str(event), f"{event.owner}{_MANY}", EVERY):
        if key in routes:
            return routes[key]
    return None


def without_events(keys: Iterable[str]) -> Sequence[str]:
    """The patterns of an owner among these keys of whom this process has declared no event."""
    owners = {str(it.owner) for it in _declared(Event)}
    return [it for it in keys if it.endswith(_MANY) and it.removesuffix(_MANY) not in owners]


def _declared(cls: type[Event]) -> set[MessageType]:
    own = cls.__dict__.get("message_type")
    found = {own} if isinstance(own, MessageType) else set()
    return found.union(*(_declared(it) for it in cls.__subclasses__()))
