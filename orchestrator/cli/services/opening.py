"""The database of a service as a command opens it: as the service does, by the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.cli.processes import bundle
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from outbox.chassis.database_settings import DatabaseSettings
from outbox.chassis.settings import load
from outbox.database.address.poolers import BY_TRANSACTION, has_no_transactions
from outbox.database.opening import Database, open_database
from outbox.database.troubles import is_of_database, words_of


@contextmanager
def explained(service: str, next_step: str) -> Iterator[None]:
    """What the database of that service raises within comes out as a CommandError."""
    try:
        yield
    except Exception as error:
        if not is_of_database(error):
            raise
        raise CommandError(
            f"the database of {service} does not do it",
            words_of(error),
            BY_TRANSACTION if has_no_transactions(error) else next_step,
            exit_code=ExitCode.UNREACHABLE,
        ) from error


def open_for(command: str, url: str) -> Database:
    """The database at that address (see `database_address`), with one connection, and the tables
    and the password that the environment names; the function for the password may stand in a module
    of this folder. Raises InvalidSettings."""
    bundle.put_folder_on_path()
    settings = load(DatabaseSettings)
    return open_database(
        url,
        name=f"sagabox {command}",
        pool_size=1,
        pool_overflow=0,
        tables=settings.tables,
        password=settings.database_password(),
    )
