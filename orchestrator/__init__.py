"""Runs, watches and repairs sagas across services that answer commands with replies.

    checkout = Saga(
        name="checkout", version=1, state=Order, key=lambda it: it.order_id,
        steps=[
            compensatable("reserve", lambda it: Reserve(it.order_id),
                          compensation=lambda it: Release(it.order_id)),
            pivot("charge", lambda it: Charge(it.order_id)),
            retriable("ship", lambda it: Ship(it.order_id)),
        ],
    )
    app = create_app(sagas=[checkout], participants={"shop": "http://127.0.0.1:8003"})

The application takes starts over HTTP and from services' outboxes, and shows every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from orchestrator.client.asynchronous import Client
    from orchestrator.client.synchronous import SyncClient
    from orchestrator.definition.rest import Later, RestCall, Secret, rest
    from orchestrator.definition.saga import Saga
    from orchestrator.definition.steps import WhenLocked, compensatable, pivot, retriable
    from orchestrator.embedding.attach import Embedded, Peers
    from orchestrator.errors import InvalidSaga, OrchestratorError
    from orchestrator.settings import OrchestratorSettings
    from outbox.clock import Clock
    from outbox.contract import SagaStuck
    from outbox.tables import Tables
    from outbox.transports.base import Transport

__all__ = [
    "attach",
    "Client",
    "compensatable",
    "create_app",
    "Embedded",
    "InvalidSaga",
    "Later",
    "OrchestratorError",
    "pivot",
    "rest",
    "RestCall",
    "retriable",
    "Saga",
    "Secret",
    "SyncClient",
    "WhenLocked",
]

_HOMES = {
    "Client": "orchestrator.client.asynchronous",
    "compensatable": "orchestrator.definition.steps",
    "Embedded": "orchestrator.embedding.attach",
    "InvalidSaga": "orchestrator.errors",
    "Later": "orchestrator.definition.rest",
    "OrchestratorError": "orchestrator.errors",
    "pivot": "orchestrator.definition.steps",
    "rest": "orchestrator.definition.rest",
    "RestCall": "orchestrator.definition.rest",
    "retriable": "orchestrator.definition.steps",
    "Saga": "orchestrator.definition.saga",
    "Secret": "orchestrator.definition.rest",
    "SyncClient": "orchestrator.client.synchronous",
    "WhenLocked": "orchestrator.definition.steps",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)


def create_app(
    settings: OrchestratorSettings | None = None,
    *,
    sagas: Iterable[Saga[Any]] | None = None,
    participants: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    transports: Mapping[str, Transport] | None = None,
    on_stuck: Callable[[SagaStuck], None] | None = None,
) -> FastAPI:
    """The orchestrator as an application for an ASGI server: see `orchestrator.app.create_app`."""
    # A module that only declares sagas needs none of the service.
    from orchestrator import app

    return app.create_app(
        settings,
        sagas=sagas,
        participants=participants,
        clock=clock,
        transports=transports,
        on_stuck=on_stuck,
    )


def attach(
    app: Any,
    engine: AsyncEngine | Engine,
    *,
    sagas: Iterable[Saga[Any]],
    peers: Peers | None = None,
    name: str = "orchestrator",
    prefix: str = "/orchestrator",
    tables: Tables | None = None,
    clock: Clock | None = None,
    on_stuck: Callable[[SagaStuck], None] | None = None,
) -> Embedded:
    """Run an orchestrator within a FastAPI or Starlette application, from its start to its end; its
    API and console are below `prefix`.

    It has `tables` of its own in the database of `engine`, whose names begin with "orchestrator_"
    unless others are given, and a pool of its own, which it makes from the engine's URL. `peers`
    are the services that answer the sagas' commands, by name: an address, or the `outbox.Service`
    itself, if it runs in the same process; without it SAGABOX_PEERS has them. A service that is
    given gets a way to the orchestrator, too. `name` is the one by which services know this
    orchestrator, for ever. What else there is to set comes from the environment, as for
    `sagabox serve orchestrator`, but SAGABOX_TRUST_LOOPBACK counts for nothing here.

    On SQLite one process is the node; others that have the same application take over when that
    one ends, and leave starts and signals for it until then.

    Raises InvalidService where the application runs already or has the prefix itself,
    InvalidSettings, InvalidSaga, and OutboxError where the engine does not tell how to connect.
    """
    from orchestrator.embedding import attach as embedding

    return embedding.attach(
        app,
        engine,
        sagas=sagas,
        peers=peers,
        name=name,
        prefix=prefix,
        tables=tables or embedding.TABLES,
        clock=clock,
        on_stuck=on_stuck,
    )
