"""Adds an orchestrator to an application: its API and console under a prefix, and its node, which
runs from the application's start to its end."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Engine as SyncEngine
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.routing import Mount

from orchestrator.app import Host, assemble
from orchestrator.client.asynchronous import Client
from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.embedding.own_client import OwnClient
from orchestrator.embedding.part import Part
from orchestrator.engine.engine import Engine
from orchestrator.engine.watchers import OnStuck
from orchestrator.rest_calls.base import is_rest
from orchestrator.schema import LATEST
from orchestrator.settings import OrchestratorSettings, unshared_secrets
from outbox import sqlite
from outbox.chassis.access.keys import Key, StaticKeys
from outbox.chassis.access.routes import Role
from outbox.chassis.settings import load
from outbox.clock import Clock
from outbox.database.twins import opened_again
from outbox.errors import InvalidService
from outbox.integrations.fastapi import require_unstarted, run_within
from outbox.service.service import Service
from outbox.tables import Tables

Peers = Mapping[str, str | Service[Any]]
"""The services that answer the sagas' commands, by name: an address, or the service itself where it
runs in the same process."""

TABLES = Tables(prefix="orchestrator_")
"""The tables of an embedded orchestrator, unless it is given others."""

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_HERE = "in this process"


@dataclass(frozen=True)
class Embedded:
    """An orchestrator within an application: its name, and a client for code of the same process,
    which needs no token."""

    name: str
    client: Client


def attach(
    app: Any,
    engine: AsyncEngine | SyncEngine,
    *,
    sagas: Iterable[Saga[Any]],
    peers: Peers | None = None,
    name: str = "orchestrator",
    prefix: str = "/orchestrator",
    tables: Tables = TABLES,
    clock: Clock | None = None,
    on_stuck: OnStuck | None = None,
) -> Embedded:
    """As `orchestrator.attach`."""
    require_unstarted(app)
    _check_prefix(app, prefix)
    sqlite.configure(engine)
    neighbours = _neighbours(peers or {}, name)
    settings = _settings(engine, name, peers)
    registry = Registry(
        sagas, {**settings.participant_addresses(), **dict.fromkeys(neighbours, _HERE)}
    )
    secret = base64.urlsafe_b64encode(os.urandom(32)).decode("ascii")
    key = Key(f"within {name}", Role.OPERATOR.opens, is_limited=False)

    def make() -> FastAPI:
        database = opened_again(
            engine,
            name=f"sagabox-{name}",
            pool_size=settings.pool_size,
            pool_overflow=settings.pool_overflow,
            tables=tables,
        )
        return assemble(
            settings,
            registry,
            make_engine=Engine,
            clock=clock,
            on_stuck=on_stuck,
            host=Host(
                database,
                _to_upgrade(tables),
                tuple(neighbours.values()),
                StaticKeys({secret: key}),
            ),
        )

    part = Part(make)
    for neighbour in neighbours.values():
        neighbour.reach(part)
    app.router.routes.insert(0, Mount(prefix, app=part))
    run_within(app, part.running)
    return Embedded(name, OwnClient(part, secret, part.service.engine))


def _to_upgrade(tables: Tables) -> str:
    named = f"prefix={tables.prefix!r}"
    if tables.schema is not None:
        named += f", schema={tables.schema!r}"
    return (
        f"call orchestrator.schema.upgrade(op, to={LATEST}, tables=outbox.Tables({named})) in a "
        "migration of the service, from the version that the last one went to, and apply it"
    )


def _neighbours(peers: Peers, own: str) -> dict[str, Service[Any]]:
    if own in peers:
        raise InvalidService(
            f"{own} is the name of the orchestrator, and of one of its peers",
            next_step="give the orchestrator another one: orchestrator.attach(..., name=...)",
        )
    found = {name: it for name, it in peers.items() if not isinstance(it, str)}
    for name, it in found.items():
        if not isinstance(it, Service):
            raise InvalidService(
                f"the peer {name} is a {type(it).__name__}",
                next_step="give its address as text, or the outbox.Service itself where it runs in "
                "the same process",
            )
        if it.name != name:
            raise InvalidService(
                f"the peer {name} is the service {it.name}, and messages know it by that name",
                next_step=f"write peers={{{it.name!r}: ...}}",
            )
    return found


def _settings(
    engine: AsyncEngine | SyncEngine, name: str, peers: Peers | None
) -> OrchestratorSettings:
    """Those of the environment, but for what belongs to the embedded orchestrator alone. A
    connection from this machine says nothing of who asks."""
    given: dict[str, Any] = {
        "name": name,
        "database_url": engine.url.render_as_string(hide_password=False),
        "sagas": "",
        "participants": "",
        "trust_loopback": False,
    }
    if peers is not None:
        texts = {name: it for name, it in peers.items() if isinstance(it, str)}
        addresses = {name: it for name, it in texts.items() if not is_rest(it)}
        given["peers"] = _list_of(addresses)
        given["participants"] = _list_of({name: it for name, it in texts.items() if is_rest(it)})
        if not addresses and not os.environ.get(_SECRETS):
            given["secrets"] = unshared_secrets()
    return load(OrchestratorSettings, **given)


def _list_of(addresses: Mapping[str, str]) -> str:
    return ",".join(f"{name}={address}" for name, address in addresses.items())


_SECRETS = OrchestratorSettings.variable("secrets")


def _check_prefix(app: Starlette, prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise InvalidService(
            f"{prefix!r} is no prefix of addresses",
            next_step='write it as "/orchestrator", without a slash at its end',
        )
    for route in app.router.routes:
        path = getattr(route, "path", "")
        if path == prefix or path.startswith(f"{prefix}/"):
            raise InvalidService(
                f"the application has a route {path} of its own",
                next_step="give the orchestrator another prefix: orchestrator.attach(..., "
                'prefix="/sagas")',
            )
