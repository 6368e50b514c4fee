"""The command `sagabox`.

A new command is a module of its own here, and one line below. A command imports its own
dependencies when it runs, so that the other commands start without them.
"""

from __future__ import annotations

import os
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from orchestrator.cli.audit.command import audit
from orchestrator.cli.demo import demo
from orchestrator.cli.doctor.command import doctor
from orchestrator.cli.outbox.command import app as outbox
from orchestrator.cli.restored.command import restored
from orchestrator.cli.retention.command import retention
from orchestrator.cli.runs.dead_letters import app as dead_letters
from orchestrator.cli.runs.listing import list_
from orchestrator.cli.runs.operators import OPERATOR_COMMANDS
from orchestrator.cli.runs.showing import show
from orchestrator.cli.runs.start import start
from orchestrator.cli.runs.watch import watch
from orchestrator.cli.services.destinations import app as destinations
from orchestrator.cli.services.dev import dev
from orchestrator.cli.services.migrate import migrate
from orchestrator.cli.services.pending import app as pending
from orchestrator.cli.services.run import run
from orchestrator.cli.services.serve import app as serve
from orchestrator.cli.services.setting_files import read_setting_files
from orchestrator.cli.services.tokens import app as tokens
from orchestrator.cli.terminal.errors import EXIT_CODES, Commands
from orchestrator.cli.tools.conform import conform
from orchestrator.cli.tools.coverage import coverage
from orchestrator.cli.tools.explore import explore
from orchestrator.cli.tools.simulate import simulate

main = typer.Typer(
    cls=Commands,
    name="sagabox",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Messages that cannot be lost, and sagas that end.",
    epilog=EXIT_CODES,
)

main.add_typer(serve, name="serve")
main.command()(run)
main.command()(dev)
main.command()(demo)
main.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(migrate)
main.command(epilog=EXIT_CODES)(start)
main.command("list", epilog=EXIT_CODES)(list_)
main.command(epilog=EXIT_CODES)(show)
main.command(epilog=EXIT_CODES)(watch)
for _operator in OPERATOR_COMMANDS:
    main.command(epilog=EXIT_CODES)(_operator)
main.add_typer(dead_letters, name="dead-letters")
main.add_typer(pending, name="pending")
main.add_typer(destinations, name="destinations")
main.add_typer(outbox, name="outbox")
main.add_typer(tokens, name="token")
main.command(epilog=EXIT_CODES)(retention)
main.command(epilog=EXIT_CODES)(doctor)
main.command(epilog=EXIT_CODES)(audit)
main.command(epilog=EXIT_CODES)(restored)
main.command(epilog=EXIT_CODES)(explore)
main.command(epilog=EXIT_CODES)(simulate)
main.command(epilog=EXIT_CODES)(coverage)
main.command(epilog=EXIT_CODES)(conform)


@main.command()
def version() -> None:
    """Print the version of sagabox."""
    typer.echo(version_of("sagabox"))


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@main.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="As the command version."
        ),
    ] = False,
) -> None:
    read_setting_files(os.environ)
