"""The application of a service: what is around it, and how it starts and stops.

What is sent and handled is that of the `outbox.Service` within; this module adds what all services
share besides: doors, addresses, problem details, and the refusal of a wrong start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from outbox.chassis.access.failed_keys import Failures
from outbox.chassis.access.keys import Keys, StaticKeys
from outbox.chassis.access.middleware import AccessMiddleware
from outbox.chassis.access.policy import AccessPolicy
from outbox.chassis.access.rate_limit import Rates
from outbox.chassis.access.routes import NOTHING, Opens, RouteAccess, Table
from outbox.chassis.configured import ConfiguredService
from outbox.chassis.endpoints import api_docs, health, openapi
from outbox.chassis.endpoints.backlog import Standing
from outbox.chassis.endpoints.metrics import Metrics
from outbox.chassis.endpoints.served import checks_of, standing_of
from outbox.chassis.http import problems
from outbox.chassis.http.middleware import BodyLimit, Boundary, SecurityHeaders
from outbox.chassis.http.proxied import Heads, Prefixed
from outbox.chassis.http.request_traces import Traced
from outbox.chassis.shutdown import told_of_signals
from outbox.database.troubles import Trouble, failed_to_connect, trouble_in_statement, words_of
from outbox.errors import OutboxError
from outbox.runtime import Carrier
from outbox.schema import claim_tables
from outbox.transports.base import Transport
from outbox.transports.http.receiver import behind
from outbox.wire.settled import EndedSagas

log = logging.getLogger(__name__)


class CannotStart(OutboxError):
    """The service found at its start that it could not work."""


@dataclass(frozen=True)
class Kit:
    """The parts of the chassis for a service's own addresses.

    `stopping` is set as soon as the service is told to stop: a long answer has to end then.
    `failures` are those of callers with wrong keys.
    """

    metrics: Metrics
    stopping: asyncio.Event
    failures: Failures


@dataclass(frozen=True)
class Blueprint:
    """What is to be built around one service.

    `api` makes its public addresses, and `access` says what each of them asks for; one that is left
    out is for administrators alone.

    `carrier` and `settled` are as for `Service.carried_by`; the carrier is made before `api` is
    called. `before_start` is awaited once the database is known to be right, and raises OutboxError
    where the service must not run. `before_scrape` is awaited before /metrics shows its figures.
    `beside` makes what is entered before the service runs, and left after that.

    `keys` are the access keys of callers. `at_home` is what callers on the same machine may do
    without a key, and `to_all` what all callers may: nothing, unless the operator said otherwise.
    `key_advice` says where a key comes from.
    """

    service: ConfiguredService
    title: str
    description: str
    api: Callable[[Kit], APIRouter]
    carrier: Callable[[Mapping[str, Transport]], Carrier] | None = None
    settled: Callable[[], EndedSagas | None] | None = None
    before_start: Callable[[], Awaitable[None]] | None = None
    before_scrape: Callable[[], Awaitable[None]] | None = None
    beside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    access: Table = field(default_factory=dict)
    keys: Keys = field(default_factory=lambda: StaticKeys({}))
    at_home: Opens = NOTHING
    to_all: Opens = NOTHING
    key_advice: str = "The one who runs the service has keys"


def build(blueprint: Blueprint) -> FastAPI:
    """The application, ready for an ASGI server; nothing is connected before it starts."""
    chassis = Chassis(blueprint)
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
    app.add_middleware(Traced, new_id=blueprint.service.new_id)
    app.add_middleware(Prefixed, prefix=blueprint.service.settings.root_path)
    app.add_middleware(Heads)
    return app


class Chassis:
    """What is around one service in one process: its doors, its addresses, its start and end."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self.service = service = blueprint.service
        self.database = service.database
        self.metrics = Metrics(service.clock, service.progress)
        service.observed_by(self.metrics)
        if blueprint.carrier is not None:
            service.carried_by(blueprint.carrier, settled=blueprint.settled)
        self._kit = Kit(self.metrics, asyncio.Event(), Failures(service.clock.monotonic))

    def doors(self, app: ASGIApp) -> ASGIApp:
        """`app` behind the access middleware."""
        settings = self.service.settings
        return AccessMiddleware(
            app,
            routes=RouteAccess(self._blueprint.access),
            policy=AccessPolicy(
                settings.host_names(), self._blueprint.at_home, self._blueprint.to_all
            ),
            keys=self._blueprint.keys,
            failures=self._kit.failures,
            rates=Rates(self.service.clock.monotonic, rate=settings.rate_limit),
            key_advice=self._blueprint.key_advice,
        )

    def routers(self) -> Sequence[APIRouter]:
        """All addresses, the service's own first."""
        service = self.service
        return (
            self._blueprint.api(self._kit),
            behind(service.entrance.door),
            health.router(checks_of(service, threads=True)),
            self.metrics.router(
                self._standing,
                relay_runs=lambda: service.is_carrying,
                queues=service.entrance.queues.figures,
            ),
            api_docs.router(self._blueprint.title),
        )

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """The lifespan of the service. It refuses to start on a wrong database; else it relays and
        purges until the server stops, and then gives the work in hand `drain_seconds`."""
        self._kit.stopping.clear()
        try:
            await self._check_start()
            self._warn_of_what_is_open()
            async with self._blueprint.beside(), self.service.running():
                try:
                    async with self._registered():
                        with told_of_signals(self._kit.stopping):
                            yield
                finally:
                    self._kit.stopping.set()
        finally:
            await self.database.engine.dispose()

    @asynccontextmanager
    async def _registered(self) -> AsyncIterator[None]:
        registration = self.service.settings.registration()
        if registration is None:
            yield
            return
        async with registration.held():
            yield

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
            service = self.service
            await service.check_server()
            await service.check_tables()
            await claim_tables(service.engine, service.name, service.clock.now(), service.tables)
            if self._blueprint.before_start is not None:
                await self._blueprint.before_start()
        except OutboxError:
            raise
        except Exception as error:
            if trouble_in_statement(error) is Trouble.OWN and not failed_to_connect(error):
                raise
            raise CannotStart(
                f"the database of {self.service.name} does not answer ({words_of(error)})",
                next_step="start the database, or correct its address in "
                f"SAGABOX_DATABASE_URL_{self.service.history.upper()}",
            ) from error

    async def _standing(self) -> Standing:
        if self._blueprint.before_scrape is not None:
            await self._blueprint.before_scrape()
        return await standing_of(self.service)
