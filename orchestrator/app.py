"""The orchestrator, put together: `uvicorn --factory orchestrator.app:create_app`."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import APIRouter, FastAPI

from orchestrator import api, console
from orchestrator.access.token_keys import TokenKeys
from orchestrator.api import problems, session
from orchestrator.api.context import ApiContext, Runs
from orchestrator.api.route_access import ACCESS
from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.discovery import discover
from orchestrator.engine.commits.committer import CommitterStats
from orchestrator.engine.engine import Engine
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.watchers import OnStuck
from orchestrator.errors import InvalidSaga, OrchestratorError
from orchestrator.handlers import add_handlers
from orchestrator.metrics import Figures
from orchestrator.rest_calls.participant import RestInbox, RestParticipant
from orchestrator.rest_calls.participants import RestParticipants, RestTransports, running
from orchestrator.retention.lookup import ArchivedRuns
from orchestrator.retention.running import Forgetting
from orchestrator.settings import OrchestratorSettings
from orchestrator.tables import SCHEMA_REVISION
from outbox.chassis.access.keys import EitherKeys, Keys
from outbox.chassis.configured import ConfiguredService
from outbox.chassis.service import Blueprint, CannotStart, Kit, build
from outbox.chassis.settings import load
from outbox.clock import Clock
from outbox.database.opening import Database
from outbox.runtime import Carrier
from outbox.transports.base import Transport
from outbox.transports.in_process import Neighbour
from outbox.wire.settled import EndedSagas

if TYPE_CHECKING:
    from outbox.transports.grpc.server import Hosted

log = logging.getLogger(__name__)

HISTORY = "orchestrator"
"""The name of the migrations of an orchestrator's database, also where that has another name."""


def create_app(
    settings: OrchestratorSettings | None = None,
    *,
    sagas: Iterable[Saga[Any]] | None = None,
    participants: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    transports: Mapping[str, Transport] | None = None,
    on_stuck: OnStuck | None = None,
) -> FastAPI:
    """The application; `settings` come from the environment unless given. It lets no caller in
    without a key, also on the same machine, unless they have `trust_loopback`.

    `sagas` and `participants` (name -> address) replace those that the settings name, and `sagas`
    those of installed packages too. `transports` replaces those that send to the participants over
    HTTP. `on_stuck` is called with each step that needs an operator, see `OnStuck`. Raises
    InvalidSettings, and InvalidSaga where the sagas do not fit each other or the
    participants.
    """
    settings = settings or load(OrchestratorSettings)
    if participants is None:
        participants = settings.participant_addresses()
    registry = Registry(discover(settings.sagas) if sagas is None else sagas, participants)
    return assemble(
        settings,
        registry,
        make_engine=Engine,
        clock=clock,
        transports=transports,
        on_stuck=on_stuck,
    )


class Runner(Runs, Carrier, Protocol):
    """The service's port to `orchestrator.engine.engine.Engine`."""

    @property
    def stats(self) -> CommitterStats:
        """The counts of its commits since its start."""

    async def check_start(self) -> None:
        """Check that this node may run. Raises OrchestratorError where it must not."""

    def settled(self) -> EndedSagas | None:
        """The statement about ended runs, for participants."""


def assemble(
    settings: OrchestratorSettings,
    registry: Registry,
    *,
    make_engine: Callable[..., Runner],
    clock: Clock | None = None,
    transports: Mapping[str, Transport] | None = None,
    on_stuck: OnStuck | None = None,
    host: Host | None = None,
    rest_transports: RestTransports | None = None,
) -> FastAPI:
    """The application around the engine of `make_engine`, which takes the arguments of
    `orchestrator.engine.engine.Engine`. With a `host` it is a part of another application.
    `rest_transports` replace the network to plain HTTP services."""
    for saga in registry:
        if settings.name in saga.participants:
            raise InvalidSaga(
                f"{saga} sends commands to {settings.name}, which is the name of this "
                "orchestrator: what is for one of the two would reach the other",
                next_step="give the orchestrator another name (SAGABOX_ORCHESTRATOR)",
            )
    neighbours = {} if host is None else {it.name: it for it in host.neighbours}
    rest = RestParticipants(registry, rest_transports)
    service = ConfiguredService(
        settings.name,
        settings,
        database_url=settings.database_url,
        database=None if host is None else host.database,
        history=HISTORY,
        to_upgrade=None if host is None else host.to_upgrade,
        revision=SCHEMA_REVISION,
        peers={
            name: it
            for name, it in registry.participants.items()
            if name not in neighbours and name not in rest.names
        },
        clock=clock,
        transports=transports,
    )
    for neighbour in neighbours.values():
        service.reach(neighbour)
    if host is not None:
        service.entrance.leave_grpc()
    called = _called_by(service, rest)
    _take_messages(service)
    parts = _Parts(
        service,
        registry,
        make_engine,
        EngineSettings(
            name=settings.name,
            takes_turns=host is not None,
            relay=settings.relay_settings(),
            stuck_to=settings.told_of_stuck(registry.participants.keys() - rest.names),
        ),
        on_stuck,
        None if host is None else host.keys,
        called,
        _forgetting(service, settings),
    )
    app = build(
        Blueprint(
            service,
            title="Orchestrator",
            description="Runs sagas across services, watches them, and lets people repair them.",
            api=parts.api,
            carrier=parts.carrier,
            settled=parts.settled,
            before_start=parts.check_start,
            before_scrape=parts.refresh_figures,
            beside=parts.beside,
            access=ACCESS,
            keys=parts.keys,
            at_home=settings.at_home(),
            key_advice=f"On its machine: {_to_make_a_token(service.database)}",
        )
    )
    problems.install(app)
    service.entrance.host(lambda: _runs_over_grpc(app))
    return app


def _runs_over_grpc(app: FastAPI) -> Hosted:
    from orchestrator.api_grpc.service import RunsService

    return RunsService(app)


def _forgetting(service: ConfiguredService, settings: OrchestratorSettings) -> Forgetting:
    return Forgetting(
        service,
        settings.retention_policy(),
        settings.opened_archive(),
        for_good=settings.removes_for_good(),
    )


def _called_by(service: ConfiguredService, rest: RestParticipants) -> Sequence[RestParticipant]:
    """The plain HTTP services, which get what is for them within this process."""
    settings = service.settings
    called = rest.made(
        service.database,
        partial(
            RestInbox, clock=service.clock, limits=settings.inbox_limits(), peers=[service.name]
        ),
        orchestrator=service.name,
        clock=service.clock,
        ids=service.new_id,
        bell=service.bell,
        purge_interval=settings.purge_interval,
    )
    for participant in called:
        service.reach(participant)
    return called


@dataclass(frozen=True)
class Host:
    """What an orchestrator within another application is given: its database, and how that gets
    its tables; the services of the same process; and the access keys that count beside its
    tokens."""

    database: Database
    to_upgrade: str
    neighbours: Collection[Neighbour]
    keys: Keys


class _Parts:
    """The parts of this service alone. The chassis makes them one by one, the engine first."""

    engine: Runner
    figures: Figures

    def __init__(
        self,
        service: ConfiguredService,
        registry: Registry,
        make_engine: Callable[..., Runner],
        settings: EngineSettings,
        on_stuck: OnStuck | None,
        keys: Keys | None,
        called: Sequence[RestParticipant],
        forgetting: Forgetting,
    ) -> None:
        self.forgetting = forgetting
        self._called = called
        self._tokens = TokenKeys(service.database, service.clock, os.urandom)
        self.keys: Keys = self._tokens if keys is None else EitherKeys(keys, self._tokens)
        self._service = service
        self._settings = settings
        self._on_stuck = on_stuck
        self._registry = registry
        self._make_engine = make_engine

    def carrier(self, transports: Mapping[str, Transport]) -> Carrier:
        self.engine = self._make_engine(
            self._service.database,
            self._registry,
            transports,
            clock=self._service.clock,
            ids=self._service.new_id,
            bell=self._service.bell,
            settings=self._settings,
            owner=self._service.name,
            progress=self._service.progress,
            on_stuck=self._on_stuck,
        )
        return self.engine

    def api(self, kit: Kit) -> APIRouter:
        service = self._service
        for participant in self._called:
            participant.inbox.counted = kit.metrics.called
        self.figures = Figures(
            kit.metrics.registry,
            service.database,
            transitions=lambda: self.engine.stats.transitions,
            stray_effects=lambda: self.engine.stats.stray_effects,
            late_answers=lambda: self.engine.stats.late_answers,
            commits={
                "short": lambda: self.engine.stats.in_one_trip,
                "long": lambda: self.engine.stats.step_by_step,
            },
            monotonic=service.clock.monotonic,
        )
        desk = ApiContext(
            self.engine,
            service.database,
            service.clock,
            service.bell,
            self.keys,
            kit.stopping,
            service.new_id,
            lambda: service.addresses,
            ArchivedRuns(service.database, self.forgetting.archive),
        )
        self.forgetting.counted_in(kit.metrics.registry)
        parts = (
            api.router(desk),
            session.router(self._tokens, kit.failures, service.clock),
            console.router(),
        )
        return APIRouter(routes=[route for part in parts for route in part.routes])

    def settled(self) -> EndedSagas | None:
        return self.engine.settled()

    async def refresh_figures(self) -> None:
        await self.figures.refresh()
        await self.forgetting.refresh_figures()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        async with running(self._called), self.forgetting.running():
            yield

    async def check_start(self) -> None:
        try:
            await self.engine.check_start()
        except OrchestratorError as error:
            raise CannotStart(error.problem, next_step=error.next_step) from error
        if not self._service.settings.trust_loopback and not await self._tokens.any_works():
            command = _to_make_a_token(self._service.database)
            log.warning("no token opens this orchestrator yet: %s", command)


def _take_messages(service: ConfiguredService) -> None:
    add_handlers(
        service.handlers,
        service.clock,
        unsettled=EngineSettings.unsettled,
        database=lambda: service.origin_id,
    )


def _to_make_a_token(database: Database) -> str:
    """The command, with the names of the tables; its user gives the address where no setting has
    it."""
    tables = database.tables
    named = f"SAGABOX_TABLE_PREFIX={tables.prefix} " if tables.prefix else ""
    if tables.schema is not None:
        named += f"SAGABOX_SCHEMA={tables.schema} "
    return f"{named}sagabox token create NAME --role viewer|operator|admin [--database URL]"
