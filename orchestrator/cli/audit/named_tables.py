"""What the library's tables are called in each database that the audit reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from orchestrator.cli.terminal.errors import CommandError
from outbox.errors import OutboxError
from outbox.tables import Tables, tables_named


def tables_in(given: Sequence[str], services: Collection[str]) -> Mapping[str, Tables]:
    """The tables that the command line names, by service; each text is NAME=PREFIX, or
    NAME=SCHEMA.PREFIX. `services` are those whose databases are read. Raises CommandError."""
    found = {}
    for text in given:
        name, is_given, names = text.partition("=")
        if not name or not is_given:
            raise CommandError(
                "--tables takes a name and a prefix",
                f"{text!r} was given, without the one or the other",
                "--tables NAME=PREFIX, or NAME=SCHEMA.PREFIX",
            )
        if name not in services:
            raise CommandError(
                f"a prefix of {name} was given, and no database of that is read",
                f"the databases are of {', '.join(services)}",
                f"--tables {next(iter(services))}=PREFIX, or leave it out",
            )
        schema, _, prefix = names.rpartition(".")
        try:
            found[name] = tables_named(prefix, schema or None)
        except OutboxError as error:
            raise CommandError(
                f"the tables of {name} cannot be called so", error.problem, error.next_step
            ) from error
    return found
