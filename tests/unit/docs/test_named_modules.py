"""Each file, folder and module that the pages name is there."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("outbox", "orchestrator", "articles", "comments", "migrations")
FOLDERS = (*PACKAGES, "tests", "examples", "docs", "requirements")
OF_READERS = {"trips.py", "test_found.py"}
"""Files of the reader's own project, which the pages let them write."""

_PATH = re.compile(rf"(?<![\w./:*-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
_MODULE = re.compile(rf"(?<![\w./:@-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?![\w-])")
_FILE = re.compile(r"(?<![\w./*-])\w+\.py\b")


@cache
def _sources() -> tuple[frozenset[str], str]:
    folders = [ROOT / it for it in (*PACKAGES, "tests", "examples")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    code = [file.read_text() for file in files if "tests" not in file.relative_to(ROOT).parts]
    return frozenset(file.name for file in files), "\n".join(code)


def _is_there(path: str) -> bool:
    named = path.rstrip("./")
    is_pattern = any(part.isupper() for part in named.split("/"))
    return is_pattern or any(ROOT.glob(named))


def _is_module_or_in_one(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        if place.with_suffix(".py").exists() or (place / "__init__.py").exists():
            found: object = importlib.import_module(".".join(parts[:count]))
            for part in parts[count:]:
                found = getattr(found, part, None)
            return found is not None
    return False


def _is_known(name: str) -> bool:
    # A logger, a type of messages and the like is a text in the code.
    return _is_module_or_in_one(name) or f'"{name}"' in _sources()[1]


def wrong_names(text: str) -> list[str]:
    """The names in a page that lead to nothing, sorted."""
    modules = {it for it in _MODULE.findall(text) if not it.endswith((".md", ".sqlite"))}
    return sorted(
        {path for path in _PATH.findall(text) if not _is_there(path)}
        | {module for module in modules if not _is_known(module)}
        | (set(_FILE.findall(text)) - _sources()[0] - OF_READERS)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_file_and_no_module_that_is_not_there(page: Path) -> None:
    assert wrong_names(page.read_text()) == []


def test_a_name_that_leads_to_nothing_is_found() -> None:
    text = """The courier (`outbox/courier.py`, or `outbox/relay/courier.py`) is in `outbox/relay/`.
    It is `outbox.relay.courier.Courier`, not `outbox.courier.Courier`, and no
    `outbox.relay.courier.Carrier`. `migrations/SERVICE/` has an `env.py`, no `end.py`."""
    assert wrong_names(text) == [
        "end.py",
        "outbox.courier.Courier",
        "outbox.relay.courier.Carrier",
        "outbox/courier.py",
    ]
