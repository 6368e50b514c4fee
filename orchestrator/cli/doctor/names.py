"""The orchestrators of which a service has heard: whether those of one name share a database."""

from __future__ import annotations

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, ok, problem, warning
from orchestrator.cli.terminal.times import lasting

_AREA = "names"


async def names(asked: Asked) -> list[Finding]:
    """The id of an orchestrator's database; and a finding for each name under which several
    databases spoke."""
    from outbox.inbox.limits import InboxLimits
    from outbox.inbox.purge.origins import at_once, heard_of, joined

    since = asked.now - InboxLimits().retention
    found = await asked.connection.run_sync(heard_of, asked.tables, asked.name)
    findings = await _own(asked)
    for orchestrator, stored in sorted(found.items()):
        heard = joined(stored, {}, since)
        if len(heard) < 2:
            continue
        told = ", ".join(f"{id} {lasting(asked.now - it.last)} ago" for id, it in heard.items())
        if at_once(heard, asked.now):
            findings.append(
                problem(
                    _AREA,
                    asked.name,
                    f"two orchestrators have the name {orchestrator}, in the databases {told}",
                    "stop the one that is a copy; or let the runs of one end, and begin it anew "
                    "under a name of its own",
                )
            )
        else:
            findings.append(
                warning(
                    _AREA,
                    asked.name,
                    f"several databases spoke under the name {orchestrator}: {told}",
                    "nothing, if its database was replaced; otherwise stop one of the two",
                )
            )
    return findings


async def _own(asked: Asked) -> list[Finding]:
    """The id by which participants know this database, if it is an orchestrator's that has run."""
    from sqlalchemy import inspect, select

    from orchestrator.tables import saga_tables
    from outbox.database.table_set import has_table
    from outbox.schema import database_id
    from outbox.service.origin import origin_on

    runs, claim = saga_tables(asked.tables).saga, asked.tables.outbox_service
    if not await asked.connection.run_sync(lambda it: has_table(inspect(it), runs)):
        return []
    found = (await asked.connection.execute(select(claim.c.name, claim.c.since))).first()
    if found is None:
        return []
    id = await origin_on(asked.connection, database_id(found.name, found.since))
    told = f"its participants know it as {found.name}, with the database {id}"
    return [ok(_AREA, asked.name, told)]
