"""What waits to be done in a group commit, one class for each kind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, assert_never

from orchestrator.definition.saga import Saga
from orchestrator.machine.signals import Buried, OperatorSignal, Replied
from orchestrator.store.sharding import shard_of, shard_of_bucket
from orchestrator.store.start_store import StartKey
from outbox.relay.verdicts import Pending, size_of
from outbox.replies import Reply

_OVERHEAD = 1024
"""Bytes to reckon for what is no input, message or answer."""


@dataclass(frozen=True, slots=True)
class Started:
    """The run that a start led to. `is_new` is false where it was there already: the start was
    repeated."""

    instance_id: str
    is_new: bool


class Handed:
    """Answers that were handed over together; `all_decided` is set when none is undecided."""

    def __init__(self, count: int, all_decided: asyncio.Event) -> None:
        self._left = count
        self.all_decided = all_decided

    def decided(self) -> None:
        """One more of them is."""
        self._left -= 1
        if self._left == 0:
            self.all_decided.set()


@dataclass(eq=False, slots=True)
class Begin:
    """A run is to begin. It came by a message where it has a `seq`, and from a caller where it has
    a `done`. `trace` is the traceparent of whichever asked for it, `start_id` the message, `size`
    the bytes of its input."""

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


@dataclass(eq=False, slots=True)
class Decline:
    """A start that came by a message cannot be made; who asked is told that it ended."""

    instance_id: str
    originator: str
    reason: str
    seq: int
    trace: str | None = None
    start_id: str | None = None


@dataclass(eq=False, slots=True)
class Tell:
    """A run is told something by a person or by the relay: by a stored signal where it has a
    `seq`, by a caller where it has a `done`. `size` is the bytes of the signal."""

    instance_id: str
    signal: OperatorSignal | Replied | Buried
    done: asyncio.Future[None] | None = None
    seq: int | None = None
    size: int = 0


@dataclass(eq=False, slots=True)
class Answer:
    """A message to `destination` was answered; its row is to go."""

    destination: str
    message: Pending
    reply: Reply
    handed: Handed

    @property
    def size(self) -> int:
        """The bytes of the message and of its answer, about."""
        return size_of(self.message) + self.reply.size

    @property
    def instance_id(self) -> str:
        """The run that it is about; of the news of an end, the id by which that was asked for."""
        return self.message.envelope.correlation or ""


@dataclass(eq=False, slots=True)
class Look:
    """A timer of the run may be due."""

    instance_id: str


Work = Begin | Decline | Tell | Answer | Look


def shard_for(item: Work) -> int:
    """The shard under whose lease it is done. That of an answer is that of its row: the news of an
    end may be about another name of the run, which has another shard."""
    if isinstance(item, Answer):
        return shard_of_bucket(item.message.bucket)
    return shard_of(item.instance_id)


def bytes_of(item: Work) -> int:
    """How many bytes it holds in memory while it waits, about."""
    match item:
        case Begin() | Tell() | Answer():
            return _OVERHEAD + item.size
        case Decline() | Look():
            return _OVERHEAD
        case _:
            assert_never(item)
