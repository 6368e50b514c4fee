"""A service inside a FastAPI or Starlette application: see `outbox.Service.attach`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Route

from outbox.chassis.endpoints import health as probes
from outbox.chassis.endpoints import served
from outbox.chassis.endpoints.metrics import Metrics
from outbox.chassis.endpoints.served import Served, checks_of, standing_of
from outbox.chassis.http import problems
from outbox.chassis.http.proxied import Heads
from outbox.clock import Clock
from outbox.errors import InvalidService
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.runners import Sessions
from outbox.integrations import pending
from outbox.integrations.operator_access import VARIABLE, operator_token
from outbox.transports.base import Transport
from outbox.transports.http.door import Door
from outbox.transports.http.receiver import behind
from outbox.transports.http.signing import Keyring

_PATHS = {
    "messages": ("/messages",),
    "health": ("/livez", "/readyz"),
    "metrics": ("/metrics",),
}
_PENDING = "pending"


def addresses(*, messages: bool, health: bool, metrics: bool) -> Mapping[str, str]:
    """The addresses of a service, each with the option that leaves it out. Those for persons are
    among them where the operator's token is set. Raises InvalidService."""
    wanted = {"messages": messages, "health": health, "metrics": metrics}
    found = {path: option for option, paths in _PATHS.items() for path in paths if wanted[option]}
    if operator_token() is not None:
        found |= dict.fromkeys(pending.PATHS, _PENDING)
    return found


class Observer(Protocol):
    """A watcher of the messages of a service."""

    def inbox(self, handlers: Handlers, sessions: Sessions, **options: Any) -> Inbox:
        """The inbox with these options, watched."""

    def transport(self, destination: str, transport: Transport) -> Transport:
        """The transport to that destination, watched."""

    def skewed(self, sender: str, seconds: float) -> None:
        """Note by how much a sender's clock is ahead."""


class Entered(served.Entered, Protocol):
    """The entrance of a service."""

    @property
    def door(self) -> Door: ...


class Attached(Served, pending.HasPending, Protocol):
    """The parts of an `outbox.Service` that an application needs."""

    @property
    def clock(self) -> Clock: ...
    @property
    def entrance(self) -> Entered: ...
    def keys(self) -> Keyring: ...
    def observed_by(self, observer: Observer) -> None: ...
    def running(self) -> AbstractAsyncContextManager[None]: ...


def attach(service: Attached, app: Any, *, messages: bool, health: bool, metrics: bool) -> None:
    """As `outbox.Service.attach`."""
    require_unstarted(app)
    wanted = addresses(messages=messages, health=health, metrics=metrics)
    for path, option in wanted.items():
        if _count(app, path):
            raise _taken(path, option)
    if messages:
        service.keys()  # where there are none, nothing has begun yet
    routers: list[APIRouter] = []
    if metrics:
        counted = Metrics(service.clock, service.progress)
        service.observed_by(counted)
        routers.append(
            counted.router(
                partial(standing_of, service),
                relay_runs=lambda: service.is_carrying,
                queues=service.entrance.queues.figures,
            )
        )
    if messages:
        routers.append(behind(service.entrance.door))
    if health:
        routers.append(probes.router(checks_of(service, threads=False)))
    _add(app, routers)
    if (token := operator_token()) is not None:
        _route(app, pending.PATHS, pending.application(service, token))

    def check() -> None:
        # Routes that were added since would never be asked.
        for path, option in wanted.items():
            if _count(app, path) > 1:
                raise _taken(path, option)

    run_within(app, service.running, check)


def require_unstarted(app: Any) -> None:
    """Raises InvalidService where that is no application of Starlette, or runs already."""
    if not isinstance(app, Starlette):
        raise InvalidService(
            f"a {type(app).__name__} is no application that a service can be attached to",
            next_step="give the FastAPI or Starlette application itself, not what is around it",
        )
    if app.middleware_stack is not None:
        raise InvalidService(
            "the application runs already, so that its start has been missed",
            next_step="call attach() where the application is made",
        )


def run_within(
    app: Starlette,
    running: Callable[[], AbstractAsyncContextManager[Any]],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Let `running()` begin when the application has started, and end before its own end; `check`
    is called before the start."""
    own = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: Any) -> AsyncIterator[Any]:
        check()
        async with own(started) as state, running():
            yield state

    app.router.lifespan_context = lifespan


def _count(app: Starlette, path: str) -> int:
    return sum(getattr(route, "path", None) == path for route in app.router.routes)


def _taken(path: str, option: str) -> InvalidService:
    leave_out = f"attach(app, {option}=False)"
    if option == _PENDING:
        leave_out = f"unset {VARIABLE}"
    return InvalidService(
        f"the application has a route {path} of its own",
        next_step=f"leave that of the service out: {leave_out}",
    )


def _add(app: Starlette, routers: Sequence[APIRouter]) -> None:
    """The routes, answered by an application of their own: so that neither the errors nor the
    documentation of this one change."""
    inner = FastAPI(openapi_url=None, redirect_slashes=False)
    problems.install(inner)
    for router in routers:
        inner.router.routes.extend(router.routes)
        _route(app, [getattr(route, "path", "") for route in router.routes], Heads(inner))


def _route(app: Starlette, paths: Iterable[str], to: Any) -> None:
    for path in paths:
        # Before all others, one of which may take every path.
        app.router.routes.insert(0, Route(path, endpoint=to, include_in_schema=False))
