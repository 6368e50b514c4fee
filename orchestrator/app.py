"""The orchestrator, put together: `uvicorn --factory orchestrator.app:create_app`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

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
from orchestrator.errors import OrchestratorError
from orchestrator.handlers import make_handlers
from orchestrator.metrics import Figures
from orchestrator.settings import OrchestratorSettings
from orchestrator.tables import SCHEMA_REVISION
from outbox.chassis.service import Blueprint, CannotStart, Kit, build
from outbox.chassis.settings import load
from outbox.clock import Clock
from outbox.inbox.handlers import Handlers
from outbox.relay.settings import RelaySettings
from outbox.runtime import Carrier
from outbox.transports.base import Transport
from outbox.wire.settled import EndedSagas

log = logging.getLogger(__name__)

NAME = "orchestrator"
_MAKE_TOKEN = "sagabox token create NAME --role viewer|operator|admin"


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
        participants = settings.peer_addresses()
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
) -> FastAPI:
    """The application around the engine of `make_engine`, which takes the arguments of
    `orchestrator.engine.engine.Engine`."""
    parts = _Parts(settings, registry, make_engine, on_stuck)
    app = build(
        Blueprint(
            name=NAME,
            title="Orchestrator",
            description="Runs sagas across services, watches them, and lets people repair them.",
            revision=SCHEMA_REVISION,
            handlers=parts.handlers,
            routes={},
            peers=registry.participants,
            api=parts.api,
            carrier=parts.carrier,
            settled=parts.settled,
            before_start=parts.check_start,
            before_scrape=parts.refresh_figures,
            access=ACCESS,
            keys=parts.make_keys,
            at_home=settings.at_home(),
            key_advice=f"On its machine: {_MAKE_TOKEN}",
        ),
        settings,
        database_url=settings.database_url,
        clock=clock,
        transports=transports,
    )
    problems.install(app)
    return app


class _Parts:
    """The parts of this service alone. The chassis makes them one by one, the engine first."""

    engine: Runner
    figures: Figures
    keys: TokenKeys

    def __init__(
        self,
        settings: OrchestratorSettings,
        registry: Registry,
        make_engine: Callable[..., Runner],
        on_stuck: OnStuck | None,
    ) -> None:
        self._settings = settings
        self._stuck_to = settings.told_of_stuck(registry.participants)
        self._on_stuck = on_stuck
        self._registry = registry
        self._make_engine = make_engine

    def handlers(self, clock: Clock) -> Handlers:
        return make_handlers(clock, unsettled=EngineSettings.unsettled)

    def carrier(self, kit: Kit, transports: Mapping[str, Transport]) -> Carrier:
        self.engine = self._make_engine(
            kit.database,
            self._registry,
            transports,
            clock=kit.clock,
            ids=kit.new_id,
            bell=kit.bell,
            settings=EngineSettings(
                relay=_together(self._settings.relay_settings()), stuck_to=self._stuck_to
            ),
            owner=NAME,
            progress=kit.progress,
            on_stuck=self._on_stuck,
        )
        return self.engine

    def api(self, kit: Kit) -> APIRouter:
        self.figures = Figures(
            kit.metrics.registry,
            kit.database,
            transitions=lambda: self.engine.stats.transitions,
            monotonic=kit.clock.monotonic,
        )
        desk = ApiContext(
            self.engine, kit.database, kit.clock, kit.bell, self.keys, kit.stopping, kit.new_id
        )
        parts = (
            api.router(desk),
            session.router(self.keys, kit.failures, kit.clock),
            console.router(),
        )
        return APIRouter(routes=[route for part in parts for route in part.routes])

    def make_keys(self, kit: Kit) -> TokenKeys:
        self.keys = TokenKeys(kit.database, kit.clock, os.urandom)
        return self.keys

    def settled(self) -> EndedSagas | None:
        return self.engine.settled()

    async def refresh_figures(self) -> None:
        await self.figures.refresh()

    async def check_start(self) -> None:
        try:
            await self.engine.check_start()
        except OrchestratorError as error:
            raise CannotStart(error.problem, next_step=error.next_step) from error
        if not self._settings.trust_loopback and not await self.keys.any_works():
            log.warning("no token opens this orchestrator yet: %s", _MAKE_TOKEN)


def _together(settings: RelaySettings) -> RelaySettings:
    """Settings for one request to a participant at a time: messages that gather meanwhile go into
    the next."""
    return replace(settings, width=1)
