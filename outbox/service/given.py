"""What a service is given: its database, its peers and its keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, NoReturn

from sqlalchemy import Engine, inspect, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from outbox import sqlite
from outbox.adding.installation import destination
from outbox.capture.log_reader import SCHEME as LOG_SCHEME
from outbox.capture.log_reader import LogReader, readers_in
from outbox.database.table_set import has_table
from outbox.database.twins import twin_of
from outbox.errors import InvalidService, OutboxError
from outbox.inbox.runners import Sessions
from outbox.tables import Tables
from outbox.transports.brokers.topics.clients import client_of
from outbox.transports.brokers.topics.topic import SCHEME as TOPIC_SCHEME
from outbox.transports.brokers.topics.topic import Topic, topics_in
from outbox.transports.http.peers import parsed, peers_in
from outbox.transports.http.signing import Keyring
from outbox.transports.webhooks.webhook import SCHEME, Webhook, taken_apart

_PEERS = "SAGABOX_PEERS"
_WRITE_PEERS = (
    'write the list as "name=address,...", with addresses such as http://host:port, '
    "grpc://host:port or nats://host:4222; docs/operate/configuration.md has all kinds"
)
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


Peers = Mapping[str, str | Webhook | LogReader | Topic]
"""Peers by name, as a service is given them."""


class ByKind(NamedTuple):
    """The peers with addresses (None where the environment has them), the webhooks, the readers of
    the database's log, and the topics of others."""

    others: Mapping[str, str] | None
    hooks: Mapping[str, Webhook]
    readers: Mapping[str, LogReader]
    topics: Mapping[str, Topic]


def by_kind(peers: Peers | None, engine: AsyncEngine | Engine) -> ByKind:
    """The peers by kind, from what was given; from the environment all but those with addresses.
    Raises InvalidService, ExtraMissing and InvalidWebhook."""
    found = _from_environment()._replace(others=None) if peers is None else _sorted(peers)
    readers = found.readers
    for topic in found.topics.values():
        client_of(topic)
    if readers and engine.dialect.name != "postgresql":
        refuse(
            f"{', '.join(sorted(readers))} would read the log of the database, and only PostgreSQL "
            "has one for that",
            "use PostgreSQL, or give the peer an address",
        )
    return found


def _sorted(peers: Peers) -> ByKind:
    others: dict[str, str] = {}
    hooks: dict[str, Webhook] = {}
    readers: dict[str, LogReader] = {}
    topics: dict[str, Topic] = {}
    for name, it in peers.items():
        match it:
            case Webhook():
                hooks[destination(name)] = it
            case LogReader():
                readers[destination(name)] = it
            case Topic():
                topics[destination(name)] = it.to_send_to()
            case _ if it.startswith(TOPIC_SCHEME):
                topics[destination(name)] = Topic.parse(it).to_send_to()
            case _ if it.startswith(SCHEME):
                hooks[destination(name)] = Webhook.parse(it)
            case _ if it.startswith(LOG_SCHEME):
                readers[destination(name)] = LogReader.parse(it)
            case _:
                others[name] = it
    return ByKind(others, hooks, readers, topics)


def _from_environment() -> ByKind:
    try:
        text, topics = topics_in(os.environ.get(_PEERS, ""))
        text, readers = readers_in(text)
        text, hooks = taken_apart(text)
        return ByKind(peers_in(text), hooks, readers, topics)
    except ValueError as error:
        refuse(f"{_PEERS} cannot be read: {error}", _WRITE_PEERS)


def known_peers(peers: Mapping[str, str] | None) -> Mapping[str, str]:
    """The peers that were given, else those of the environment. Raises InvalidService."""
    if peers is None:
        return _from_environment().others or {}
    for name, address in peers.items():
        try:
            parsed(address)
        except OutboxError as error:
            refuse(f"the address of the peer {name}: {error.problem}", error.next_step)
    return dict(peers)


def leave_connections(*engines: object) -> None:
    """Let the engines among these make new connections: in a fork, the old ones are the other
    process's."""
    for engine in engines:
        if isinstance(engine, Engine):
            engine.dispose(close=False)
