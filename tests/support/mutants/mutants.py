"""Kept bugs: each a patch of a production module, with a head that says what it breaks, and which
tool of the kit is to find it.

    An action runs although its undo came first (P3).

    Tool: simulate
    Breaks: P4 or P2, P3
    Found: 12
    Within: 100
    --- outbox/inbox/barrier.py
    +++ outbox/inbox/barrier.py
    @@ -1,3 +1,3 @@
    ...

`Breaks` is what the tool then says, or one of several. `Found` is how many histories or worlds it
took when that was measured last, `Within` how many it may take. Pure, but for the reading of files.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.support.checkout import ROOT

FOLDER = ROOT / "tests" / "consistency" / "mutants"

_FIELD = re.compile(r"(Tool|With|Breaks|Found|Within): (.+)")
_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*")


class Tool(enum.StrEnum):
    """What finds a mutant."""

    EXPLORE = "explore"
    """Every order of few events, with the machine alone. It is counted in worlds."""
    SIMULATE = "simulate"
    """Random histories of the whole engine over virtual stores. It is counted in histories."""
    DATABASE = "database"
    """The same histories on SQLite, with the real inbox."""
    SCENARIO = "scenario"
    """A test of its own, for what no history has."""

    @property
    def unit(self) -> str:
        """What it counts."""
        return {Tool.EXPLORE: "worlds", Tool.SCENARIO: "test"}.get(self, "histories")


class DoesNotApply(Exception):
    """A patch is about code that is not there, or not there once."""


@dataclass(frozen=True)
class Hunk:
    """So many lines in place of others; both include what stands around them."""

    before: str
    after: str


@dataclass(frozen=True)
class Mutant:
    """One kept bug. `about` is the sentence that says what is broken; `using` is what its tool has
    to be told: names of faults, a saga and its faults, or the tests."""

    name: str
    about: str
    tool: Tool
    using: str
    breaks: tuple[str, ...]
    found: int
    within: int
    hunks: Mapping[str, Sequence[Hunk]]
    """By the path of the file, from the root of the repository."""

    @property
    def expected(self) -> str:
        """What it breaks, in one line."""
        return " or ".join(self.breaks)

    @property
    def modules(self) -> tuple[str, ...]:
        """What it changes, as it is imported."""
        return tuple(
            path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for path in self.hunks
        )

    def source(self, path: str) -> str:
        """The file with the bug in it. Raises DoesNotApply."""
        source = (ROOT / path).read_text()
        for hunk in self.hunks[path]:
            count = source.count(hunk.before) if hunk.before else 0
            if count != 1:
                raise DoesNotApply(
                    f"mutant {self.name} does not apply: what it changes stands {count} times in "
                    f"{path}, not once; write {self.name}.patch anew for the code as it is now:\n"
                    f"{hunk.before}"
                )
            source = source.replace(hunk.before, hunk.after)
        return source


def mutants() -> list[Mutant]:
    """All of them, by name. Raises ValueError where a file cannot be read."""
    return [parsed(path.stem, path.read_text()) for path in sorted(FOLDER.glob("*.patch"))]


def parsed(name: str, text: str) -> Mutant:
    """The mutant of that name and text. Raises ValueError."""
    head, separator, body = text.partition("\n--- ")
    about, _, rest = head.partition("\n")
    matches = (_FIELD.fullmatch(line) for line in rest.splitlines())
    fields = {it[1]: it[2] for it in matches if it is not None}
    if not separator or {"Tool", "Breaks", "Within"} - fields.keys():
        raise ValueError(f"{name}.patch wants a sentence, Tool, Breaks, Within, and a unified diff")
    return Mutant(
        name=name,
        about=about,
        tool=Tool(fields["Tool"]),
        using=fields.get("With", ""),
        breaks=tuple(fields["Breaks"].split(" or ")),
        found=int(fields.get("Found", "0")),
        within=int(fields["Within"]),
        hunks=_hunks(name, f"--- {body}".splitlines()),
    )


def _hunks(name: str, lines: Sequence[str]) -> dict[str, list[Hunk]]:
    """What a unified diff says. Line numbers are hints; what counts is the text, all of it."""
    files: dict[str, list[Hunk]] = {}
    path = ""
    rest = iter(lines)
    for line in rest:
        if line.startswith("--- "):
            path = line[4:].strip()
            if next(rest, "") != f"+++ {path}":
                raise ValueError(f"{name}.patch: a file must keep its name, and {path} does not")
            files[path] = []
        elif (match := _HUNK.fullmatch(line)) and path:
            files[path].append(_hunk(name, rest, *(int(it or 1) for it in match.groups())))
        elif line:
            raise ValueError(f"{name}.patch: {line!r} is no part of a unified diff")
    if not all(files.values()):
        raise ValueError(f"{name}.patch changes nothing in one of {', '.join(files)}")
    return files


def _hunk(name: str, lines: Iterator[str], left: int, right: int) -> Hunk:
    before: list[str] = []
    after: list[str] = []
    while len(before) < left or len(after) < right:
        line = next(lines, None)
        if line is None or line[:1] not in ("", " ", "-", "+"):
            raise ValueError(f"{name}.patch: a hunk ends too early, at {line!r}")
        if line[:1] != "+":
            before.append(line[1:])
        if line[:1] != "-":
            after.append(line[1:])
    return Hunk("".join(f"{it}\n" for it in before), "".join(f"{it}\n" for it in after))
