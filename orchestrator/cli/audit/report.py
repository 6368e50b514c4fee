"""The report of an audit, its findings and repairs, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.cli.audit.divergences import Divergence
from orchestrator.cli.audit.looks import Agreement, Findings
from orchestrator.cli.audit.lost_reading import RunFindings
from orchestrator.cli.audit.repair import Planned, Repaired
from orchestrator.cli.terminal.output import print_json, print_line, print_paragraph, print_table
from outbox.wire import strict_json


def tell(findings: Findings, limit: int) -> None:
    """Print the findings as tables; no more than `limit` divergences."""
    if findings.compared:
        print_table(
            ("compared", ""),
            [
                *findings.compared.items(),
                ("looked wrong at first", findings.suspects),
                ("left to a saga at work", findings.at_work),
            ],
        )
        print_line("")
    if findings.divergences:
        print_table(
            ("", "id", "what should be, and is not", "saga", "more"),
            [
                (it.entity, it.id, it.wrong.should, it.saga_id, it.detail)
                for it in findings.divergences[:limit]
            ],
        )
        if (rest := len(findings.divergences) - limit) > 0:
            print_line(f"and {rest} more: the same command with --limit 10000")
        print_line("")
    if findings.of_runs is not None:
        _tell_runs(findings.of_runs, limit)
    for line in _conclusion(findings):
        print_line(line)
    for line in _decisions(findings):
        print_paragraph(line)


def tell_plan(planned: Sequence[Planned]) -> None:
    """Print the repairs that would be started."""
    print_line("")
    print_table(
        ("to be started", "input"),
        [(it.saga, strict_json.dumps(dict(it.input)).decode()) for it in planned],
    )


def _tell_runs(of_runs: RunFindings, limit: int) -> None:
    print_table(
        ("compared", ""),
        [
            ("runs that have ended", of_runs.runs),
            *_half_compared(of_runs),
            ("rows of inboxes", of_runs.rows),
            *(
                (f"sent again by {name}, and known to the receiver", count)
                for name, count in of_runs.come_again.items()
            ),
        ],
    )
    print_line("")
    if not of_runs.lost:
        return
    print_table(
        ("", "at", "run", "saga", "key", "more"),
        [
            (it.loss.value, it.service, it.saga_id, it.saga, it.key, it.detail)
            for it in of_runs.lost[:limit]
        ],
    )
    if of_runs.is_cut:
        print_line("and more than are remembered: --since HOURS looks at younger runs alone")
    elif (rest := len(of_runs.lost) - limit) > 0:
        print_line(f"and {rest} more: the same command with --limit 10000")
    print_line("")


def tell_repairs(repaired: Sequence[Repaired]) -> None:
    """Print the outcomes of the repairs."""
    print_line("")
    print_table(
        ("started", "id", "saga", "it ended"),
        [(it.planned.saga, it.planned.id, it.saga_id, _end(it)) for it in repaired],
    )
    print_line("")


def tell_json(
    findings: Findings, limit: int, repair: tuple[Findings, Sequence[Repaired]] | None
) -> None:
    """Print the report as one document. After a repair it has the findings from before."""
    document = _as_json(findings, limit)
    if repair is not None:
        before, repaired = repair
        document["repair"] = {
            "before": [_divergence(it) for it in before.divergences[:limit]],
            "sagas": [
                {
                    "name": it.planned.saga,
                    "input": dict(it.planned.input),
                    "saga_id": it.saga_id,
                    "status": it.status,
                }
                for it in repaired
            ],
        }
    print_json(document)


def _as_json(findings: Findings, limit: int) -> dict[str, Any]:
    return {
        "verdict": findings.agreement.value,
        "compared": dict(findings.compared),
        "suspects": findings.suspects,
        "followed": findings.followed,
        "at_work": findings.at_work,
        "found": len(findings.divergences),
        "divergences": [_divergence(it) for it in findings.divergences[:limit]],
        "resting": dict(findings.resting),
        "runs": None if findings.of_runs is None else _runs_as_json(findings.of_runs, limit),
    }


def _half_compared(of_runs: RunFindings) -> list[tuple[str, int]]:
    if not of_runs.without_history:
        return []
    what = "of these, without their history: what participants lost is not seen"
    return [(what, of_runs.without_history)]


def _runs_as_json(of_runs: RunFindings, limit: int) -> dict[str, Any]:
    return {
        "compared": {
            "runs": of_runs.runs,
            "rows": of_runs.rows,
            "without_history": of_runs.without_history,
        },
        "come_again": dict(of_runs.come_again),
        "found": len(of_runs.lost),
        "is_cut": of_runs.is_cut,
        "lost": [
            {
                "code": it.loss.value,
                "service": it.service,
                "saga_id": it.saga_id,
                "saga": it.saga or None,
                "key": it.key or None,
                "should_be": it.loss.should,
                "detail": it.detail or None,
                "decide": it.loss.decide,
            }
            for it in of_runs.lost[:limit]
        ],
    }


def _divergence(it: Divergence) -> dict[str, Any]:
    return {
        "entity": it.entity,
        "id": it.id,
        "code": it.code,
        "should_be": it.wrong.should,
        "saga_id": it.saga_id,
        "detail": it.detail or None,
        "repair": None if it.wrong.repair is None else it.wrong.repair.saga,
        "decide": it.wrong.decide or None,
    }


def _end(it: Repaired) -> str:
    if it.saga_id is None:
        return "one was active already"
    return it.status or "not yet"


def _conclusion(findings: Findings) -> Iterable[str]:
    names = _and(findings.services)
    match findings.agreement:
        case Agreement.AGREE:
            yield f"{names} agree"
        case Agreement.DIVERGE:
            number = len(findings.divergences)
            if number:
                yield f"{names} do not agree: {counted(number, 'divergence')}"
            if findings.of_runs is not None and findings.of_runs.lost:
                lost = len(findings.of_runs.lost)
                yield f"runs and inboxes do not agree: {counted(lost, 'contradiction')}"
            repairable = sum(it.wrong.repair is not None for it in findings.divergences)
            if repairable:
                yield f"next: sagabox audit --repair, for {repairable} of them"
            if repairable < number:
                yield "next: sagabox dead-letters; sagabox show SAGA --history"
        case Agreement.INCONCLUSIVE:
            yield f"it cannot be told whether {names} agree"
            for name, count in findings.resting.items():
                rest = "rests" if count == 1 else "rest"
                yield f"  {counted(count, 'message')} {rest} in the database of {name}"
            if findings.followed < findings.suspects:
                yield f"  only {findings.followed} of {findings.suspects} could be looked at again"
            yield "next: sagabox audit --timeout 300, when all services run"


def _decisions(findings: Findings) -> Iterable[str]:
    """What an operator has to decide, once for each kind."""
    told = {it.code: it.wrong.decide for it in findings.divergences if it.wrong.repair is None}
    if findings.of_runs is not None:
        told |= {it.loss.value: it.loss.decide for it in findings.of_runs.lost}
    for code, decide in told.items():
        if decide:
            yield f"decide ({code}): {decide}"


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural unless it is one."""
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
