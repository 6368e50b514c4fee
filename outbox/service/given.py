"""What a service is given: its database, its peers and its keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from sqlalchemy import Engine, inspect, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from outbox import sqlite
from outbox.database.table_set import has_table
from outbox.database.twins import twin_of
from outbox.errors import InvalidService, OutboxError
from outbox.inbox.runners import Sessions
from outbox.tables import Tables
from outbox.transports.http.address import Address
from outbox.transports.http.peers import peers_in
from outbox.transports.http.signing import Keyring

_PEERS = "SAGABOX_PEERS"
_SECRETS = "SAGABOX_SECRETS"


def opened(
    database: AsyncEngine | Engine | Sessions,
) -> tuple[AsyncEngine | Engine, Sessions]:
    """The engine and the sessions of that database. Raises InvalidService."""
    match database:
        case AsyncEngine():
            return database, async_sessionmaker(database, expire_on_commit=False)
        case Engine():
            return database, sessionmaker(database, expire_on_commit=False)
        case async_sessionmaker() | sessionmaker():
            engine = database.kw.get("bind")
            if isinstance(database, sessionmaker) and isinstance(engine, AsyncEngine):
                refuse(
                    "the sessionmaker has an AsyncEngine, and a sessionmaker's sessions are not "
                    "asynchronous",
                    "write async_sessionmaker(engine, ...), without class_=AsyncSession",
                )
            if isinstance(engine, AsyncEngine | Engine):
                return engine, database
            kind = type(database).__name__
            refuse("the sessionmaker has no engine", f"write {kind}(engine, ...)")
        case _:
            refuse(
                f"the database is a {type(database).__name__}",
                "give the engine of the service, an AsyncEngine or an Engine, or its sessionmaker",
            )


def engine_for_relay(
    engine: AsyncEngine | Engine, given: AsyncEngine | None, service: str
) -> AsyncEngine:
    """The asynchronous engine of the service's relay. Raises OutboxError where none can be made."""
    if given is not None:
        sqlite.configure(given)
        return given
    return twin_of(engine, name=f"{service} relay") if isinstance(engine, Engine) else engine


async def require_same_tables(
    sessions: Sessions, service: str, tables: Tables, since: datetime
) -> None:
    """Raises InvalidService where the sessions find other tables than those that the relay finds,
    which belong to the service `since` then: what is added in one would never leave the other.

    Asynchronous sessions share their engine with the relay.
    """
    if not isinstance(sessions, sessionmaker):
        return

    def seen() -> datetime | None:
        with sessions() as session:
            connection = session.connection(execution_options=sqlite.READ_ONLY)
            if not has_table(inspect(connection), tables.outbox_service):
                return None
            return session.scalar(select(tables.outbox_service.c.since))

    if await asyncio.to_thread(seen) != since:
        refuse(
            f"the sessions of the service {service} and its relay find different tables of the "
            "library, so that the relay would not send what the sessions add",
            "let both look at the same place: give relay_engine=create_async_engine(...) what a "
            "listener on the engine does to its connections, or name the place, as by "
            "outbox.Tables(schema=...)",
        )


def signing_keys(given: str | Keyring | None, service: str) -> Keyring:
    """The keys that were given, else those of the environment. Raises InvalidService."""
    if isinstance(given, Keyring):
        return given
    secrets = os.environ.get(_SECRETS) if given is None else given
    if not secrets:
        refuse(
            f"the service {service} has no signing keys, so that no peer would believe it",
            f"set {_SECRETS}, as the other services have it, or give secrets=...; "
            "docs/operate/configuration.md says how they are made",
        )
    return Keyring.from_text(secrets)


def refuse(problem: str, next_step: str) -> NoReturn:
    """Raises InvalidService."""
    raise InvalidService(problem, next_step=next_step)


def known_peers(peers: Mapping[str, str] | None) -> Mapping[str, str]:
    """The peers that were given, else those of the environment. Raises InvalidService."""
    if peers is None:
        try:
            return peers_in(os.environ.get(_PEERS, ""))
        except ValueError as error:
            refuse(f"{_PEERS} cannot be read: {error}", 'write it as "name=http://host:port,..."')
    for name, address in peers.items():
        try:
            Address.parse(address)
        except OutboxError as error:
            refuse(f"the address of the peer {name}: {error.problem}", error.next_step)
    return dict(peers)


def leave_connections(*engines: object) -> None:
    """Let the engines among these make new connections: in a fork, the old ones are the other
    process's."""
    for engine in engines:
        if isinstance(engine, Engine):
            engine.dispose(close=False)
