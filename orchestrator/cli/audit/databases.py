"""The databases that the audit reads: where they are, and what keeps them from being read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row, Select, literal, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.cli.processes import bundle
from orchestrator.cli.processes.services import SERVICES
from orchestrator.cli.services.database_address import database_address
from orchestrator.cli.services.opening import open_for
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.tables import SagaTables, saga_tables
from outbox.database.troubles import is_of_database
from outbox.sqlite import READ_ONLY
from outbox.tables import Tables

ORCHESTRATOR = "orchestrator"
"""The name of its database among the others."""


@dataclass(frozen=True)
class Source:
    """One service's database, for reading alone."""

    name: str
    url: str = field(repr=False)
    engine: AsyncEngine
    tables: SagaTables
    """Its tables of the library; those of an orchestrator are in that one's database alone."""

    async def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """What the query finds, read in a transaction of its own. Raises CommandError."""
        try:
            async with self.engine.connect() as connection:
                rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
                return rows
        except Exception as error:
            if not is_of_database(error):
                raise
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> Exception:
        if _is_missing_table(error):
            return CommandError(
                f"the database of {self.name} has not the tables that the audit reads",
                "it is new, or that of something else, or its tables have other names",
                (
                    f"sagabox migrate upgrade {self.name}"
                    if self.name in SERVICES
                    else f"run the migrations of {self.name}, or correct its address"
                )
                + f"; or say what its tables begin with: --tables {self.name}=PREFIX",
            )
        bundle.put_on_path()
        from migrations.failures import of_connect

        told = of_connect(error, make_url(self.url))
        if told is None:
            return error
        return CommandError(
            f"the database of {self.name} cannot be read: {told.happened}",
            told.why,
            told.next_step,
            exit_code=ExitCode.UNREACHABLE,
        )


@dataclass(frozen=True)
class Databases:
    """The databases of the services, by name, and that of the orchestrator, if there is one."""

    services: Mapping[str, Source]
    orchestrator: Source | None

    @property
    def all(self) -> Sequence[Source]:
        """Every one of them."""
        return [*self.services.values(), *([self.orchestrator] if self.orchestrator else [])]


def addresses(given: Mapping[str, str | None]) -> Mapping[str, str]:
    """The address of each of these databases: the given one, or that of the environment.

    Raises CommandError where there is neither, or where it is no address.
    """
    return {name: _address(name, url) for name, url in given.items()}


@asynccontextmanager
async def opened(
    urls: Mapping[str, str], tables: Mapping[str, Tables] = MappingProxyType({})
) -> AsyncIterator[Databases]:
    """The databases at these addresses (see `addresses`), with these tables of the library; those
    that the environment names where none are given. Raises CommandError where one of them cannot be
    reached, and InvalidSettings."""
    async with AsyncExitStack() as stack:
        sources = {}
        for name, url in urls.items():
            database = open_for("audit", url)
            stack.push_async_callback(database.engine.dispose)
            engine = database.engine.execution_options(**READ_ONLY)
            of_library = tables.get(name, database.tables)
            sources[name] = Source(name, url, engine, saga_tables(of_library))
            await sources[name].rows(select(literal(1)))
        orchestrator = sources.pop(ORCHESTRATOR, None)
        yield Databases(sources, orchestrator)


def _address(name: str, given: str | None) -> str:
    option = _option(name)
    return database_address(
        name, given, option=option, without_file=lambda _: f"sagabox audit {option}sqlite:///FILE"
    )


def _option(name: str) -> str:
    """The option that takes its address, up to the address."""
    return f"--{name} " if name in SERVICES else f"--service {name}="


def _is_missing_table(error: Exception) -> bool:
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) == "42P01" or "no such table" in str(cause)
