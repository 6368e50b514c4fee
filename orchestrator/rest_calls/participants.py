"""The participants of an orchestrator that are plain HTTP services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from orchestrator.definition.registry import Registry
from orchestrator.definition.rest import RestCall
from orchestrator.errors import InvalidSaga
from orchestrator.rest_calls import secrets
from orchestrator.rest_calls.answers import tell_run
from orchestrator.rest_calls.base import PREFIX, Base, is_rest
from orchestrator.rest_calls.http import Http
from orchestrator.rest_calls.participant import RestInbox, RestParticipant, handlers_for
from outbox.adding.installation import install
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.database.opening import Database
from outbox.inbox.handlers import Handlers
from outbox.inbox.pending.complete import TELLING

RestTransports = Mapping[str, httpx.AsyncBaseTransport]
"""What replaces the network to a participant, by its name."""


class RestParticipants:
    """Those of one orchestrator, by name. Raises InvalidSaga where a step and its participant do
    not fit, SecretMissing, and OutboxError where an address cannot be."""

    def __init__(self, registry: Registry, transports: RestTransports | None = None) -> None:
        self._transports = transports or {}
        self._bases = {
            name: Base.parse(address)
            for name, address in registry.participants.items()
            if is_rest(address)
        }
        self._calls: dict[str, list[RestCall[object]]] = {name: [] for name in self._bases}
        for saga in registry:
            for (step, _), call in saga.rest_calls.items():
                if call.message_type.owner not in self._bases:
                    raise _no_rest(str(saga), step, call.message_type.owner)
                secrets.headers_of(call)
                self._calls[call.message_type.owner].append(call)
            for place, type in saga.message_types.items():
                if type.owner in self._bases and place not in saga.rest_calls:
                    raise _only_rest(str(saga), place[0], str(type))

    @property
    def names(self) -> frozenset[str]:
        """Their names."""
        return frozenset(self._bases)

    def made(
        self,
        database: Database,
        make_inbox: Callable[[Handlers, async_sessionmaker[AsyncSession]], RestInbox],
        *,
        orchestrator: str,
        clock: Clock,
        ids: Callable[[], str],
        bell: Bell,
        purge_interval: float,
    ) -> Sequence[RestParticipant]:
        """Them, with their inboxes in that database. Their late answers go to `orchestrator`."""
        found = []
        for name, base in self._bases.items():
            sessions = async_sessionmaker(
                database.engine, expire_on_commit=False, info={TELLING: tell_run}
            )
            install(
                sessions,
                source=name,
                routes={},
                clock=clock,
                ids=ids,
                bell=bell,
                peers=[orchestrator],
                tables=database.tables,
            )
            http = Http(self._transports.get(name))
            handlers = handlers_for(name, base, self._calls[name], http)
            found.append(
                RestParticipant(handlers, sessions, make_inbox, http, purge_interval=purge_interval)
            )
        return found


@asynccontextmanager
async def running(participants: Sequence[RestParticipant]) -> AsyncIterator[None]:
    """Run them all until the block ends."""
    async with AsyncExitStack() as stack:
        for each in participants:
            await stack.enter_async_context(each.running())
        yield


def _no_rest(saga: str, step: str, participant: str) -> InvalidSaga:
    return InvalidSaga(
        f"step {step!r} of {saga} is a REST call to {participant}, which is not registered as a "
        "plain HTTP service",
        next_step=f"register it as {participant}={PREFIX}https://HOST/PATH in SAGABOX_PARTICIPANTS",
    )


def _only_rest(saga: str, step: str, type: str) -> InvalidSaga:
    return InvalidSaga(
        f"step {step!r} of {saga} sends the command {type} to a participant that is registered as "
        "a plain HTTP service, which cannot read it",
        next_step=f"make the step's command by rest(...), or register the participant without "
        f"{PREFIX}, if it uses the library",
    )
