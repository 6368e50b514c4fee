"""The ports of a courier beside its transport: tables, limits of time, and takers of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import Clock
from outbox.coordination.lease_store import LeaseStore
from outbox.relay.hold_store import HoldStore
from outbox.relay.message_store import Store
from outbox.relay.verdicts import Pending
from outbox.replies import Reply
from outbox.tables import Tables
from outbox.transports.base import Accepted
from outbox.wire.envelope import Envelope

Within = Callable[[float], AbstractAsyncContextManager[Any]]
"""A block that raises TimeoutError after so many seconds."""
Gather = Callable[..., Awaitable[Any]]
"""Runs coroutines side by side, to the end of all."""
MakeEvent = Callable[[], asyncio.Event]
"""Makes an event that a round can wait for."""


class ReplySink(Protocol):
    """A taker of the answers to messages with a `reply_to`, inside the settling transaction: the
    answer is kept if and only if the message is settled."""

    async def replied(
        self, connection: AsyncConnection, answers: Sequence[tuple[Envelope, Reply]]
    ) -> None:
        """Take replies that are definite, or LOCKED or ONGOING after which the relay does not ask
        again."""

    async def accepted(self, connection: AsyncConnection, envelopes: Sequence[Envelope]) -> None:
        """Take messages that the transport accepted durably: they leave the outbox without an
        answer, which comes as a message of its own."""

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        """Take a message that became a dead letter."""


class Settlement(Protocol):
    """A settler of answered messages in the courier's place: it deletes their rows in the
    transaction in which it handles the answers."""

    def take(
        self, destination: str, answers: Sequence[tuple[Pending, Reply | Accepted]]
    ) -> asyncio.Event:
        """Take messages that were answered for good, or accepted. The returned event is set when
        their rows are gone, or are known to stay; those that stay are sent again."""

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        """Take a message that becomes a dead letter, in this transaction."""


@dataclass(frozen=True)
class RelayPorts:
    """The statements of the relay for one database, and its needs of an event loop."""

    messages: Store
    holds: HoldStore
    leases: LeaseStore
    within: Within = asyncio.timeout
    gather: Gather = asyncio.gather
    event: MakeEvent = asyncio.Event

    @classmethod
    def of(
        cls, engine: AsyncEngine, tables: Tables, clock: Clock, leased_as: str | None = None
    ) -> RelayPorts:
        """The ports of a database; for `leased_as` see `Store`."""
        postgres = engine.dialect.name == "postgresql"
        return cls(
            Store(tables, postgres=postgres, now=clock.now, leased_as=leased_as),
            HoldStore(tables, postgres=postgres, now=clock.now),
            LeaseStore(tables, postgres=postgres, now=clock.now),
        )
