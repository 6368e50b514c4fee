"""What a courier touches of the world beside its transport: the tables, and how time limits it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import Clock
from outbox.coordination.lease_store import LeaseStore
from outbox.relay.hold_store import HoldStore
from outbox.relay.message_store import Store

Within = Callable[[float], AbstractAsyncContextManager[Any]]
"""A block that raises TimeoutError after so many seconds."""
Gather = Callable[..., Awaitable[Any]]
"""Runs coroutines side by side, to the end of all."""


@dataclass(frozen=True)
class RelayPorts:
    """The statements of the relay for one database, and what it needs of an event loop."""

    messages: Store
    holds: HoldStore
    leases: LeaseStore
    within: Within = asyncio.timeout
    gather: Gather = asyncio.gather

    @classmethod
    def of(cls, engine: AsyncEngine, clock: Clock, leased_as: str | None = None) -> RelayPorts:
        """Those of a database; for `leased_as` see `Store`."""
        postgres = engine.dialect.name == "postgresql"
        return cls(
            Store(postgres=postgres, now=clock.now, leased_as=leased_as),
            HoldStore(postgres=postgres, now=clock.now),
            LeaseStore(postgres=postgres, now=clock.now),
        )
