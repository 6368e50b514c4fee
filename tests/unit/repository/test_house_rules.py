"""What no file may hold: a clock of its own, an ignore without a reason, one machine's paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

_OWN_FILE = Path(__file__).relative_to(ROOT)
_SKIPPED_FOLDERS = {"__pycache__", "vendor", "build", "dist", "htmlcov", "node_modules"}
_HIDDEN_BUT_OURS = {".ci", ".github"}

_CLOCK = Path("outbox/clock.py")
_WITHOUT_THE_LIBRARY = Path("examples/webhooks/subscriber.py")
_READS_A_CLOCK = re.compile(r"datetime\.now\(|datetime\.utcnow|date\.today\(|\btime\.time(_ns)?\(")
_MACHINE = re.compile(r"(?<![\w.~-])/(home|Users)/\w+/|--(extra-)?index-url|--find-links")
_IGNORE = re.compile(r"#\s*(?:type:\s*ignore|noqa|pragma:\s*no\s*cover)(?P<rest>.*)$")
_REASONED = re.compile(
    r"""^\s*( \[[\w,\s-]+\] | :\s*[A-Z]+\d+(,\s*[A-Z]+\d+)* )   # the rules
        \s+ (\#|-)? \s* \w+.*\w                                 # and why
    """,
    re.VERBOSE,
)


def _files(root: Path = ROOT) -> Iterator[Path]:
    """The text files of the project, relative to its root."""
    for path in sorted(root.iterdir()):
        hidden = path.name.startswith(".") and path.name not in _HIDDEN_BUT_OURS
        if path.is_dir():
            if not hidden and path.name not in _SKIPPED_FOLDERS:
                yield from _files(path)
        elif b"\0" not in path.read_bytes()[:1024]:
            yield path.relative_to(ROOT)


def _lines(*suffixes: str) -> Iterator[tuple[Path, int, str]]:
    for path in _files():
        if path != _OWN_FILE and (not suffixes or path.suffix in suffixes):
            for number, line in enumerate((ROOT / path).read_text("utf-8").splitlines(), 1):
                yield path, number, line


def test_only_the_clock_reads_the_clock() -> None:
    found = [
        f"{path}:{number}: {line.strip()}: take a Clock from outbox.clock instead"
        for path, number, line in _lines(".py")
        if path not in (_CLOCK, _WITHOUT_THE_LIBRARY) and _READS_A_CLOCK.search(line)
    ]
    assert not found, "\n" + "\n".join(found)
    assert _READS_A_CLOCK.search((ROOT / _CLOCK).read_text("utf-8")), "the search finds nothing"


def test_no_file_names_a_place_of_one_machine_or_a_package_index() -> None:
    found = [
        f"{path}:{number}: {match[0]!r} is true on one machine only: remove it"
        for path, number, line in _lines()
        if (match := _MACHINE.search(line))
    ]
    assert not found, "\n" + "\n".join(found)


def test_an_ignore_carries_its_reason_on_the_line() -> None:
    found = [
        f"{path}:{number}: {line.strip()}: name the rule, and say why it is ignored here"
        for path, number, line in _lines(".py")
        if (match := _IGNORE.search(line)) and not _REASONED.search(match["rest"])
    ]
    assert not found, "\n" + "\n".join(found)


def test_the_search_covers_sources_documents_and_recipes() -> None:
    files = set(map(str, _files()))
    assert {"pyproject.toml", "Makefile", ".ci/run", "requirements/test.txt"} <= files
    assert {"outbox/clock.py", "tests/conftest.py", "CONTRIBUTING.md"} <= files
    assert not any(name.startswith((".git/", ".venv/")) for name in files)


@pytest.mark.parametrize(
    "line",
    [
        "now = datetime.now(UTC)",
        "now = datetime.datetime.now(tz=UTC)",
        "now = datetime.utcnow()",
        "now = time.time()",
        "now = time.time_ns()",
        "day = date.today()",
    ],
)
def test_each_way_to_read_the_clock_is_found(line: str) -> None:
    assert _READS_A_CLOCK.search(line)


@pytest.mark.parametrize(
    "line", ["clock.now()", "time.monotonic()", "from datetime import datetime"]
)
def test_other_times_are_not_found(line: str) -> None:
    assert not _READS_A_CLOCK.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "pip install --index-url x y",
        "/home/ada/project",
        "/Users/ada/project",
    ],
)
def test_each_place_of_one_machine_is_found(line: str) -> None:
    assert _MACHINE.search(line)


@pytest.mark.parametrize("line", ["https://host/home/of/it", "at/home", "./Users"])
def test_other_paths_are_not_found(line: str) -> None:
    assert not _MACHINE.search(line)


@pytest.mark.parametrize(
    ("line", "reasoned"),
    [
        ("x  # type: ignore", False),
        ("x  # type: ignore[arg-type]", False),
        ("x  # type: ignore[arg-type]  # the stub forgets None", True),
        ("x  # noqa", False),
        ("x  # noqa: F401", False),
        ("x  # noqa: F401 - read by the plugin", True),
        ("x  # noqa: F401, E501", False),
        ("x  # noqa: F401, E501  # a table", True),
    ],
)
def test_a_reason_is_told_from_none(line: str, reasoned: bool) -> None:
    match = _IGNORE.search(line)
    assert match is not None
    assert bool(_REASONED.search(match["rest"])) is reasoned
