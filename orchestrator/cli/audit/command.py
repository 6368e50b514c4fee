"""`sagabox audit`: whether services agree on the data that they share, while they are in use."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.terminal.client import Url, connect
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import Json
from orchestrator.cli.terminal.times import YEAR

if TYPE_CHECKING:
    from orchestrator.cli.audit.looks import Agreement, Findings
    from orchestrator.cli.audit.repair import Planned, Repaired
    from orchestrator.cli.audit.rules import Ruleset
    from outbox.tables import Tables

_TIMEOUT = 30.0  # seconds
_LISTED = 1000
_URL = "Its database; otherwise SAGABOX_DATABASE_URL_{}."


_Services = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=URL",
        help="The database of a service; otherwise SAGABOX_DATABASE_URL_NAME. May be repeated.",
    ),
]
_TableNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PREFIX",
        help="What the library's tables begin with in the database of that service, or "
        "NAME=SCHEMA.PREFIX; otherwise SAGABOX_TABLE_PREFIX and SAGABOX_SCHEMA. May be repeated.",
    ),
]
_Rules = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE:ATTRIBUTE",
        help="What a service declares (see outbox.invariants); may be repeated. Otherwise "
        "SAGABOX_AUDIT, else the blog's.",
    ),
]
_Since = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100 * YEAR / 3600,
        metavar="HOURS",
        help="With --runs: only runs that began in these last hours.",
    ),
]
_Timeout = Annotated[
    float,
    typer.Option(
        min=0,
        max=YEAR,
        metavar="SECONDS",
        help="How long messages may take to arrive, and repairs.",
    ),
]
_Limit = Annotated[
    int, typer.Option(min=1, max=10_000, help="How many divergences are listed at most.")
]


def audit(
    articles: Annotated[
        str | None, typer.Option(metavar="URL", help=_URL.format("ARTICLES"))
    ] = None,
    comments: Annotated[
        str | None, typer.Option(metavar="URL", help=_URL.format("COMMENTS"))
    ] = None,
    orchestrator: Annotated[
        str | None, typer.Option(metavar="URL", help=_URL.format("ORCHESTRATOR"))
    ] = None,
    service: _Services = None,
    tables: _TableNames = None,
    rules: _Rules = None,
    no_orchestrator: Annotated[
        bool, typer.Option("--no-orchestrator", help="There are no sagas: only events.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Start the sagas that put it right, and look once more."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the repair.")] = False,
    runs: Annotated[
        bool,
        typer.Option(
            "--runs",
            help="After a restore: compare the orchestrator's runs with the inboxes, too.",
        ),
    ] = False,
    since: _Since = None,
    timeout: _Timeout = _TIMEOUT,
    limit: _Limit = _LISTED,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Compare what services declare to share, also while they are in use. Without --repair nothing
    is changed.

    Ends with 0 if they agree, with 1 if they do not, and with 4 if that cannot be told because
    messages rest. With --repair that is said of the state after it.
    """
    # Only now: SQLAlchemy takes longer to load than the other commands to run.
    from orchestrator.cli.audit.databases import ORCHESTRATOR, addresses
    from orchestrator.cli.audit.looks import Agreement
    from orchestrator.cli.audit.named_tables import tables_in
    from orchestrator.cli.audit.report import tell, tell_json
    from orchestrator.cli.audit.rules import load

    _require_consent(repair=repair, json_=json_, yes=yes)
    _require_runs(runs=runs, since=since, no_orchestrator=no_orchestrator)
    given = _given(service or [], {"articles": articles, "comments": comments})
    ruleset = load(rules or [], inboxes=sorted(given) if runs else ())
    _require_used(given, ruleset)
    wanted = {name: given.get(name) for name in ruleset.services}
    if no_orchestrator:
        _require_no_sagas(ruleset, repair=repair)
    else:
        wanted[ORCHESTRATOR] = orchestrator
    named = tables_in(tables or [], wanted)
    of_runs = _Runs(runs, since)
    look = partial(_found, addresses(wanted), named, ruleset, timeout, of_runs)
    findings = look()
    before, repaired = findings, None
    if repair and findings.agreement is Agreement.DIVERGE:
        if not json_:
            tell(findings, limit)
        repaired = _repaired(findings, ruleset, url, timeout, ask=not yes)
        if repaired:
            findings = look()
    if json_:
        tell_json(findings, limit, None if repaired is None else (before, repaired))
    else:
        _tell_end(findings, repaired, limit)
    _exit(findings.agreement)


@dataclass(frozen=True)
class _Runs:
    """Whether runs are compared with inboxes: those that began in so many last hours, else all."""

    compared: bool
    hours: float | None


def _found(
    urls: Mapping[str, str],
    tables: Mapping[str, Tables],
    ruleset: Ruleset,
    timeout: float,
    runs: _Runs,
) -> Findings:
    import asyncio

    return asyncio.run(_looked(urls, tables, ruleset, timeout, runs))


def _tell_end(findings: Findings, repaired: Sequence[Repaired] | None, limit: int) -> None:
    """Print the end for people; an empty list of repairs means that all was printed before."""
    from orchestrator.cli.audit.report import tell, tell_repairs

    if repaired:
        tell_repairs(repaired)
    if repaired is None or repaired:
        tell(findings, limit)


def _require_consent(*, repair: bool, json_: bool, yes: bool) -> None:
    """Raise CommandError where a repair needs consent and the output is for a program."""
    if repair and json_ and not yes:
        raise CommandError(
            "with --json the command cannot ask before the repair",
            "what is printed is for programs",
            "sagabox audit first, then: sagabox audit --repair --yes --json",
        )


def _exit(agreement: Agreement) -> None:
    """End with the code that says whether the services agree."""
    from orchestrator.cli.audit.looks import Agreement

    match agreement:
        case Agreement.AGREE:
            return
        case Agreement.DIVERGE:
            raise typer.Exit(ExitCode.OTHERWISE)
        case Agreement.INCONCLUSIVE:
            raise typer.Exit(ExitCode.INCONCLUSIVE)


async def _looked(
    urls: Mapping[str, str],
    tables: Mapping[str, Tables],
    rules: Ruleset,
    timeout: float,
    runs: _Runs,
) -> Findings:
    from orchestrator.cli.audit.databases import opened
    from orchestrator.cli.audit.looks import compare
    from orchestrator.cli.audit.lost_reading import compare_runs
    from outbox.clock import SystemClock

    async with opened(urls, tables) as databases:
        findings = await compare(databases, rules, timeout=timeout)
        if not runs.compared:
            return findings
        since = None
        if runs.hours is not None:
            since = SystemClock().now() - timedelta(hours=runs.hours)
        return replace(findings, of_runs=await compare_runs(databases, since))


def _repaired(
    findings: Findings, rules: Ruleset, url: str | None, timeout: float, *, ask: bool
) -> Sequence[Repaired]:
    """Carry the repairs out, and return their outcomes; none where there is no repair, or no
    consent."""
    from orchestrator.cli.audit.repair import carry_out, plan, require_sagas
    from orchestrator.cli.audit.report import tell_plan

    planned = plan(findings.divergences, rules)
    if not planned:
        return []
    with connect(url) as api:
        require_sagas(api, planned)
        if ask:
            tell_plan(planned)
            _require_agreement(planned)
        return carry_out(api, planned, timeout=timeout)


def _require_agreement(planned: Sequence[Planned]) -> None:
    """Ask the user for consent. Raises CommandError without a terminal, and typer.Exit after a
    "no"."""
    if not at_a_terminal():
        raise CommandError(
            "the command cannot ask whether to repair",
            "the input is no terminal",
            "sagabox audit --repair --yes",
        )
    from orchestrator.cli.audit.report import counted

    if not typer.confirm(f"start {counted(len(planned), 'saga')}?"):
        typer.echo("nothing was changed")
        raise typer.Exit(ExitCode.OTHERWISE)


def at_a_terminal() -> bool:
    """Whether the command runs at a terminal, so that it can ask the user."""
    return sys.stdin.isatty()


def _given(services: Sequence[str], named: Mapping[str, str | None]) -> Mapping[str, str]:
    """The addresses on the command line, by service. Raises CommandError."""
    given = {name: url for name, url in named.items() if url is not None}
    for text in services:
        name, _, url = text.partition("=")
        if not name or not url:
            raise CommandError(
                "--service takes a name and an address",
                f"{name!r} was given, without an address or a name",
                "--service NAME=postgresql://USER:PASSWORD@HOST/NAME, or NAME=sqlite:///FILE",
            )
        given[name] = url
    return given


def _require_runs(*, runs: bool, since: float | None, no_orchestrator: bool) -> None:
    if runs and no_orchestrator:
        raise CommandError(
            "--runs and --no-orchestrator were given together",
            "runs are the orchestrator's",
            "leave one of the two out",
        )
    if since is not None and not runs:
        raise CommandError(
            "--since was given without --runs",
            "only runs have a beginning; the rules of services are compared as they stand",
            "sagabox audit --runs --since HOURS",
        )


def _require_no_sagas(rules: Ruleset, *, repair: bool) -> None:
    if rules.names_sagas or repair:
        raise CommandError(
            "the orchestrator is needed here, and --no-orchestrator was given",
            "a repair is a saga"
            if repair
            else "columns that are declared name sagas, and it alone knows which of them live",
            "leave --no-orchestrator out, and give --orchestrator URL",
        )


def _require_used(given: Mapping[str, str], rules: Ruleset) -> None:
    if unknown := sorted(given.keys() - set(rules.services)):
        raise CommandError(
            f"a database of {' and '.join(unknown)} was given, and nothing is declared of that",
            f"the declarations are of {', '.join(rules.services)}",
            "name its declaration too: --rules MODULE:ATTRIBUTE; or compare inboxes alone: --runs",
        )
