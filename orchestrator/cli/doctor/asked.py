"""The databases that the doctor asks: of services that settings name, and of a user's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator.cli.doctor.findings import Finding, problem
from orchestrator.cli.services.database_address import database_address

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from outbox.service.service import Service
    from outbox.tables import Tables

_BEGINS = "SAGABOX_DATABASE_URL_"
_FOR_WAKE_UPS = 1
"""The connections of a process beside its pools, on PostgreSQL."""


@dataclass(frozen=True)
class Source:
    """A database: of the service `name`, whose object is `service` where its module is at hand.
    A process of the service opens `most_connections` to it, and sends to `peers`. `tables` are
    those of the library."""

    name: str
    engine: AsyncEngine
    tables: Tables
    most_connections: int
    peers: Mapping[str, str] = field(default_factory=dict)
    service: Service[Any] | None = None


@dataclass(frozen=True)
class Asked:
    """An open database. `now` is this machine's time at the beginning of the look."""

    source: Source
    connection: AsyncConnection
    now: datetime

    @property
    def name(self) -> str:
        """The service's name."""
        return self.source.name

    @property
    def tables(self) -> Tables:
        """The library's tables there."""
        return self.source.tables

    @property
    def is_postgresql(self) -> bool:
        """Whether it is PostgreSQL; otherwise it is SQLite."""
        return self.connection.dialect.name == "postgresql"


def sources(
    environment: Mapping[str, str], services: Sequence[Service[Any]]
) -> Iterator[Source | Finding]:
    """The databases of these services, and those that the environment names beside them; a finding
    for each that cannot be opened."""
    from orchestrator.cli.services.opening import open_for
    from orchestrator.cli.terminal.errors import CommandError
    from outbox.capture.log_reader import readers_in
    from outbox.database.sqlalchemy_internals import most_connections
    from outbox.errors import OutboxError
    from outbox.transports.brokers.topics.topic import topics_in
    from outbox.transports.http.peers import peers_in
    from outbox.transports.webhooks.webhook import taken_apart

    for service in services:
        pools = {id(it.pool): it.pool for it in (service.engine, service.sessions.kw["bind"])}
        most = sum(map(most_connections, pools.values())) + _FOR_WAKE_UPS
        yield Source(service.name, service.engine, service.tables, most, service.peers, service)
    own = {it.name for it in services}
    for variable in sorted(it for it in environment if it.startswith(_BEGINS)):
        name = variable.removeprefix(_BEGINS).lower().replace("_", "-")
        if name in own or not environment[variable]:
            continue
        try:
            url = database_address(
                name,
                environment[variable],
                option=f"export {variable}=",
                without_file=lambda _, name=name: f"sagabox migrate upgrade {name}",  # type: ignore[misc]  # mypy sees no default of a lambda
            )
            # A subscriber outside is asked nothing, nor a topic of others or a reader of the log.
            told, _ = topics_in(environment.get("SAGABOX_PEERS", ""))
            services_alone = taken_apart(readers_in(told)[0])[0]
            peers = peers_in(services_alone)
            opened = open_for("doctor", url)
        except CommandError as error:
            yield problem("databases", name, f"{error.happened}: {error.why}", error.next_step)
        except OutboxError as error:
            yield problem("databases", name, error.problem, error.next_step)
        except ValueError as error:
            yield problem("databases", name, f"SAGABOX_PEERS: {error}", "correct SAGABOX_PEERS")
        else:
            yield Source(name, opened.engine, opened.tables, _of_settings(environment), peers)


@asynccontextmanager
async def opened(source: Source, now: datetime) -> AsyncIterator[Asked]:
    """The database, to be read only. Raises what its driver raises."""
    from outbox.sqlite import READ_ONLY

    engine = source.engine.execution_options(**READ_ONLY)
    async with engine.connect() as connection:
        yield Asked(source, connection, now)


def _of_settings(environment: Mapping[str, str]) -> int:
    """The connections that a process opens, by its settings."""
    most = _FOR_WAKE_UPS
    for variable in ("SAGABOX_POOL_SIZE", "SAGABOX_POOL_OVERFLOW"):
        given = environment.get(variable, "")
        most += int(given) if given.isdigit() else 10
    return most
