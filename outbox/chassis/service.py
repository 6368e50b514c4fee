"""A service: its parts, and how it starts and stops.

A service hands in its own parts (handlers, routes, its public addresses); this module puts the
parts that all services share around them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from outbox.adding.installation import Routes, install
from outbox.chassis.access.failed_keys import Failures
from outbox.chassis.access.keys import Keys, StaticKeys
from outbox.chassis.access.middleware import AccessMiddleware
from outbox.chassis.access.policy import AccessPolicy
from outbox.chassis.access.rate_limit import Rates
from outbox.chassis.access.routes import NOTHING, Opens, RouteAccess, Table
from outbox.chassis.endpoints import api_docs, health, openapi
from outbox.chassis.endpoints.backlog import Backlog, standing
from outbox.chassis.endpoints.metrics import MeteredInbox, Metrics
from outbox.chassis.http import problems
from outbox.chassis.http.middleware import BodyLimit, Boundary, SecurityHeaders
from outbox.chassis.http.request_traces import Traced
from outbox.chassis.settings import ServiceSettings
from outbox.chassis.shutdown import told_of_signals
from outbox.clock import Clock, SystemClock
from outbox.coordination.bell import Bell
from outbox.coordination.progress import STUCK_AFTER, Progress
from outbox.database.opening import Database, open_database
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import OutboxError
from outbox.ids import Ids
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.relay.relay import Relay
from outbox.runtime import Carrier, Runtime
from outbox.schema import require_revision
from outbox.transports.base import Transport
from outbox.transports.http.receiver import receiver
from outbox.transports.http.transport import HttpTransport
from outbox.wire.settled import EndedSagas

log = logging.getLogger(__name__)


class CannotStart(OutboxError):
    """The service found at its start that it could not work."""


@dataclass(frozen=True)
class Kit:
    """The kit from which a service's own parts are built.

    `bell` rings when there may be messages to send. `stopping` is set as soon as the service is
    told to stop: a long answer has to end then. `failures` are those of callers with wrong keys.
    `progress` is told of each piece of work that the service does beside requests.
    """

    database: Database
    clock: Clock
    new_id: Callable[[], str]
    bell: Bell
    metrics: Metrics
    stopping: asyncio.Event
    failures: Failures
    progress: Progress


@dataclass(frozen=True)
class Blueprint:
    """One kind of service.

    `revision` is the database revision that its code needs. `peers` are the services that it sends
    to, with their addresses. `api` makes its public addresses, and `access` says what each of them
    asks for; one that is left out is for administrators alone.

    `carrier` makes the sender of its messages over the given transports, where that is not the
    relay alone; it is called before `api`. `settled` gives what deliveries say of ended sagas.
    `before_start` is awaited once the database is known to be right, and raises OutboxError where
    the service must not run. `before_scrape` is awaited before /metrics shows its figures.

    `keys` makes the access keys of callers; without it there are none. `at_home` is what callers on
    the same machine may do without a key, and `to_all` what all callers may: nothing, unless the
    operator said otherwise. `key_advice` says where a key comes from.
    """

    name: str
    title: str
    description: str
    revision: str
    handlers: Callable[[Clock], Handlers]
    routes: Routes
    peers: Mapping[str, str]
    api: Callable[[Kit], APIRouter]
    carrier: Callable[[Kit, Mapping[str, Transport]], Carrier] | None = None
    settled: Callable[[], EndedSagas | None] | None = None
    before_start: Callable[[], Awaitable[None]] | None = None
    before_scrape: Callable[[], Awaitable[None]] | None = None
    access: Table = field(default_factory=dict)
    keys: Callable[[Kit], Keys] | None = None
    at_home: Opens = NOTHING
    to_all: Opens = NOTHING
    key_advice: str = "The one who runs the service has keys"


def build(
    blueprint: Blueprint,
    settings: ServiceSettings,
    *,
    database_url: str,
    clock: Clock | None = None,
    transports: Mapping[str, Transport] | None = None,
) -> FastAPI:
    """The application, ready for an ASGI server; nothing is connected before it starts.

    `transports` replaces those that send to the peers over HTTP. Raises InvalidSettings.
    """
    chassis = Chassis(blueprint, settings, database_url, clock or SystemClock(), transports)
    app = FastAPI(
        title=blueprint.title,
        description=blueprint.description,
        lifespan=chassis.lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.chassis = chassis
    for router in chassis.routers():
        # Not include_router(), which works out every route once more.
        app.router.routes.extend(router.routes)
    problems.install(app)
    openapi.install(app)
    # The middleware added last is the outermost.
    app.add_middleware(BodyLimit)
    app.add_middleware(chassis.doors)
    app.add_middleware(Boundary)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(chassis.metrics.http)
    app.add_middleware(Traced, new_id=chassis.ids)
    return app


class Chassis:
    """One service in one process: its database, its inbox, and the carrier of its messages."""

    def __init__(
        self,
        blueprint: Blueprint,
        settings: ServiceSettings,
        database_url: str,
        clock: Clock,
        transports: Mapping[str, Transport] | None,
    ) -> None:
        self._blueprint = blueprint
        self._settings = settings
        self._clock = clock
        self._keys = settings.keyring()
        self.ids = Ids(clock, os.urandom)
        self.progress = Progress(
            clock.monotonic, stuck_after=max(STUCK_AFTER, 2 * settings.delivery_timeout)
        )
        self.metrics = Metrics(clock, self.progress)
        self.database = open_database(
            database_url,
            name=f"sagabox-{blueprint.name}",
            pool_size=settings.pool_size,
            pool_overflow=settings.pool_overflow,
        )
        installation = install(
            self.database.sessions,
            source=blueprint.name,
            routes=blueprint.routes,
            clock=clock,
            ids=self.ids,
        )
        self.inbox: Inbox = MeteredInbox(
            blueprint.handlers(clock),
            self.database.sessions,
            clock=clock,
            limits=settings.inbox_limits(),
            metrics=self.metrics,
            peers=blueprint.peers if transports is None else transports,
            progress=self.progress,
        )
        if transports is None:
            transports = {name: self._over_http(url) for name, url in blueprint.peers.items()}
        self._stopping = asyncio.Event()
        self._kit = Kit(
            self.database,
            clock,
            self.ids,
            installation.bell,
            self.metrics,
            self._stopping,
            Failures(clock.monotonic),
            self.progress,
        )
        make_carrier = blueprint.carrier or self._relay
        self.carrier: Carrier = make_carrier(
            self._kit, {name: self.metrics.transport(name, it) for name, it in transports.items()}
        )
        self._callers: Keys = (
            StaticKeys({}) if blueprint.keys is None else blueprint.keys(self._kit)
        )
        self._runtime = Runtime(
            self.inbox,
            self.carrier,
            purge_interval=settings.purge_interval,
            drain_seconds=settings.drain_seconds,
        )

    def doors(self, app: ASGIApp) -> ASGIApp:
        """`app` behind the access middleware."""
        return AccessMiddleware(
            app,
            routes=RouteAccess(self._blueprint.access),
            policy=AccessPolicy(
                self._settings.host_names(), self._blueprint.at_home, self._blueprint.to_all
            ),
            keys=self._callers,
            failures=self._kit.failures,
            rates=Rates(self._clock.monotonic, rate=self._settings.rate_limit),
            key_advice=self._blueprint.key_advice,
        )

    def routers(self) -> Sequence[APIRouter]:
        """All addresses, the service's own first."""
        checks: dict[str, health.Check] = {
            "database": self._check_database,
            "relay": self._check_relay,
            "work": health.work(self.progress),
        }
        return (
            self._blueprint.api(self._kit),
            receiver(
                self.inbox,
                keys=self._keys,
                clock=self._clock,
                concurrency=self._settings.receive_concurrency,
                ids=self.ids,
                skewed=self.metrics.skewed,
            ),
            health.router(checks),
            self.metrics.router(self._standing, relay_runs=lambda: self._runtime.is_carrying),
            api_docs.router(self._blueprint.title),
        )

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """The lifespan of the service. It refuses to start on a wrong database; else it relays and
        purges until the server stops, and then gives the work in hand `drain_seconds`."""
        self._stopping.clear()
        try:
            await self._check_start()
            self._warn_of_what_is_open()
            async with self._runtime.running():
                try:
                    with told_of_signals(self._stopping):
                        yield
                finally:
                    self._stopping.set()
        finally:
            await self.database.engine.dispose()

    def _warn_of_what_is_open(self) -> None:
        if self._blueprint.at_home:
            log.warning(
                "callers on this machine need no key (SAGABOX_TRUST_LOOPBACK is set), and so do "
                "those that a proxy on this machine lets through"
            )
        if self._blueprint.to_all:
            log.warning("the public routes need no key, wherever a caller is")

    async def _check_start(self) -> None:
        try:
            await self._check_database()
            if self._blueprint.before_start is not None:
                await self._blueprint.before_start()
        except OutboxError:
            raise
        except Exception as error:
            if trouble_in_statement(error) is Trouble.OWN:
                raise
            cause = getattr(error, "orig", None) or error
            raise CannotStart(
                f"the database of {self._blueprint.name} does not answer ({cause})",
                next_step="start the database, or correct its address in "
                f"SAGABOX_DATABASE_URL_{self._blueprint.name.upper()}",
            ) from error

    def _relay(self, kit: Kit, transports: Mapping[str, Transport]) -> Carrier:
        return Relay(
            kit.database.engine,
            transports,
            owner=self._blueprint.name,
            clock=kit.clock,
            settings=self._settings.relay_settings(),
            bell=kit.bell,
            progress=kit.progress,
        )

    async def _check_database(self) -> None:
        """The check that the database answers, and has a schema that this code may run on."""
        await require_revision(
            self.database.engine,
            service=self._blueprint.name,
            expected=self._blueprint.revision,
        )

    async def _check_relay(self) -> None:
        if not self._runtime.is_carrying:
            raise health.NotReady(
                "the relay does not run, so that messages stay where they are",
                next_step="restart the service; its log says why the relay ended",
            )

    async def _standing(self) -> Sequence[Backlog]:
        if self._blueprint.before_scrape is not None:
            await self._blueprint.before_scrape()
        async with self.database.reading.connect() as connection:
            return await standing(connection, self._blueprint.peers)

    def _over_http(self, url: str) -> Transport:
        return HttpTransport(
            url,
            source=self._blueprint.name,
            keys=self._keys,
            clock=self._clock,
            settled=self._blueprint.settled,
            timeout=self._settings.delivery_timeout,
        )
