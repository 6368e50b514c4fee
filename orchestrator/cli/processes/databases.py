"""Migrations of a set of services' databases, before the services start."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.cli.processes import bundle
from orchestrator.cli.terminal.errors import CommandError


async def bring_up_to_date(
    databases: Mapping[str, str], tell: Callable[[str], None] = lambda _: None
) -> None:
    """Upgrade the database of each service (name -> address), and tell where it stands now.

    Raises CommandError, with the migration's own message.
    """
    bundle.put_on_path()
    from migrations.commands import upgrade
    from migrations.databases import database_at
    from migrations.errors import MigrationError
    from migrations.services import service_named
    from outbox.clock import SystemClock

    for name, address in databases.items():
        try:
            database = database_at(address)
            moved = await upgrade(service_named(name), database, clock=SystemClock())
        except MigrationError as error:
            raise CommandError(f"{name}: {error.happened}", error.why, error.next_step) from error
        already = "" if moved.steps else "already "
        tell(f"the database of {name} is {already}at {moved.now_at}: {database}")
