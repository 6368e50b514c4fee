"""`sagabox simulate`: random histories of the real engine, and one of them once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import Json, print_fields, print_json, print_line, print_table
from orchestrator.cli.tools.coverage import gaps, print_gaps
from orchestrator.cli.tools.explore import find_saga
from orchestrator.testing.coverage import Tool

if TYPE_CHECKING:
    from orchestrator.testing.simulating.runner import Simulation
    from orchestrator.testing.virtual.chances import Happened


def simulate(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="SAGA", help="Which sagas; without any, made-up ones."),
    ] = None,
    histories: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many histories, each with its own seed.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The first seed.")] = 0,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="FAULTS",
            help="One history, in which no other faults happen: as a failure tells them.",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Run random histories: real engine, real inbox rules, virtual time and network.

    Each seed draws some runs and some kinds of faults: losses, duplicates, delays,
    partitions, crashes at every crash point, lost commits, pauses past the lease,
    wrong clocks, refusals, poison, cancels. Then everything heals, and every run
    must have ended, with every effect or none.

    Ends with 0 if every promise held; with 1, and the smallest history that was
    found, if one was broken. The same seed is the same history.
    """
    from orchestrator.testing.simulating import runner

    sagas = [find_saga(name) for name in names or ()]
    if only is not None:
        history = runner.replay(*sagas, seed=seed, only=_faults(only))
        for time, *what in history.trace:
            print_line(f"{time:10.4f} s  {' '.join(map(str, what))}")
        print_line(str(history.broken or "Every promise held."))
        raise typer.Exit(ExitCode.OTHERWISE if history.broken else 0)
    found = runner.simulate(*sagas, seeds=range(seed, seed + histories))
    if json_:
        print_json(_document(found))
    else:
        _print(found, names or ())
    if found.failure is not None:
        raise typer.Exit(ExitCode.OTHERWISE)


def _faults(text: str) -> list[Happened]:
    from orchestrator.testing.virtual.chances import Fault

    chosen: list[Happened] = []
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().partition(":")
        if name.upper() not in Fault.__members__ or not number.isdecimal():
            raise CommandError(
                f"--only has {part!r:.80}",
                "it is no fault with its number",
                "write them as in node_crash:3,skew:0",
            )
        chosen.append((Fault[name.upper()], int(number)))
    return chosen


def _document(found: Simulation) -> dict[str, Any]:
    failure = found.failure
    return {
        "histories": found.histories,
        "twice": found.twice,
        "faults": {fault.name.lower(): many for fault, many in sorted(found.faults.items())},
        "ends": {status.value: many for status, many in sorted(found.ends.items())},
        "not_covered": gaps(Tool.SIMULATE),
        "failure": None
        if failure is None
        else {
            "seed": failure.seed,
            "sagas": list(failure.sagas),
            "promise": failure.promise,
            "problem": failure.problem,
            "only": failure.only,
        },
    }


def _print(found: Simulation, names: Sequence[str]) -> None:
    print_fields(
        (
            ("histories", f"{found.histories:,}"),
            ("run twice", f"{found.twice:,}, and the same both times"),
            ("ends", ", ".join(f"{many:,} {end}" for end, many in sorted(found.ends.items()))),
        )
    )
    print_line("")
    print_table(
        ("FAULT", "HOW OFTEN"),
        ((fault.name.lower(), f"{many:,}") for fault, many in sorted(found.faults.items())),
    )
    print_line("")
    print_gaps(Tool.SIMULATE)
    print_line("")
    if found.failure is None:
        print_line("Every promise held, in every history.", style="green")
        return
    for line in str(found.failure).splitlines():
        print_line(line)
    again = " ".join(["sagabox simulate", *names, f"--seed {found.failure.seed}"])
    print_line(f"Once more: {again} --only {found.failure.only or ','}")
