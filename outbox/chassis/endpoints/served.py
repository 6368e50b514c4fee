"""The parts of a service that its addresses show: what /readyz checks, and what waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.chassis.endpoints.backlog import Standing, standing, waiting
from outbox.chassis.endpoints.health import Check, NotReady, work
from outbox.coordination.progress import Progress
from outbox.database.engines import reading
from outbox.inbox.inbox import Inbox
from outbox.inbox.transactions.in_threads import InThreads
from outbox.tables import Tables
from outbox.transports.brokers.figures import QueueFigures
from outbox.transports.brokers.held.operators import count_held


class Queued(Protocol):
    """The queues that a service reads."""

    @property
    def are_read(self) -> bool: ...
    async def trouble(self) -> tuple[str, str] | None: ...
    async def figures(self) -> Sequence[QueueFigures]: ...


class Entered(Protocol):
    """The entrance of a service."""

    @property
    def queues(self) -> Queued: ...


class Served(Protocol):
    """An `outbox.Service`, seen from its addresses."""

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> AsyncEngine: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def reached(self) -> Collection[str]: ...
    @property
    def progress(self) -> Progress: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def is_carrying(self) -> bool: ...
    @property
    def entrance(self) -> Entered: ...
    async def check_tables(self) -> None: ...


def checks_of(service: Served, *, threads: bool) -> Callable[[], Mapping[str, Check]]:
    """The checks of /readyz, by name, as they are wanted now; `threads` as for `health.work`."""

    async def relay() -> None:
        if not service.is_carrying:
            raise NotReady(
                "the relay does not run, so that messages stay where they are",
                next_step="restart the service; its log says why the relay ended",
            )

    checks: dict[str, Check] = {
        "database": service.check_tables,
        "relay": relay,
        "work": work(service.progress, threads=threads),
    }
    own = service.inbox.threads
    if own is not None:
        checks["threads"] = lambda: _check_threads(own)
    queues = service.entrance.queues

    async def queue() -> None:
        if (trouble := await queues.trouble()) is not None:
            problem, next_step = trouble
            raise NotReady(problem, next_step=next_step)

    # Whether it reads any is known once it runs.
    return lambda: {**checks, "queue": queue} if queues.are_read else checks


async def standing_of(service: Served) -> Standing:
    """The backlog of each peer, and of other destinations that have messages in the tables; and
    what is pending."""
    async with reading(service.engine).connect() as connection:
        return Standing(
            await standing(connection, service.tables, service.reached),
            await waiting(connection, service.tables, service.name),
            await count_held(connection, service.name, tables=service.tables),
        )


async def _check_threads(threads: InThreads) -> None:
    if threads.given_up >= threads.most:
        raise NotReady(
            f"all {threads.most} threads for handlers are taken by handlers that were given up",
            next_step="restart the service; its log names the handlers that took too long",
        )
