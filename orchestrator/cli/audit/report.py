"""The report of an audit, its findings and repairs, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.cli.audit.divergences import Divergence
from orchestrator.cli.audit.looks import Agreement, Findings
from orchestrator.cli.audit.repair import Planned, Repaired
from orchestrator.cli.terminal.output import print_json, print_line, print_table
from outbox.wire import strict_json


def tell(findings: Findings, limit: int) -> None:
    """Print the findings as tables; no more than `limit` divergences."""
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
    for line in _conclusion(findings):
        print_line(line)


def tell_plan(planned: Sequence[Planned]) -> None:
    """Print the repairs that would be started."""
    print_line("")
    print_table(
        ("to be started", "input"),
        [(it.saga, strict_json.dumps(dict(it.input)).decode()) for it in planned],
    )


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
            yield f"{names} do not agree: {counted(number, 'divergence')}"
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


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural unless it is one."""
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
