"""The installation of an outbox: `outbox.install(sessions, source=..., routes=...)`, once at start.

Nothing is global: a session carries the installation of the sessionmaker that made it, and a Core
connection that of its engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from outbox import sqlite
from outbox.adding import session_events
from outbox.adding.routes import keys_of, route_of
from outbox.clock import Clock, SystemClock
from outbox.coordination.bell import Bell
from outbox.errors import InvalidMessage, OutboxError, OutboxNotInstalled, Unrouted
from outbox.ids import Ids
from outbox.messages import Command, Event, Message, type_of
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.wire.codec import MAX_MESSAGE_BYTES, check_class

# The keys are `type[Message] | str`. A Mapping does not vary in the type of its keys, so saying so
# here would refuse every dict that was made before the call.
Routes = Mapping[Any, Sequence[str]]
"""From an event's class, or its type such as "articles.article-published.v1", to its destinations;
() says that it has none, on purpose. "articles.*" stands for all events of that owner, and "*" for
every event; of the keys that fit to an event the most particular one counts, alone."""

MAX_DESTINATION_LENGTH: Final = 100

_INSTALLATION: Final = "sagabox_installation"
_RING: Final = "sagabox_ring"


@dataclass(frozen=True)
class Installation:
    """The settings of a service for the messages that it sends."""

    source: str
    """The service's own name."""
    routes: Mapping[str, tuple[str, ...]]
    """From an event's type, or a pattern, to its destinations."""
    clock: Clock
    ids: Callable[[], str]
    ordered: bool
    """Whether messages with the same (lane, key) leave in the order of their commits even where
    their transactions share no row. On PostgreSQL this costs a lock for each key."""
    peers: frozenset[str] | None
    """The only destinations that there are; None where any name may be one."""
    bell: Bell
    """Rings after each commit that had messages; a relay in the same process listens to it."""
    max_bytes: int
    tables: Tables
    webhooks: frozenset[str] = frozenset()
    """The destinations that take events alone."""

    def destinations(self, message: Message, to: str | None) -> tuple[str, ...]:
        """The destinations of the message: `to` if given, else a command's owner, or an event's
        route.

        Raises Unrouted, and InvalidMessage where it is neither a command nor an event.
        """
        found = self._destinations(message, to)
        for name in found:
            self.require(name)
        if self.webhooks and not isinstance(message, Event):
            self._require_answers(found, str(type_of(message)))
        return found

    def require(self, name: str) -> None:
        """Raises Unrouted where there is no way to that name."""
        if self.peers is not None and name not in self.peers:
            raise Unrouted.no_peer(name, self.source, self.peers)

    def _require_answers(self, destinations: Sequence[str], declared: str) -> None:
        """Raises Unrouted where one of these takes events alone."""
        for name in destinations:
            if name in self.webhooks:
                raise Unrouted(
                    f"the command {declared} would go to {name}, which takes events alone: its "
                    "receiver answers no command",
                    next_step="send an Event there, by routes=; a command goes to a service that "
                    "has a handler for it",
                )

    def _destinations(self, message: Message, to: str | None) -> tuple[str, ...]:
        if to is not None:
            return (destination(to),)
        declared = type_of(message)
        match message:
            case Command():
                return (declared.owner,)
            case Event():
                route = route_of(declared, self.routes)
                if route is None:
                    raise Unrouted(
                        f"the event {declared} has no route, so it would reach no service",
                        next_step="name its destinations in routes=, of outbox.Service or "
                        f'outbox.install, or those of "{declared.owner}.*"; or () if no service '
                        "is to get it",
                    )
                return tuple(route)
            case _:
                raise InvalidMessage(
                    f"{type(message).__name__} is neither an Event nor a Command",
                    next_step="derive it from one of the two",
                )


def install(
    target: sessionmaker[Any] | async_sessionmaker[Any] | Engine | AsyncEngine,
    *,
    source: str,
    routes: Routes,
    clock: Clock | None = None,
    ids: Callable[[], str] | None = None,
    ordered: bool = True,
    bell: Bell | None = None,
    max_bytes: int = MAX_MESSAGE_BYTES,
    peers: Collection[str] | None = None,
    tables: Tables = DEFAULT_TABLES,
    webhooks: Collection[str] = (),
) -> Installation:
    """Let `outbox.add` work on the sessions that this sessionmaker will make, or on the Core
    connections of this engine. A later call for the same target replaces the settings.

    `bell` is shared between several targets of one service. `peers` are the only destinations that
    there are: a message to another one is refused when it is added. `tables` are those that these
    sessions write to, and an inbox on them. `webhooks` are those of the peers that take events
    alone. Raises UnconfiguredSQLite, InvalidMessage for an event in `routes` that would not arrive
    as it was sent, and OutboxError for a wrong route or target.
    """
    clock = clock or SystemClock()
    keys = keys_of(routes)
    installation = Installation(
        source=destination(source),
        routes={keys[key]: _route(keys[key], route) for key, route in routes.items()},
        clock=clock,
        ids=ids or Ids(clock, os.urandom),
        ordered=ordered,
        peers=None if peers is None else frozenset(map(destination, peers)),
        bell=bell or Bell(),
        max_bytes=max_bytes,
        tables=tables,
        webhooks=frozenset(webhooks),
    )
    for key, route in routes.items():
        if isinstance(key, str):
            continue
        check_class(key)
        if issubclass(key, Command):
            installation._require_answers(route, str(type_of(key)))
    for name in dict.fromkeys(name for route in installation.routes.values() for name in route):
        if installation.peers is not None and name not in installation.peers:
            raise Unrouted.no_peer(name, installation.source, installation.peers)
    match target:
        case sessionmaker():
            if not _is_installed(target.kw):
                # A sessionmaker has a class of its own, so that no other one's sessions listen.
                session_events.listen(target.class_)
            _configure(target, installation)
        case async_sessionmaker():
            if not _is_installed(target.kw):
                base = target.kw.get("sync_session_class", target.class_.sync_session_class)
                own: type[Session] = type(base.__name__, (base,), {})
                session_events.listen(own)
                target.configure(sync_session_class=own)
            _configure(target, installation)
        case Engine():
            _install_on_engine(target, installation)
        case AsyncEngine():
            _install_on_engine(target.sync_engine, installation)
        case _:
            raise OutboxError(
                f"outbox.install() was given a {type(target).__name__}",
                next_step="give it the sessionmaker or async_sessionmaker, or for Core connections "
                "the engine",
            )
    return installation


def is_installed(sessions: async_sessionmaker[Any] | sessionmaker[Any]) -> bool:
    """Whether `install` was called for these sessions."""
    return _is_installed(sessions.kw)


def reach(sessions: async_sessionmaker[Any] | sessionmaker[Any], peer: str) -> Installation:
    """Let messages to that name be added, too, on the sessions that this sessionmaker will make;
    `install` was called for it."""
    installed: Installation = sessions.kw["info"][_INSTALLATION]
    if installed.peers is not None:
        installed = replace(installed, peers=installed.peers | {destination(peer)})
    _configure(sessions, installed)
    return installed


def installation_of(target: Session | Connection) -> Installation:
    """Raises OutboxNotInstalled where the session or connection has none."""
    match target:
        case Session():
            found, what = target.info.get(_INSTALLATION), "session"
        case Connection():
            found, what = target.get_execution_options().get(_INSTALLATION), "connection"
    if not isinstance(found, Installation):
        raise OutboxNotInstalled(what)
    return found


def tables_of(target: Session | Connection) -> Tables:
    """The tables of its installation; those with plain names where it has none."""
    match target:
        case Session():
            found = target.info.get(_INSTALLATION)
        case Connection():
            found = target.get_execution_options().get(_INSTALLATION)
    return found.tables if isinstance(found, Installation) else DEFAULT_TABLES


def tables_in(database: AsyncConnection | AsyncSession) -> Tables:
    """As `tables_of`, of an asynchronous one."""
    match database:
        case AsyncSession():
            return tables_of(database.sync_session)
        case AsyncConnection():
            connection = database.sync_connection
            return DEFAULT_TABLES if connection is None else tables_of(connection)


def ring_after(connection: Connection, bell: Bell) -> None:
    """Ring when the connection has done with its transaction: when it returns to its pool, or
    begins another one. No event tells of the end of a COMMIT itself."""
    connection.info[_RING] = bell


def destination(name: object) -> str:
    """The name of a service, as it stands in rows and envelopes. Raises OutboxError."""
    fits = isinstance(name, str) and 0 < len(name) <= MAX_DESTINATION_LENGTH
    if not isinstance(name, str) or not fits or not name.isprintable():
        raise OutboxError(
            f"{name!r} is no name of a service",
            next_step=f"use a text of 1 to {MAX_DESTINATION_LENGTH} printable characters",
        )
    return name


def _route(key: str, route: Sequence[str]) -> tuple[str, ...]:
    if isinstance(route, str):
        raise OutboxError(
            f"the route of {key} is the text {route!r} instead of a list",
            next_step=f"write it as [{route!r}]",
        )
    names = tuple(destination(name) for name in route)
    if len(set(names)) < len(names):
        raise OutboxError(
            f"the route of {key} names a destination twice",
            next_step="name each destination once",
        )
    return names


def _is_installed(options: Mapping[str, Any]) -> bool:
    return _INSTALLATION in (options.get("info") or {})


def _configure(
    sessions: sessionmaker[Any] | async_sessionmaker[Any], installation: Installation
) -> None:
    bind = sessions.kw.get("bind")
    if bind is not None:
        engine = bind.sync_engine if isinstance(bind, AsyncEngine) else bind.engine
        sqlite.require(engine)
        installation.tables.require(engine)
    info = {**(sessions.kw.get("info") or {}), _INSTALLATION: installation}
    sessions.configure(info=info)


def _install_on_engine(engine: Engine, installation: Installation) -> None:
    sqlite.require(engine)
    installation.tables.require(engine)
    engine.update_execution_options(**{_INSTALLATION: installation})
    if not event.contains(engine, "begin", _ring_at_begin):
        event.listen(engine, "begin", _ring_at_begin)
        event.listen(engine, "checkin", _ring_at_checkin)


def _ring_at_begin(connection: Connection) -> None:
    _ring(connection.info)


def _ring_at_checkin(_: Any, record: ConnectionPoolEntry) -> None:
    _ring(record.info)


def _ring(info: dict[Any, Any]) -> None:
    bell: Bell | None = info.pop(_RING, None)
    if bell is not None:
        bell.ring()
