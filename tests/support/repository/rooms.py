"""The rooms of the two packages: what each is for, and what it may import.

The table in docs/internals/architecture.md is the one place where this is written; it is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from tests.support.checkout import ROOT
from tests.support.repository.imports import Import, Sources, within

PAGE = ROOT / "docs" / "internals" / "architecture.md"

_ANYTHING = "anything"
_NAME = re.compile(r"`([\w.]+)`")


@dataclass(frozen=True)
class Room:
    """A package, or a public module that stands alone."""

    name: str
    sentence: str
    """What it is for."""
    may_import: frozenset[str] | None
    """The other rooms that its modules may import, beside the vocabulary; None for all of them."""

    @property
    def is_pure(self) -> bool:
        """Whether its modules only turn values into values."""
        return self.sentence.endswith(" Pure.")


def table(name: str) -> list[list[str]]:
    """The cells of each row of a table of the page that stands between comments with that name."""
    text = PAGE.read_text("utf-8")
    _, _, rest = text.partition(f"<!-- {name} -->")
    body, end, _ = rest.partition(f"<!-- end of {name} -->")
    assert end, f"docs/internals/architecture.md has no table of {name}"
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in body.splitlines()]
    return [cells for cells in rows if cells[0].startswith("`")]


@cache
def rooms() -> Mapping[str, Room]:
    """All rooms, by their names."""
    found = [
        Room(
            _NAME.findall(name)[0],
            sentence,
            None if may_import == _ANYTHING else frozenset(_NAME.findall(may_import)),
        )
        for name, sentence, may_import in table("rooms")
    ]
    return {it.name: it for it in found}


@cache
def vocabulary() -> frozenset[str]:
    """The modules that every room of a package may import."""
    return frozenset(name for names, _ in table("vocabulary") for name in _NAME.findall(names))


@cache
def room_of(module: str) -> Room | None:
    """The room that a module stands in; None for one of the vocabulary, or of another package."""
    if module in vocabulary():
        return None
    inside = [it for it in rooms() if module == it or ("." in it and within(module, it))]
    return rooms()[max(inside, key=len)] if inside else None


def through_walls(sources: Sources) -> Iterator[str]:
    """Imports of a room that the table does not give to the importer."""
    for found in sources.all_imports():
        here, there = room_of(found.importer), room_of(found.imported)
        if found.for_types_only or here is None or there is None or here is there:
            continue
        if here.may_import is not None and there.name not in here.may_import:
            yield (
                f"{found.where}: {here.name} imports {found.imported}: the table of rooms in "
                "docs/internals/architecture.md does not say that it may"
            )


def upwards(sources: Sources) -> Iterator[str]:
    """Imports of the vocabulary from above it: it stands on nothing but itself."""
    for found in sources.all_imports():
        if found.for_types_only or found.importer not in vocabulary():
            continue
        if room_of(found.imported) is not None:
            yield f"{found.where}: {found.importer} is vocabulary, and imports {found.imported}"


def circles(sources: Sources) -> Iterator[str]:
    """The modules that import each other, straight or through others, when they are executed."""
    imports: dict[str, set[str]] = {module: set() for module in sources.files}
    for found in _executed(sources):
        imports[found.importer].add(found.imported)
    done: set[str] = set()
    while free := {it for it, others in imports.items() if it not in done and others <= done}:
        done |= free
    left = set(imports) - done
    # What only imports a circle is in none.
    while loose := {it for it in left if not any(it in imports[other] for other in left)}:
        left -= loose
    for module in sorted(left):
        yield f"{module} is in a circle with {', '.join(sorted(imports[module] & left))}"


def _executed(sources: Sources) -> Iterator[Import]:
    for found in sources.all_imports():
        importer, imported = found.importer, found.imported
        # The faces hand names on when they are asked for: nothing is executed for it.
        if not found.for_types_only and imported in sources.files and importer != imported:
            yield found
