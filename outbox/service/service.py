"""`outbox.Service`:

service = outbox.Service("stock", engine, routes={GoodsShipped: ["mail"]})
service.attach(app)

@service.on(Reserve)
async def reserve(session: AsyncSession, command: Reserve, context: Context) -> Reserved: ...
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from typing_extensions import TypeVar

from outbox import sqlite
from outbox.adding.add import add
from outbox.adding.installation import Installation, Routes, install, is_installed, reach
from outbox.adding.routes import without_events
from outbox.capture.trimmer import Together, Trimmer
from outbox.clock import Clock, SystemClock
from outbox.contract import StartSaga
from outbox.coordination.bell import Bell
from outbox.coordination.progress import STUCK_AFTER, Progress
from outbox.database.address.features import require_features
from outbox.database.address.poolers import warn_of_pooler
from outbox.database.engines import reading
from outbox.errors import InvalidService
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.pending.persons import PendingCommands
from outbox.inbox.runners import Sessions, hold_to
from outbox.inbox.transactions.terms import Told
from outbox.messages import OWNER, Command, Message, SagaRef, type_of
from outbox.relay.relay import Relay
from outbox.relay.settings import DestinationSettings, RelaySettings
from outbox.retry import OnExhaustion
from outbox.runtime import DRAIN_SECONDS, PURGE_INTERVAL, Carrier, Runtime
from outbox.schema import claim_tables, database_id, require_tables
from outbox.service.completing import Completing
from outbox.service.entrance import Entrance
from outbox.service.given import (
    Peers,
    by_kind,
    engine_for_relay,
    known_peers,
    leave_connections,
    opened,
    refuse,
    require_same_tables,
    signing_keys,
)
from outbox.service.origin import origin_of, said_of
from outbox.service.ways import Ways
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.transports.addresses.overview import Overview
from outbox.transports.base import Transport
from outbox.transports.brokers.address import is_broker
from outbox.transports.brokers.held.policy import HeldPolicy
from outbox.transports.http.signing import Keyring
from outbox.transports.in_process import Neighbour
from outbox.wire.codec import encode_value
from outbox.wire.settled import EndedSagas

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from starlette.applications import Starlette

    from outbox.integrations.fastapi import Observer
    from outbox.integrations.wsgi import WsgiService

log = logging.getLogger("outbox.service")

S = TypeVar("S")
SM = TypeVar("SM", bound=Sessions, default=async_sessionmaker[AsyncSession])
"""The kind of its sessions."""


class _OwnHandlers(Handlers):
    """Refuses the commands of others, which are sent to others: `owner` begins the types of those
    that are its own."""

    def __init__(self, consumer: str, owner: str) -> None:
        super().__init__(consumer)
        self._owner = owner

    def _admit(self, cls: type[Message]) -> None:
        if issubclass(cls, Command) and type_of(cls).owner != self._owner:
            raise InvalidService(
                f"the command {type_of(cls)} goes to the service {type_of(cls).owner}, and this is "
                f"{self.consumer}",
                next_step="correct the name of the service, or the type of the command",
            )
        super()._admit(cls)


class _Unobserved:
    def inbox(self, handlers: Handlers, sessions: Sessions, **options: Any) -> Inbox:
        return Inbox(handlers, sessions, **options)

    def transport(self, destination: str, transport: Transport) -> Transport:
        return transport

    def skewed(self, sender: str, seconds: float) -> None:
        """Without metrics, only the log tells of clocks that differ."""


class _Installed:
    sessions: Any
    clock: Clock
    handlers: Handlers
    progress: Progress
    _installation: Installation
    _inbox: Inbox | None
    _limits: InboxLimits | None
    _observer: Observer
    _ways: Ways
    _kind: str | None = None
    """What begins the types of its commands, where that is not its name."""
    database_id: str | None = None
    """The id of its tables in its database, by which senders know them; None before it runs."""
    origin_id: str | None = None
    """The id of its database, by which those know it that it sends to; None before it runs."""

    @property
    def name(self) -> str:
        """Its own name."""
        return self._installation.source

    @property
    def tables(self) -> Tables:
        """Its tables of the library."""
        return self._installation.tables

    @property
    def new_id(self) -> Callable[[], str]:
        """Makes ids, for messages and for sagas: UUIDv7s in their order."""
        return self._installation.ids

    @property
    def bell(self) -> Bell:
        """Rings when there may be messages to send."""
        return self._installation.bell

    @property
    def inbox(self) -> Inbox:
        """What takes its messages."""
        if self._inbox is None:
            self._inbox = self.another_inbox(None)
        return self._inbox

    def another_inbox(self, told: Told | None) -> Inbox:
        """An inbox beside the first one, on the same tables; `told` is as for `Inbox`."""
        return self._observer.inbox(
            self.handlers,
            self.sessions,
            clock=self.clock,
            limits=self._limits,
            told=told,
            peers=self.reached,
            progress=self.progress,
        )

    def skewed(self, sender: str, seconds: float) -> None:
        """Note by how much a sender's clock is ahead."""
        self._observer.skewed(sender, seconds)

    @property
    def reached(self) -> Collection[str]:
        """The names that it has a way to: its peers, and the services of its own process."""
        return self._ways.names

    @property
    def addresses(self) -> Mapping[str, Overview]:
        """The addresses of each peer that it sends to, as they stand now; none before it runs."""
        return self._ways.overviews


class Service(_Installed, Generic[SM]):
    """One service: `name` is its own, and `database` its engine or the sessionmaker that it has.

    On an AsyncEngine its handlers are `async`; on an Engine they are plain functions, and run in
    threads. The relay then uses `relay_engine`, or an asynchronous twin made from the engine's URL.

    `peers` has the address of each service that it sends to, by name; without it SAGABOX_PEERS
    does, as "stock=http://stock:8000,mail=http://mail:8000". A subscriber outside is a peer that is
    an `outbox.Webhook`, a topic of others one that is an `outbox.Topic`, or their texts, and a
    reader of PostgreSQL's log one that is an `outbox.LogReader`; these get events alone. A message
    to another name is refused when it is added. `transports` replaces those that send to the peers
    over HTTP. `secrets` are the signing keys that the services share; without them SAGABOX_SECRETS
    has them, which is read when the service is attached or runs. `routes` says which of the peers
    get an event. `held` is how often messages that came by a broker are tried again, and what
    becomes of the key of one that is given up. `name` is for ever: the inbox knows messages by it,
    so that a renamed service would take them anew. `purge_interval` and `drain_seconds` are as for
    `outbox.Runtime`. `tables` are those of the library in its database: `outbox.Tables(prefix=...,
    schema=...)` where they have other names.

    On SQLite the engine gets the settings without which SQLite loses writes (`outbox.sqlite`).
    Raises InvalidService where a name, an address or the database cannot be.
    """

    @overload
    def __init__(
        self: Service[async_sessionmaker[AsyncSession]],
        name: str,
        database: AsyncEngine | async_sessionmaker[AsyncSession],
        *,
        routes: Routes | None = None,
        peers: Peers | None = None,
        transports: Mapping[str, Transport] | None = None,
        secrets: str | Keyring | None = None,
        clock: Clock | None = None,
        limits: InboxLimits | None = None,
        relay: RelaySettings | None = None,
        held: HeldPolicy | None = None,
        purge_interval: float = PURGE_INTERVAL,
        drain_seconds: float = DRAIN_SECONDS,
        tables: Tables = DEFAULT_TABLES,
    ) -> None: ...
    @overload
    def __init__(
        self: Service[sessionmaker[Session]],
        name: str,
        database: Engine | sessionmaker[Session],
        *,
        routes: Routes | None = None,
        peers: Peers | None = None,
        transports: Mapping[str, Transport] | None = None,
        secrets: str | Keyring | None = None,
        clock: Clock | None = None,
        limits: InboxLimits | None = None,
        relay: RelaySettings | None = None,
        held: HeldPolicy | None = None,
        purge_interval: float = PURGE_INTERVAL,
        drain_seconds: float = DRAIN_SECONDS,
        tables: Tables = DEFAULT_TABLES,
        relay_engine: AsyncEngine | None = None,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        database: AsyncEngine | Engine | Sessions,
        *,
        routes: Routes | None = None,
        peers: Peers | None = None,
        transports: Mapping[str, Transport] | None = None,
        secrets: str | Keyring | None = None,
        clock: Clock | None = None,
        limits: InboxLimits | None = None,
        relay: RelaySettings | None = None,
        held: HeldPolicy | None = None,
        purge_interval: float = PURGE_INTERVAL,
        drain_seconds: float = DRAIN_SECONDS,
        tables: Tables = DEFAULT_TABLES,
        relay_engine: AsyncEngine | None = None,
    ) -> None:
        if not OWNER.fullmatch(name):
            refuse(
                f"{name!r} is no name of a service",
                "use small letters, digits and dashes, as the types of its messages begin with it",
            )
        engine, sessions = opened(database)
        self.sessions: SM = cast(SM, sessions)
        if is_installed(self.sessions):
            refuse(
                "these sessions belong to a service already",
                "give each service an async_sessionmaker of its own, or the engine",
            )
        sqlite.configure(engine)
        self._has_twin = isinstance(engine, Engine) and relay_engine is None
        self.engine = engine_for_relay(engine, relay_engine, name)
        self.clock = clock or SystemClock()
        services, self.webhooks, self.log_readers, self.topics = by_kind(peers, engine)
        self.peers: Mapping[str, str] = known_peers(services)
        self._ways = Ways(self.peers, transports, self.webhooks, self.log_readers, self.topics)
        takes_events_alone = {*self.webhooks, *self.log_readers, *self.topics}
        self._secrets = secrets
        self._limits = limits
        self.relay_settings = relay or RelaySettings()
        self._purge_interval = purge_interval
        self.drain_seconds = drain_seconds
        self._installation = install(
            self.sessions,
            source=name,
            routes=routes or {},
            clock=self.clock,
            peers=[*self.peers, *takes_events_alone],
            tables=tables,
            webhooks=takes_events_alone,
        )
        self.handlers = _OwnHandlers(name, self._kind or name)
        hold_to(self.handlers, self.sessions, limits or InboxLimits())
        self.on = self.handlers.on
        self.on_list = self.handlers.on_list
        self.outside = self.handlers.outside
        self.complete = Completing(self.handlers, self.clock)
        self.pending = PendingCommands(self.handlers, self.clock)
        self.progress = _progress(self.clock, self.relay_settings)
        self._observer = _Unobserved()
        self.entrance = Entrance(self, held)
        self.follow = self.entrance.follow
        # The application that it is attached to.
        self.application: Starlette | None = None
        # What sends its messages in place of a relay, if `carried_by` said so.
        self.carrier: Carrier | None = None
        self._inbox = None
        self._runtime: Runtime | None = None

    @property
    def runs_here(self) -> bool:
        """Whether it runs in this event loop, and is not about to stop."""
        return self._runtime is not None and self._runtime.runs_here

    @property
    def is_carrying(self) -> bool:
        """Whether its messages are carried now."""
        return self._runtime is not None and self._runtime.is_carrying

    def start(
        self,
        session: Session | AsyncSession,
        saga: SagaRef[S],
        input: S,
        *,
        id: str | None = None,
        begin_at: datetime | None = None,
        orchestrator: str = "orchestrator",
    ) -> str:
        """Ask the orchestrator to run the saga with this input, if the session's transaction
        commits; returns the run's id.

        Under the same `id`, a UUIDv7 as `new_id` makes them, it is one run, however often it is
        asked for; with another input it is refused. With `begin_at` (aware) it is asked for at once
        and begins then. The end of the run comes as the event `outbox.contract.SagaEnded`. Raises
        what `outbox.add` does.
        """
        run = self.new_id() if id is None else id
        value = _input_of(saga, input)
        add(session, StartSaga(saga.name, value, run, begin_at), to=orchestrator)
        return run

    def attach(
        self, app: Any, *, messages: bool = True, health: bool = True, metrics: bool = True
    ) -> None:
        """Add to a FastAPI or Starlette application what the service needs: `POST /messages`;
        `/livez` and `/readyz`; `/metrics`; and, from its start to its end, `running()`.

        Each can be left out. The application keeps its own lifespan, which begins before and ends
        after. Raises InvalidService where an address is taken, or the application runs already.
        """
        from outbox.integrations.fastapi import attach

        attach(self, app, messages=messages, health=health, metrics=metrics)
        self.application = app

    def wsgi(
        self,
        app: WSGIApplication | None = None,
        *,
        messages: bool = True,
        health: bool = True,
        metrics: bool = True,
    ) -> WsgiService:
        """The same for WSGI: an application around `app`, or alone, to be mounted. It answers the
        addresses of the service, and runs it in a thread of each process.

        Nothing begins before the first request, or `start()`, so that a server may fork. Raises
        InvalidService where the database is asynchronous.
        """
        if not isinstance(self.sessions, sessionmaker):
            refuse(
                f"the service {self.name} has an AsyncEngine, whose sessions no WSGI application "
                "can use",
                "give the service an Engine, or its sessionmaker",
            )
        from outbox.integrations.wsgi import WsgiService

        return WsgiService(self, app, messages=messages, health=health, metrics=metrics)

    def forget_parent(self) -> None:
        """Forget, in a process that was forked from one in which the service ran, what belongs to
        that one: its connections, the messages that it has in hand, and that it runs."""
        self._inbox, self._runtime, self._observer = None, None, _Unobserved()
        self.entrance.forget()
        self.progress = _progress(self.clock, self.relay_settings)
        leave_connections(self.sessions.kw["bind"], self.engine.sync_engine)

    def observed_by(self, observer: Observer) -> None:
        """Let the observer watch its messages. Raises InvalidService where it has one, as it is
        attached, and after its inbox was used, or its transports."""
        if not isinstance(self._observer, _Unobserved):
            refuse(
                f"the service {self.name} is attached to an application, which runs it",
                "start that application, for instance with uvicorn",
            )
        if self._inbox is not None or self.carrier is not None:
            refuse(
                f"the service {self.name} takes messages already, and cannot be observed from now",
                "call attach() right after outbox.Service(...)",
            )
        self._observer = observer

    def carried_by(
        self,
        make: Callable[[Mapping[str, Transport]], Carrier],
        *,
        settled: Callable[[], EndedSagas | None] | None = None,
    ) -> None:
        """Let the carrier that is made of its transports send its messages, in place of a relay."""
        self.carrier = make(self._transports(settled))

    def reach(self, neighbour: Neighbour) -> None:
        """Send what is for that service within the process, where it runs too. Call it before this
        one runs. Raises InvalidService."""
        if self._runtime is not None or self.carrier is not None:
            refuse(
                f"the service {self.name} runs already, without a way to {neighbour.name}",
                "call it where both are made, before the application starts",
            )
        self._ways.add(neighbour)
        self._installation = reach(self.sessions, neighbour.name)

    def keys(self) -> Keyring:
        """The signing keys. Raises InvalidService where there are none."""
        return signing_keys(self._secrets, self.name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Relay and purge until the block ends; this is what `attach` does for an application.

        Raises FeatureMissing, SchemaMissing, SchemaOlder, TablesOfAnother, IsolationRefused,
        AutocommitRefused, InvalidService.
        """
        if self._runtime is not None:
            refuse(
                f"the service {self.name} runs already in this process",
                "attach it to one application, or use running() once",
            )
        carrier = self.carrier or _relay_of(self, self._transports(None), self.relay_settings)
        await self.check_server()
        await self.check_tables()
        since = await claim_tables(self.engine, self.name, self.clock.now(), self.tables)
        await require_same_tables(self.sessions, self.name, self.tables, since)
        self.database_id = database_id(self.name, since)
        self.origin_id = await origin_of(self.engine, self.database_id)
        await self.inbox.check_sessions()
        await _warn(self)
        self._runtime = Runtime(
            self.inbox,
            _with_trimmer(self, carrier, self.relay_settings) if self.log_readers else carrier,
            purge_interval=self._purge_interval,
            drain_seconds=self.drain_seconds,
        )
        self._ways.begin()
        try:
            async with self._runtime.running(), self.entrance.serving():
                yield
        finally:
            self._runtime = None
            if self._has_twin:
                await self.engine.dispose()

    async def check_server(self) -> None:
        """Raises FeatureMissing where the database's server lacks what the library needs."""
        await require_features(self.engine, self.name, self.tables)

    async def check_tables(self) -> None:
        """Raises a SchemaError where the library's tables are not there, lack columns, or may not
        be used."""
        async with reading(self.engine).connect() as connection:
            await connection.run_sync(require_tables, self.name, self.tables)

    def _transports(
        self, settled: Callable[[], EndedSagas | None] | None
    ) -> Mapping[str, Transport]:
        told = None if settled is None else partial(said_of, lambda: self.origin_id, settled)
        ways = self._ways.made(self, self.relay_settings.delivery_timeout, told)
        return {peer: self._observer.transport(peer, way) for peer, way in ways.items()}


def _progress(clock: Clock, settings: RelaySettings) -> Progress:
    stuck_after = max(STUCK_AFTER, 2 * settings.delivery_timeout)
    return Progress(clock.monotonic, stuck_after=stuck_after)


async def _warn(service: Service[Any]) -> None:
    for name, address in service.peers.items():
        blocks = service.relay_settings.of(name).on_exhaustion is OnExhaustion.BLOCK_KEY
        if blocks and is_broker(address):
            log.warning(
                "%s has the policy block_key for %s, which is behind a broker: what is rejected "
                "there does not block its key here",
                service.name,
                name,
            )
    for engine in {service.engine, service.sessions.kw["bind"]}:
        await warn_of_pooler(engine, service.name)
    for pattern in without_events(service._installation.routes):
        log.warning(
            "%s has the route %s, and no event that is declared here fits to it: correct the word, "
            "or import the module of these events before the service starts",
            service.name,
            pattern,
        )


def _relay_of(
    service: Service[Any], transports: Mapping[str, Transport], settings: RelaySettings
) -> Relay:
    return Relay(
        service.engine,
        transports,
        owner=service.name,
        clock=service.clock,
        settings=settings,
        bell=service.bell,
        progress=service.progress,
        tables=service.tables,
        destinations={
            name: DestinationSettings(
                retry=hook.retry, pause_after=hook.pause_after, on_exhaustion=hook.on_exhaustion
            )
            for name, hook in service.webhooks.items()
        },
        read_elsewhere=service.log_readers,
    )


def _with_trimmer(service: Service[Any], carrier: Carrier, settings: RelaySettings) -> Carrier:
    trimmer = Trimmer(
        service.engine,
        service.log_readers,
        service=service.name,
        clock=service.clock,
        tables=service.tables,
        progress=service.progress,
        poll=settings.poll,
    )
    return Together(carrier, trimmer)


def _input_of(saga: SagaRef[S], input: S) -> dict[str, Any]:
    value = encode_value(input)
    if not isinstance(value, dict):
        refuse(
            f"the input of the saga {saga.name} is a {type(input).__name__}",
            "give the dataclass that the saga has for its state",
        )
    return value
