"""The figures that are kept, and the page of the documentation that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.figures import Figures
from benchmarks.report import capacity
from benchmarks.report import page as pages
from tests.support.checkout import ROOT

RECORDED = ROOT / "benchmarks" / "recorded.json"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
CAPACITY = ROOT / "docs" / "operate" / "capacity.md"


def figures(path: Path) -> Figures:
    """What is kept there; no figures where there is no such file."""
    return Figures.from_json(_read(path)) if path.exists() else Figures()


def keep(measured: Figures, path: Path) -> None:
    """Put the figures in place of those of the same name, and note the machine."""
    kept = figures(path).replaced_by(measured)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine.described(), **kept.as_json()}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def page() -> str:
    """The page with the recorded figures in it."""
    machine = _read(RECORDED)["machine"]
    return pages.filled(PAGE.read_text("utf-8"), figures(RECORDED), machine)


def capacity_page() -> str:
    """The page of capacity, computed from the recorded figures."""
    return capacity.filled(CAPACITY.read_text("utf-8"), figures(RECORDED))


def write_page() -> None:
    """Write the recorded figures into the pages, and draw the pictures."""
    PAGE.write_text(page(), encoding="utf-8")
    CAPACITY.write_text(capacity_page(), encoding="utf-8")
    for name, picture in pages.pictures(figures(RECORDED)).items():
        path = PAGE.parent / "benchmarks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(picture, encoding="utf-8")


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


if __name__ == "__main__":
    write_page()
