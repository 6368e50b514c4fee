"""`sagabox doctor`: looks at the settings, the databases and the orchestrator, and changes
nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.doctor.findings import Finding, Verdict, ok, problem, warning
from orchestrator.cli.terminal.client import Url, connect
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import Json, print_json, print_paragraph

if TYPE_CHECKING:
    from orchestrator.cli.doctor.asked import Source
    from outbox.service.service import Service

_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}


def doctor(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE:SERVICE]...",
            help="Services of your own to look at, too, such as shop.stock:service.",
        ),
    ] = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Look at the settings, the orchestrator, the addresses of peers that have several, and each
    database that SAGABOX_DATABASE_URL_NAME or a service names: its clock, its migrations, its
    leases, its pending commands, its connections.

    Nothing is changed. Ends with 0, or with 1 where there is a problem; a warning is none.
    """
    import asyncio

    findings = asyncio.run(_all(services or [], url, os.environ))
    if json_:
        print_json({"findings": [asdict(it) for it in findings]})
    else:
        for finding in findings:
            _tell(finding)
    if any(it.verdict is Verdict.PROBLEM for it in findings):
        raise typer.Exit(ExitCode.OTHERWISE)


def _tell(finding: Finding) -> None:
    told = f"{finding.verdict.value:8} {finding.area} of {finding.about}: {finding.told}"
    print_paragraph(told, _STYLES[finding.verdict], indent=" " * 9)
    if finding.next_step:
        print_paragraph(f"         next: {finding.next_step}", indent=" " * 15)


async def _all(
    named: Sequence[str], url: str | None, environment: Mapping[str, str]
) -> list[Finding]:
    from orchestrator.cli.doctor.asked import sources
    from orchestrator.cli.doctor.peers import addresses
    from orchestrator.cli.doctor.server import of_this_process
    from orchestrator.cli.doctor.settings import settings

    findings = [of_this_process(), *settings(environment), *_orchestrator(url)]
    findings += await addresses(environment)
    services: list[Service[Any]] = []
    for name in named:
        found = _service(name)
        if isinstance(found, Finding):
            findings.append(found)
        else:
            services.append(found)
    found_sources = list(sources(environment, services))
    names = Counter(it.name for it in found_sources if not isinstance(it, Finding))
    for source in found_sources:
        if isinstance(source, Finding):
            findings.append(source)
            continue
        of_source = await _looked_at(source)
        findings += of_source if names[source.name] == 1 else _with_place(source, of_source)
    return findings


def _with_place(source: Source, findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings, with the address beside the service's name: another database is one of a
    service of that name, too."""
    from outbox.database.shown_url import shown

    about = f"{source.name} ({shown(source.engine.url)})"
    for it in findings:
        yield replace(it, about=about) if it.about == source.name else it


def _service(name: str) -> Service[Any] | Finding:
    from orchestrator.cli.services.run import find_service
    from outbox.errors import OutboxError

    try:
        return find_service(name, by="sagabox doctor was given")
    except OutboxError as error:
        return problem("settings", name, error.problem, error.next_step)


async def _looked_at(source: Source) -> list[Finding]:
    """The findings about one database."""
    from orchestrator.cli.doctor.asked import opened
    from orchestrator.cli.doctor.checks import OF_ROWS, OF_SERVER, OF_TABLES
    from orchestrator.cli.doctor.schema import missing
    from outbox.clock import SystemClock
    from outbox.database.address.poolers import BY_TRANSACTION, has_no_transactions
    from outbox.database.troubles import is_of_database, words_of

    findings: list[Finding] = []
    try:
        async with opened(source, SystemClock().now()) as asked:
            for check in (*OF_SERVER, *OF_TABLES):
                findings += await check(asked)
            if await missing(asked) is None:
                for check in OF_ROWS:
                    findings += await check(asked)
    except Exception as error:
        if not is_of_database(error):
            raise
        told = f"it cannot be asked: {words_of(error)}"
        step = "start the database, or correct its address"
        if has_no_transactions(error):
            step = BY_TRANSACTION
        findings.append(problem("databases", source.name, told, step))
    finally:
        await source.engine.dispose()
    return findings


def _orchestrator(url: str | None) -> Iterator[Finding]:
    """The orchestrator: whether it is there, lets this terminal in, and has the same time."""
    from orchestrator.cli.doctor.clocks import compared
    from outbox.clock import SystemClock

    area, clock = "orchestrator", SystemClock()
    try:
        with connect(url) as api:
            before = clock.now()
            api.get("/livez")
            took = clock.now() - before
            yield ok(area, api.url, "answers")
            # Its answers tell the time to the second.
            within = took + timedelta(seconds=1)
            yield compared(area, "the orchestrator's", api.now, before + took / 2, within)
            api.get("/sagas", limit=1)
    except CommandError as error:
        yield warning(
            area, url or "this terminal", f"{error.happened}: {error.why}", error.next_step
        )
