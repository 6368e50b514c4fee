"""`sagabox outbox`: its commands."""

from __future__ import annotations

import typer

from orchestrator.cli.outbox import changes, looks, received, schedule, tailing
from orchestrator.cli.terminal.errors import EXIT_CODES

app = typer.Typer(
    no_args_is_help=True,
    help="The outbox of a service: look at it, redrive or drop what was given up, and reschedule. "
    "It works on the database of the service, which need not run.",
    epilog=EXIT_CODES,
)

for _command in (
    looks.status,
    tailing.tail,
    looks.dead,
    looks.held,
    changes.redrive,
    changes.drop,
    changes.purge,
):
    app.command(epilog=EXIT_CODES)(_command)
app.add_typer(schedule.app, name="schedule")
app.add_typer(received.app, name="received")
