"""The division of a batch: in the order of each key, and no undo beside its own action."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from outbox.inbox.rows import VOID, Arrival
from outbox.messages import Message
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import Envelope

MAX_ROWS = 1000
"""The most ids, of messages and of the actions that they undo, that one transaction inserts."""


def holds_key(reply: Reply) -> bool:
    """Whether later messages of the same key must wait, since this one comes again."""
    if reply.is_pending:
        return False
    match reply.outcome:
        case (
            Outcome.FAILED
            | Outcome.LOCKED
            | Outcome.ONGOING
            | Outcome.TOO_BUSY
            | Outcome.NOT_ATTEMPTED
        ):
            return True
        case Outcome.REJECTED:
            return reply.code == "unknown-type"
        case (
            Outcome.DONE
            | Outcome.REFUSED
            | Outcome.ALREADY_UNDONE
            | Outcome.NOTHING_TO_UNDO
            | Outcome.EXPIRED
            | Outcome.TOO_OLD
            | Outcome.UNKNOWN
        ):
            return False
        case other:
            assert_never(other)


def is_asked_for_again(envelope: Envelope, reply: Reply) -> bool:
    """Whether the sender's relay keeps that message until its call to the outside has come to
    something, and with it the key."""
    return reply.is_pending and reply.retry_after is not None and envelope.reply_to is None


def order_key(envelope: Envelope) -> tuple[bool, str]:
    """The key within which messages keep their order. Undos, and what lets commands never run, have
    a lane of their own, so that a poisonous action does not hold them up."""
    return bool(envelope.undoes) or envelope.type == VOID, envelope.key


@dataclass(slots=True)
class Slot:
    """One message of a batch, with its positions there: more than one if the batch has copies of
    it."""

    arrival: Arrival
    positions: list[int] = field(default_factory=list)


def split(arrivals: Iterable[tuple[int, Arrival]]) -> list[list[Slot]]:
    """The parts of a batch of (position, message): each can insert all its ids at once.

    A command and what undoes or bars it, two of these for one command, and two messages under one
    id never share a part: one would lose to the insert of the other. Copies of a message share a
    slot.
    """
    parts: list[list[Slot]] = []
    slots: dict[str, Slot] = {}
    barred: set[str] = set()
    for position, arrival in arrivals:
        id, names = arrival.envelope.id, arrival.names
        slot = slots.get(id)
        if slot is not None and _are_copies(slot.arrival, arrival):
            slot.positions.append(position)
            continue
        rows = len(slots) + len(barred) + 1 + len(names)
        crossed = not barred.isdisjoint((id, *names)) or any(each in slots for each in names)
        if not parts or slot is not None or crossed or rows > MAX_ROWS:
            parts.append([])
            slots, barred = {}, set()
        slots[id] = Slot(arrival, [position])
        barred.update(names)
        parts[-1].append(slots[id])
    return parts


def _are_copies(one: Arrival, other: Arrival) -> bool:
    return one.fingerprint == other.fingerprint and one.saga == other.saga


def runs(
    arrivals: Sequence[Arrival], takes_lists: Callable[[type[Message]], bool]
) -> list[list[int]]:
    """The order of the handlers' calls, as positions in `arrivals`; that of arrival for the
    messages of one key.

    Where one takes lists it is the order of arrival for all, but a message joins the latest list
    of its class where no message of its key stands in between. Else it is the same order in all
    transactions, so that two of them with messages about the same things do not wait for one
    another crosswise until one gives up.
    """
    if not any(takes_lists(cls) for cls in {type(each.message) for each in arrivals}):
        return [[position] for position in _in_one_order(arrivals)]
    calls: list[list[int]] = []
    latest_list: dict[type[Message], int] = {}
    latest_of_key: dict[str, int] = {}
    for position, arrival in enumerate(arrivals):
        cls, key = type(arrival.message), arrival.envelope.key
        call = latest_list.get(cls)
        if call is None or call < latest_of_key.get(key, 0):
            call = len(calls)
            calls.append([])
            if takes_lists(cls):
                latest_list[cls] = call
        calls[call].append(position)
        latest_of_key[key] = call
    return calls


def _in_one_order(arrivals: Sequence[Arrival]) -> list[int]:
    """Their positions in the order of what they are about: the value of the field that their class
    declares as its key. An envelope may have another key, as those of a saga's commands do."""
    about: dict[str, str] = {}
    for each in arrivals:
        about.setdefault(each.envelope.key, _about(each))
    return sorted(range(len(arrivals)), key=lambda it: about[arrivals[it].envelope.key])


def _about(arrival: Arrival) -> str:
    declared = getattr(arrival.message, arrival.message.key_field, None)
    return declared if isinstance(declared, str) else arrival.envelope.key
