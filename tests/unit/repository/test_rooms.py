"""The rooms of the house: signs on the doors, one way between them, and how much fits into each."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.repository import rooms
from tests.support.repository.imports import Sources

HOUSES = ("outbox", "orchestrator")
MOST_MODULES = 14
MOST_WORDS = 20
"""How many modules may lie directly in `outbox`, which are the vocabulary and what is public."""
MOST_OF_A_CLASS = 300
MOST_OF_A_FUNCTION = 80

REGISTRARS = ("router", "add_handlers")
"""Functions that only register routes or handlers may be longer."""
FROZEN = (
    ("outbox/database/schema/versions.py", "_create_1"),
    ("orchestrator/schema/versions/start.py", "upgrade"),
)
"""Released migrations are never edited."""


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(ROOT, HOUSES)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def test_no_room_imports_through_a_wall(sources: Sources) -> None:
    violations = list(rooms.through_walls(sources))
    assert not violations, "\n" + "\n".join(violations)


def test_the_vocabulary_stands_on_nothing_else(sources: Sources) -> None:
    violations = list(rooms.upwards(sources))
    assert not violations, "\n" + "\n".join(violations)


def test_no_two_modules_import_each_other(sources: Sources) -> None:
    violations = list(rooms.circles(sources))
    assert not violations, "\n" + "\n".join(violations)


def test_the_table_gives_nothing_that_is_not_taken(sources: Sources) -> None:
    taken: dict[str, set[str]] = {}
    for found in sources.all_imports():
        here, there = rooms.room_of(found.importer), rooms.room_of(found.imported)
        if here is not None and there is not None and not found.for_types_only:
            taken.setdefault(here.name, set()).add(there.name)
    surplus = {
        name: sorted(room.may_import - taken.get(name, set()))
        for name, room in rooms.rooms().items()
        if room.may_import is not None
    }
    assert not {name: names for name, names in surplus.items() if names}


def test_each_package_has_a_row_and_its_first_sentence_is_that_of_the_row(
    sources: Sources,
) -> None:
    for module, path in sources.files.items():
        if path.name != "__init__.py":
            continue
        room = rooms.room_of(module)
        assert room is not None, f"{module} has no row in the table of rooms"
        assert room.name == module, f"{module} has no row of its own in the table of rooms"
        told = " ".join((ast.get_docstring(_tree(path)) or "").split("\n\n")[0].split())
        assert told == room.sentence, path
    gone = [it for it in rooms.rooms() if it not in sources.files]
    assert not gone, "rows of the table of rooms without a package or module"
    assert rooms.vocabulary() <= set(sources.files)


def test_every_module_stands_in_a_room_or_is_vocabulary(sources: Sources) -> None:
    outside = [
        module
        for module in sources.files
        if module not in rooms.vocabulary() and rooms.room_of(module) is None
    ]
    assert not outside


def test_no_folder_is_crowded(sources: Sources) -> None:
    crowd = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for path in sources.files.values()
        if path.name != "__init__.py"
    )
    assert crowd.pop("outbox") <= MOST_WORDS
    assert not {folder: count for folder, count in crowd.items() if count > MOST_MODULES}


def _long_ones(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(_tree(path)):
        match node:
            case ast.ClassDef():
                most = MOST_OF_A_CLASS
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.name in REGISTRARS or (name, node.name) in FROZEN:
                    continue
                most = MOST_OF_A_FUNCTION
            case _:
                continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > most:
            yield f"{name}:{node.lineno}: {node.name} has {lines} lines, more than {most}"


def test_no_class_and_no_function_is_long() -> None:
    paths = Sources(ROOT, (*HOUSES, "articles", "comments", "migrations")).files.values()
    found = [line for path in paths for line in _long_ones(path)]
    assert not found, "\n" + "\n".join(found)


# That a rule which finds nothing can find something.


def _plant(root: Path, **modules: str) -> Sources:
    for name, text in modules.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sources(root, HOUSES)


def test_a_planted_import_through_a_wall_is_found(tmp_path: Path) -> None:
    sources = _plant(
        tmp_path, outbox__relay__x="from outbox.inbox import inbox", outbox__inbox__inbox=""
    )
    (violation,) = rooms.through_walls(sources)
    assert violation.startswith("outbox/relay/x.py:1: outbox.relay imports outbox.inbox.inbox: ")


def test_a_planted_import_by_the_vocabulary_is_found(tmp_path: Path) -> None:
    sources = _plant(
        tmp_path, outbox__clock="from outbox.relay import x", outbox__relay__x="import sys"
    )
    (violation,) = rooms.upwards(sources)
    assert violation == "outbox/clock.py:1: outbox.clock is vocabulary, and imports outbox.relay.x"


def test_a_planted_circle_is_found_and_what_only_looks_at_it_is_not(tmp_path: Path) -> None:
    sources = _plant(
        tmp_path,
        outbox__relay__a="from outbox.relay import b",
        outbox__relay__b="def f():\n    from outbox.relay import c",
        outbox__relay__c="from outbox.relay import a",
        outbox__relay__d="from outbox.relay import a",
        outbox__relay__e="if TYPE_CHECKING:\n    from outbox.relay import d",
    )
    assert [it.split()[0] for it in rooms.circles(sources)] == [
        "outbox.relay.a",
        "outbox.relay.b",
        "outbox.relay.c",
    ]


def test_a_planted_long_function_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.repository.test_rooms.ROOT", tmp_path)
    path = tmp_path / "long.py"
    path.write_text("def f() -> None:\n" + "    print()\n" * 80)
    assert len(list(_long_ones(path))) == 1
    path.write_text("def router() -> None:\n" + "    print()\n" * 80)
    assert not list(_long_ones(path))
