"""The rules of `deploy/prometheus/`, and the table of alerts that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.checkout import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
PAGE = ROOT / "docs" / "operate" / "operating.md"
METRIC = re.compile(r"\bsagabox_\w+")
_CELLS = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Rule:
    """One rule, as the file has it."""

    alert: str
    expression: str
    lasts: str
    severity: str
    summary: str
    runbook: str


@dataclass(frozen=True)
class Row:
    """One row of the table: the condition, for how long it holds (as Prometheus writes it), and
    what it says."""

    condition: str
    lasts: str
    says: str


def files() -> list[Path]:
    """The files with rules."""
    return sorted((FOLDER / "rules").glob("*.yaml"))


def rules() -> list[Rule]:
    """All rules, in the order of the files."""
    found: list[Rule] = []
    for path in files():
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            found += map(_rule, group["rules"])
    return found


def _rule(read: dict[str, Any]) -> Rule:
    assert set(read) <= {"alert", "expr", "for", "labels", "annotations"}, read
    return Rule(
        read["alert"],
        read["expr"],
        read.get("for", "0m"),
        read["labels"]["severity"],
        read["annotations"]["summary"],
        read["annotations"]["runbook_url"],
    )


def rows() -> list[Row]:
    """The table of alerts."""
    text = PAGE.read_text("utf-8")
    table = text.partition("<!-- alerts -->\n")[2].partition("<!-- end of alerts -->")[0]
    return [_row(line) for line in table.strip().splitlines()[2:]]


def _row(line: str) -> Row:
    condition, lasts, says = (it.strip() for it in _CELLS.split(line)[1:-1])
    assert re.fullmatch("`[^`]+`", condition), condition
    number, unit = lasts.split()
    letters = {"min": "m", "h": "h", "d": "d"}
    return Row(condition.strip("`").replace("\\|", "|"), f"{number}{letters[unit]}", says)


def metrics_in(expression: str) -> set[str]:
    """The metrics of ours that it names."""
    return set(METRIC.findall(expression))
