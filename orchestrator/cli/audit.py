"""`sagabox audit`: whether articles and comments agree, while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.errors import ExitCode
from orchestrator.cli.output import Json, print_json, print_line, print_table

if TYPE_CHECKING:
    from orchestrator.cli.audit_looks import Findings

_TIMEOUT = 30.0  # seconds
_URL = "Its database; otherwise SAGABOX_DATABASE_URL_{}."


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
    timeout: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long messages may take to arrive."),
    ] = _TIMEOUT,
    json_: Json = False,
) -> None:
    """Compare articles and comments, also while they are in use, and change nothing.

    Ends with 0 if they agree, with 1 if they do not, and with 4 if that cannot be told because
    messages rest.
    """
    # Only now: SQLAlchemy takes longer to load than the other commands to run.
    from orchestrator.cli.audit_databases import addresses, opened
    from orchestrator.cli.audit_looks import Verdict, compare

    urls = addresses({"articles": articles, "comments": comments, "orchestrator": orchestrator})

    async def run() -> Findings:
        async with opened(urls) as databases:
            return await compare(databases, timeout=timeout)

    findings = asyncio.run(run())
    if json_:
        print_json(_as_json(findings))
    else:
        _tell(findings)
    match findings.verdict:
        case Verdict.AGREE:
            return
        case Verdict.DIVERGE:
            raise typer.Exit(ExitCode.OTHERWISE)
        case Verdict.INCONCLUSIVE:
            raise typer.Exit(ExitCode.INCONCLUSIVE)


def _as_json(findings: Findings) -> dict[str, Any]:
    return {
        "verdict": findings.verdict.value,
        "compared": {
            "articles": findings.articles,
            "threads": findings.threads,
            "comments": findings.comments,
        },
        "suspects": findings.suspects,
        "followed": findings.followed,
        "at_work": findings.at_work,
        "divergences": [
            {
                "article_id": it.article_id,
                "code": it.code,
                "should_be": it.kind.value,
                "saga_id": it.saga_id,
                "detail": it.detail or None,
            }
            for it in findings.divergences
        ],
        "resting": dict(findings.resting),
    }


def _tell(findings: Findings) -> None:
    print_table(
        ("compared", ""),
        [
            ("articles", findings.articles),
            ("threads", findings.threads),
            ("comments", findings.comments),
            ("looked wrong at first", findings.suspects),
            ("left to a saga at work", findings.at_work),
        ],
    )
    print_line("")
    if findings.divergences:
        print_table(
            ("article", "what should be, and is not", "saga", "more"),
            [(it.article_id, it.kind.value, it.saga_id, it.detail) for it in findings.divergences],
        )
        print_line("")
    for line in _conclusion(findings):
        print_line(line)


def _conclusion(findings: Findings) -> Iterable[str]:
    from orchestrator.cli.audit_looks import Verdict

    match findings.verdict:
        case Verdict.AGREE:
            yield "articles and comments agree"
        case Verdict.DIVERGE:
            yield f"articles and comments do not agree: {len(findings.divergences)} divergences"
            yield "next: sagabox dead-letters; sagabox show SAGA --history"
        case Verdict.INCONCLUSIVE:
            yield "it cannot be told whether articles and comments agree"
            for name, count in findings.resting.items():
                yield f"  {count} messages rest in the database of {name}"
            if findings.followed < findings.suspects:
                yield f"  only {findings.followed} articles could be looked at again"
            yield "next: sagabox audit --timeout 300, when all services run"
