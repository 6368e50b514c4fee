"""A node whose parts do one thing when the test says so: nothing of it runs by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.engine.node import Node
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.watchers import Watchers
from outbox.clock import Clock
from outbox.ids import Ids
from outbox.transports.base import Transport

NOBODY: Mapping[str, Transport] = {}


def make_node(
    engine: AsyncEngine,
    sagas: Sequence[Saga[Any]],
    participants: Sequence[str],
    *,
    clock: Clock,
    transports: Mapping[str, Transport] = NOBODY,
    owner: str = "node-1",
    is_dead: Callable[[str], bool] = lambda _: False,
    settings: EngineSettings | None = None,
) -> Node:
    """A node that knows these participants, and sends to those that have a transport."""
    registry = Registry(sagas, dict.fromkeys(participants, "http://127.0.0.1:1"))
    return Node(
        engine,
        EnginePorts.of(engine, registry, clock),
        registry,
        transports,
        Watchers(),
        clock=clock,
        ids=Ids(clock, os.urandom),
        settings=settings or EngineSettings(),
        name=lambda: owner,
        is_dead=is_dead,
        chance=lambda: 0.0,
    )


def make_ports(engine: AsyncEngine, clock: Clock) -> EnginePorts:
    """The statements of a node, for a transaction of the test's own."""
    return EnginePorts.of(engine, Registry([], {}), clock)
