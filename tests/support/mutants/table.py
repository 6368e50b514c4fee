"""Measures what it takes to find each mutant, and publishes it.

    python -m tests.support.mutants.table [NAME...]

looks for all mutants, or for these, from the first history on; writes what that took into their
patches, and the table in docs/internals/testing-mutants.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from tests.support.checkout import ROOT
from tests.support.mutants.mutants import FOLDER, Mutant, Tool, mutants
from tests.support.mutants.server import MutantServer, Searched

DOCUMENT = ROOT / "docs" / "internals" / "testing-mutants.md"
_TABLE = re.compile(r"\| mutant \|.*?\n\n", re.DOTALL)


def table(found: Sequence[Mutant]) -> str:
    """The table of the page."""
    lines = [
        "| mutant | what is broken | module | tool | it takes |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{it.name}` | {it.about.rstrip('.')} | {', '.join(f'`{path}`' for path in it.hunks)} "
        f"| {it.tool} | {_taken(it)} |"
        for it in sorted(found, key=lambda it: (list(Tool).index(it.tool), it.name))
    ]
    return "".join(f"{line}\n" for line in lines)


def _taken(mutant: Mutant) -> str:
    if mutant.tool is Tool.SCENARIO:
        return "a test of its own"
    return f"{mutant.found:,} {mutant.tool.unit}"


def as_measured(mutant: Mutant, searched: Searched) -> Mutant:
    """The mutant with what the search took."""
    counts_from_0 = mutant.tool in (Tool.SIMULATE, Tool.DATABASE)
    return replace(mutant, found=searched.number + counts_from_0)


def main(names: Sequence[str]) -> int:
    """How many were not found as their patches say."""
    failures = 0
    server = MutantServer()
    for mutant in mutants():
        if names and mutant.name not in names:
            continue
        searched = server.search(mutant, range(mutant.within))
        measured = as_measured(mutant, searched)
        taken = f"{measured.found:6} {mutant.tool.unit:9} {searched.seconds:6.2f} s"
        _say(f"{mutant.name:28} {mutant.tool:8} {taken}  {searched.promise} {searched.problem:.90}")
        if searched.promise in mutant.breaks:
            path = FOLDER / f"{mutant.name}.patch"
            text = re.sub("(?m)^Found: .*$", f"Found: {measured.found}", path.read_text(), count=1)
            path.write_text(text)
        else:
            failures += 1
            _say(f"  expected: {mutant.expected}, within {mutant.within} {mutant.tool.unit}")
    server.close()
    DOCUMENT.write_text(
        _TABLE.sub(lambda _: f"{table(mutants())}\n", DOCUMENT.read_text(), count=1)
    )
    return failures


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
