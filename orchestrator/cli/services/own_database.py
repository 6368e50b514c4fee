"""The orchestrator's database, for commands that work on it; the orchestrator need not run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from outbox.database.opening import Database

VARIABLE = "SAGABOX_DATABASE_URL_ORCHESTRATOR"

OwnDatabase = Annotated[
    str | None,
    typer.Option("--database", help=f"The orchestrator's database; otherwise {VARIABLE}."),
]


@asynccontextmanager
async def opened_orchestrator(command: str, given: str | None) -> AsyncIterator[Database]:
    """The database at that address, else the one of the environment, for `sagabox COMMAND`. It has
    the tables. What it raises comes out as a CommandError."""
    from orchestrator.cli.services.opening import explained, open_for
    from orchestrator.tables import SCHEMA_REVISION
    from outbox.schema import require_revision

    database = open_for(command, _address(given))
    try:
        with explained(
            "the orchestrator", "start the database, or correct its address: --database"
        ):
            await require_revision(
                database.engine,
                service="orchestrator",
                expected=SCHEMA_REVISION,
                tables=database.tables,
            )
            yield database
    finally:
        await database.engine.dispose()


def _address(given: str | None) -> str:
    from orchestrator.cli.services.database_address import database_address

    return database_address(
        "orchestrator",
        given,
        option="--database ",
        without_file=lambda path: (
            f"sagabox migrate upgrade orchestrator --database sqlite:///{path}"
        ),
    )
