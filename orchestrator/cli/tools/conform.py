"""`sagabox conform`: does a participant, in any language, keep the wire contract?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import (
    Json,
    print_fields,
    print_json,
    print_line,
    print_paragraph,
)
from orchestrator.cli.terminal.times import YEAR

if TYPE_CHECKING:
    from orchestrator.testing.conforming.trial import Result

_PATIENCE = 4.5  # seconds for an answer: that of a sender
_NAME = "conform"
_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def conform(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="Where it is: the address below which /messages is."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE[:NAME]",
            help="An outbox.Service of yours in place of a URL: it is run on a free port, and "
            "killed and started again where a trial asks for that.",
        ),
    ] = None,
    restart: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="What kills the participant and starts it again. Without it you are asked, on a "
            "terminal.",
        ),
    ] = None,
    to: Annotated[
        str, typer.Option(metavar="NAME", help="The participant's own name, which is signed.")
    ] = _NAME,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="TRIAL", help="Only this trial; may be repeated."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, max=YEAR, metavar="SECONDS", help="How long an answer may take."),
    ] = _PATIENCE,
    list_: Annotated[
        bool, typer.Option("--list", help="List the trials, and make none of them.")
    ] = False,
    json_: Json = False,
) -> None:
    """Try a participant in any language: does it keep docs/reference/wire.md?

    It sends what the network and other services may send: duplicates, undos that
    come first, wrong signatures, what is too large, what it does not know. The
    participant offers the trial commands of that page, and both have the same
    SAGABOX_SECRETS. Use a database of its own: entries of trials stay in it.

    Ends with 0 if no trial failed, with 1 if one did.
    """
    if list_:
        _print_list(json_)
        return
    _require_known(only or [])
    if (url is None) == (module is None):
        raise CommandError(
            "what is to be tried?",
            "there is neither a URL nor --module" if url is None else "there are both",
            "sagabox conform http://127.0.0.1:8080, or --module shop.trial:service",
        )
    if module is not None and restart is not None:
        raise CommandError(
            "--restart has no use here", "--module restarts it by itself", "leave it out"
        )
    import asyncio

    from orchestrator.cli.tools.conform_trials import Wanted, tried

    wanted = Wanted(url, module, to, timeout, restart, tuple(only or ()), may_ask=not json_)
    results = asyncio.run(tried(wanted, (lambda _: None) if json_ else _print_result))
    if json_:
        print_json(_document(results))
    else:
        _print_sum(results)
    if any(it.ending == "failed" for it in results):
        raise typer.Exit(ExitCode.OTHERWISE)


def _require_known(names: list[str]) -> None:
    from orchestrator.testing.conforming.running import TRIALS

    known = [it.name for it in TRIALS]
    for name in names:
        if name not in known:
            raise CommandError(
                f"there is no trial {name!r:.60}",
                f"there are: {', '.join(known)}",
                "sagabox conform --list",
            )


# Output


def _print_list(as_json: bool) -> None:
    from orchestrator.testing.conforming.running import TRIALS

    if as_json:
        print_json(
            [
                {"name": it.name, "what": it.what, "see": it.section, "restarts": it.restarts}
                for it in TRIALS
            ]
        )
        return
    for trial in TRIALS:
        print_paragraph(f"{trial.name:<24} {trial.what}", indent=" " * 25)


def _print_result(result: Result) -> None:
    style = _STYLES[result.ending]
    print_paragraph(
        f"{result.ending:<8} {result.trial.name:<24} {result.trial.what}", style, indent=" " * 34
    )
    if result.ending == "skipped":
        print_paragraph(f"         {result.why}", indent=" " * 9)
    if result.ending == "failed":
        lines = [("sent" if not number else "", it) for number, it in enumerate(result.sent)]
        print_fields(
            [
                *((f"  {name}", line) for name, line in lines),
                ("  came", result.came),
                ("  expected", result.expected),
                ("  see", _see(result)),
            ]
        )


def _print_sum(results: list[Result]) -> None:
    many = {word: sum(it.ending == word for it in results) for word in _STYLES}
    said = ", ".join(f"{count} {word}" for word, count in many.items() if count)
    print_line("")
    print_line(said, style="bold red" if many["failed"] else "green")


def _see(result: Result) -> str:
    from orchestrator.testing.conforming.trial import PAGE

    return f"{PAGE}, {result.trial.section}"


def _document(results: list[Result]) -> dict[str, Any]:
    return {
        "trials": [
            {
                "name": it.trial.name,
                "what": it.trial.what,
                "ending": it.ending.value,
                "see": _see(it),
                "sent": list(it.sent),
                "came": it.came or None,
                "expected": it.expected or None,
                "why": it.why or None,
            }
            for it in results
        ],
        "failed": [it.trial.name for it in results if it.ending == "failed"],
        "skipped": [it.trial.name for it in results if it.ending == "skipped"],
    }
