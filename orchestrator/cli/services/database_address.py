"""Where the database of a service is: what an option of a command says, else the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import make_url

from orchestrator.cli.terminal.errors import CommandError, ExitCode
from outbox.database.address.urls import database_url


def variable_of(name: str) -> str:
    """The environment variable with the address of that service's database."""
    return f"SAGABOX_DATABASE_URL_{name.upper().replace('-', '_')}"


def database_address(
    name: str, given: str | None, *, option: str, without_file: Callable[[str | None], str]
) -> str:
    """The address of the database of that service, with an asynchronous driver.

    `option` is the one that takes the address, up to the address (`--database `); `without_file`
    words the next step where SQLite's file of that path is missing. Raises CommandError where
    neither says an address, where it is none, and where that file is missing, which SQLite would
    make.
    """
    variable = variable_of(name)
    found = given or os.environ.get(variable)
    if not found:
        raise CommandError(
            f"it is not known where the database of {name} is",
            f"neither {option.rstrip(' =')} was given nor {variable} set",
            f"export {variable}=sqlite:///.sagabox/{name}.sqlite",
        )
    try:
        url = database_url(found)
    except ValueError as error:
        # The address itself is not shown: it may hold a password.
        raise CommandError(
            f"the address of the database of {name} cannot be used",
            str(error),
            f"{option}postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE",
        ) from error
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise CommandError(
            f"there is no database of {name} at {parsed.database}",
            "the file does not exist",
            without_file(parsed.database),
            exit_code=ExitCode.UNREACHABLE,
        )
    return url
