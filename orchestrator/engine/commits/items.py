"""The items of a group commit, one class for each kind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, assert_never

from orchestrator.definition.saga import Saga
from orchestrator.machine.signals import Buried, OperatorSignal, Replied
from orchestrator.store.sharding import shard_of, shard_of_bucket
from orchestrator.store.start_store import StartKey
from outbox.relay.verdicts import Pending, size_of
from outbox.replies import Reply

_OVERHEAD = 1024
"""Bytes to reckon for all but an item's input, message or answer."""


@dataclass(frozen=True, slots=True)
class Started:
    """The run that a start led to. `is_new` is false where it was there already: the start was
    repeated."""

    instance_id: str
    is_new: bool


class Handed:
    """A group of answers; `all_decided` is set once each is committed or given up."""

    def __init__(self, count: int, all_decided: asyncio.Event) -> None:
        self._left = count
        self.all_decided = all_decided

    def decided(self) -> None:
        """Note that one more answer is decided."""
        self._left -= 1
        if self._left == 0:
            self.all_decided.set()


@dataclass(eq=False, slots=True)
class Begin:
    """The start of a run: by a caller where it has a `done`, by one of another process where it has
    a `seq` and `is_asked`, else by a message, with a `seq`.
    `trace` is the traceparent of the message or the call, `start_id` the message, `size` the bytes
    of its input. `tries` counts how often another run with its key was in the way, and had ended
    when the commit looked for it. `begin_at` (aware) is when the run is to begin, if not at once;
    `fingerprint` is that of the start. `saga_key` is the run's key, where its definition has
    accepted the state already."""

    instance_id: str
    definition: Saga[Any]
    state: Any
    originator: str | None = None
    key: StartKey | None = None
    trace: str | None = None
    done: asyncio.Future[Started] | None = None
    seq: int | None = None
    tries: int = 0
    start_id: str | None = None
    size: int = 0
    begin_at: datetime | None = None
    fingerprint: str | None = None
    is_asked: bool = False
    saga_key: str | None = None

    @property
    def is_by_message(self) -> bool:
        """Whether a message asked for it."""
        return self.seq is not None and not self.is_asked

    @property
    def told(self) -> str:
        """The start in words."""
        return f"a start of {self.definition.name}, by {self.originator or 'a caller of the API'}"


@dataclass(eq=False, slots=True)
class Decline:
    """The refusal of a start by message, whose originator gets the event SagaEnded; or of one by a
    caller of another process, where it `is_asked`, who gets an answer."""

    instance_id: str
    originator: str
    reason: str
    seq: int
    trace: str | None = None
    start_id: str | None = None
    fingerprint: str | None = None
    is_asked: bool = False

    @property
    def told(self) -> str:
        """The start in words."""
        return f"a start by {self.originator}"


@dataclass(eq=False, slots=True)
class Tell:
    """A signal for a run, by an operator or the relay: a stored one where it has a `seq`, of a
    caller where it has a `done`. `size` is the bytes of the signal."""

    instance_id: str
    signal: OperatorSignal | Replied | Buried
    done: asyncio.Future[None] | None = None
    seq: int | None = None
    size: int = 0


@dataclass(eq=False, slots=True)
class Answer:
    """The answer to a message to `destination`, whose row is deleted with it. `size` is the bytes
    of both, about."""

    destination: str
    message: Pending
    reply: Reply
    handed: Handed
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = size_of(self.message) + self.reply.size

    @property
    def instance_id(self) -> str:
        """The run of the message; of the event SagaEnded, the id by which the run was asked for."""
        return self.message.envelope.correlation or ""


@dataclass(eq=False, slots=True)
class Look:
    """A run with a timer that may be due, or whose time to begin has come."""

    instance_id: str


Item = Begin | Decline | Tell | Answer | Look


def shard_for(item: Item) -> int:
    """The shard under whose lease the item is committed. That of an answer is that of its row: the
    event SagaEnded may be about an alias of the run, which has another shard."""
    if isinstance(item, Answer):
        return shard_of_bucket(item.message.bucket)
    return shard_of(item.instance_id)


def by_run(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items of each run, in their order."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.instance_id, []).append(item)
    return found


def bytes_of(item: Item) -> int:
    """The bytes that an item holds in memory while it waits, about."""
    match item:
        case Begin() | Tell() | Answer():
            return _OVERHEAD + item.size
        case Decline() | Look():
            return _OVERHEAD
        case _:
            assert_never(item)
