"""`sagabox restored`: tell a database that it was restored, before its service starts again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.output import Json, print_json, print_line, print_paragraph
from orchestrator.cli.terminal.times import YEAR

if TYPE_CHECKING:
    from orchestrator.cli.restored.marking import Marked
    from orchestrator.cli.restored.postponing import Postponed

_GRACE = 60.0  # minutes


def restored(
    service: Annotated[str, typer.Argument(help="Its name, such as comments, or orchestrator.")],
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Its database; otherwise SAGABOX_DATABASE_URL_NAME."),
    ] = None,
    orchestrator: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The orchestrator's database, for a participant; otherwise "
            "SAGABOX_DATABASE_URL_ORCHESTRATOR.",
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            min=1,
            max=YEAR / 60,
            metavar="MINUTES",
            help="How long no run of a restored orchestrator turns back at a deadline.",
        ),
    ] = _GRACE,
    json_: Json = False,
) -> None:
    """Tell a database that a restore lost commits, while no process of its service runs.

    No process from before the restore can then hold a lease. A participant refuses copies of the
    commands of runs that do not live: its inbox may have lost the rows that stopped them. An
    orchestrator gives its live runs time to learn how far they had come. To say it again does no
    harm.
    """
    import asyncio

    asyncio.run(_tell(service, database, orchestrator, timedelta(minutes=grace), json_=json_))


async def _tell(
    name: str, database: str | None, orchestrator: str | None, grace: timedelta, *, json_: bool
) -> None:
    from contextlib import AsyncExitStack

    from orchestrator.cli.restored import marking, postponing
    from orchestrator.cli.restored.epochs import raise_epochs
    from orchestrator.cli.restored.opening import opened, require_stopped

    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(opened(name, database, option="--database "))
        await require_stopped(own)
        if own.is_orchestrator:
            if orchestrator is not None:
                raise CommandError(
                    f"the database of {name} is an orchestrator's, and --orchestrator was given",
                    "only a participant asks an orchestrator which runs live",
                    f"sagabox restored {name}, without --orchestrator",
                )
            await raise_epochs(own)
            postponed = await postponing.postpone(own, grace)
            _tell_postponed(postponed, json_=json_)
            return
        of_runs = await stack.enter_async_context(
            opened("orchestrator", orchestrator, option="--orchestrator ")
        )
        if not of_runs.is_orchestrator:
            raise CommandError(
                "that is no database of an orchestrator",
                "it has no table of runs",
                "--orchestrator URL, or SAGABOX_DATABASE_URL_ORCHESTRATOR, of the one that sends "
                f"commands to {name}",
            )
        await raise_epochs(own)
        _tell_marked(await marking.mark(own, of_runs), json_=json_)


def _tell_postponed(it: Postponed, *, json_: bool) -> None:
    if json_:
        print_json(
            {
                "service": it.service,
                "role": "orchestrator",
                "live": it.live,
                "postponed": it.postponed,
                "until": it.until.isoformat(),
                "unread": list(it.unread),
            }
        )
        return
    print_line(
        f"{it.service}: {it.live} runs live; no deadline of theirs counts before "
        f"{it.until.isoformat(timespec='seconds')}"
    )
    for id_ in it.unread:
        print_line(f"  {id_} cannot be read by this version, and keeps its deadlines")
    print_paragraph("next: sagabox restored NAME for each participant, then start the services")


def _tell_marked(it: Marked, *, json_: bool) -> None:
    if json_:
        print_json(
            {
                "service": it.service,
                "role": "participant",
                "orchestrator": it.orchestrator,
                "live": it.live,
                "before": it.before.isoformat(),
                "is_cut": it.is_cut,
            }
        )
        return
    print_line(
        f"{it.service} takes no lost command any more of runs of {it.orchestrator} that began "
        f"before {it.before.isoformat(timespec='seconds')}, except of {it.live} that live"
    )
    if it.is_cut:
        print_paragraph(
            "more runs live than are remembered, so that younger ones are not covered: end those "
            "that no caller needs, and repeat the command"
        )
    print_paragraph("next: start the services, then: sagabox audit --runs")
