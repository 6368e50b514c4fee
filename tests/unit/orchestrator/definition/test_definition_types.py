"""What a type checker finds in a definition before it is ever run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
import outbox

pytestmark = pytest.mark.slow

_DEFINITION = """
from dataclasses import dataclass, replace
from orchestrator.definition.rest import rest
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import compensatable, pivot, retriable
from outbox.messages import Command

@dataclass(frozen=True)
class Seat:
    number: str

@dataclass(frozen=True)
class Receipt:
    number: str

@dataclass(frozen=True)
class Reserve(Command[Seat], type="trains.reserve.v1", key="trip"):
    trip: str

@dataclass(frozen=True)
class Release(Command[None], type="trains.release.v1", key="trip"):
    trip: str

@dataclass(frozen=True)
class Trip:
    trip: str
    seat: str | None = None

    def seated(self, reply: Seat) -> "Trip":
        return replace(self, seat=reply.number)

    def paid(self, reply: Receipt) -> "Trip":
        return self

    def numbered(self, reply: int) -> "Trip":
        return self

saga = Saga(
    name="book-trip", version=1, state=Trip, key=lambda it: it.trip,
    steps=[
        compensatable(
            "reserve", lambda it: Reserve(it.trip),
            compensation=lambda it: Release(it.trip), on_reply=Trip.seated,
        ),
        compensatable(
            "pay",
            lambda it: rest("bank", "POST /payments", body=[it.trip], reply=Receipt, keyed=True),
            compensation=lambda it: rest("bank", "DELETE /p/{seat}", values={"seat": str(it.seat)}),
            on_reply=Trip.paid,
        ),
        pivot("go", lambda it: Release(it.trip)),
        retriable("come back", lambda it: Release(it.trip)),
    ],
)
"""
_OPTIONS = (
    "--strict",
    # No developer's own settings decide this, nor what an earlier run has cached.
    "--config-file=",
    "--cache-dir=cache",
    # What the packages import themselves has no part in it, and takes long to read.
    "--no-site-packages",
    "--follow-imports=silent",
)
_MISTAKES = {
    "a misspelt field of the state in an action": (
        "lambda it: Reserve(it.trip)",
        "lambda it: Reserve(it.tripp)",
        '"Trip" has no attribute "tripp"',
    ),
    "a misspelt field of the state in a compensation": (
        "compensation=lambda it: Release(it.trip)",
        "compensation=lambda it: Release(it.tripp)",
        '"Trip" has no attribute "tripp"',
    ),
    "a misspelt field of the state in the key": (
        "key=lambda it: it.trip",
        "key=lambda it: it.tripp",
        '"Trip" has no attribute "tripp"',
    ),
    "a field of the wrong type": (
        "lambda it: Reserve(it.trip)",
        "lambda it: Reserve(it.seat)",
        'Argument 1 to "Reserve" has incompatible type "str | None"; expected "str"',
    ),
    "an on_reply for another reply": (
        "on_reply=Trip.seated",
        "on_reply=Trip.numbered",
        "[misc]",
    ),
    "a misspelt field of the state in the body of a REST call": (
        "body=[it.trip]",
        "body=[it.tripp]",
        '"Trip" has no attribute "tripp"',
    ),
    "a misspelt field of the state in the address of a REST call": (
        "str(it.seat)",
        "str(it.seet)",
        '"Trip" has no attribute "seet"',
    ),
    "a REST call whose reply is not what on_reply takes": (
        "reply=Receipt,",
        "reply=Seat,",
        "[misc]",
    ),
    "an option of a REST call that there is not": (
        "reply=Receipt, keyed=True",
        "reply=Receipt, keyedd=True",
        "[call-overload]",
    ),
    "a missing compensation": (
        "compensation=lambda it: Release(it.trip), ",
        "",
        'Missing named argument "compensation" for "compensatable"',
    ),
    "a pivot with a compensation": (
        'pivot("go", lambda it: Release(it.trip))',
        'pivot("go", lambda it: Release(it.trip), compensation=lambda it: Release(it.trip))',
        'Unexpected keyword argument "compensation" for "pivot"',
    ),
    "an action that makes no command": (
        'pivot("go", lambda it: Release(it.trip))',
        'pivot("go", lambda it: it.trip)',
        'expected "Command[',
    ),
    "a key that is no text": (
        "key=lambda it: it.trip",
        "key=lambda it: it.seat",
        'expected "Callable[[Trip], str]"',
    ),
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of each snippet, by the name of its module: all in one run."""
    folder = tmp_path_factory.mktemp("snippets")
    folder.joinpath("sound.py").write_text(_DEFINITION)
    for number, (right, wrong, _) in enumerate(_MISTAKES.values()):
        assert _DEFINITION.count(right) == 1, right
        folder.joinpath(f"mistake{number}.py").write_text(_DEFINITION.replace(right, wrong))
    packages = {str(Path(str(it.__file__)).parents[1]) for it in (orchestrator, outbox)}
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *_OPTIONS, "."],
        cwd=folder,
        env={**os.environ, "MYPYPATH": os.pathsep.join(sorted(packages))},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode in {0, 1}, run.stderr or run.stdout
    found: dict[str, list[str]] = {}
    for line in run.stdout.splitlines():
        file, _, said = line.partition(":")
        found.setdefault(file.removesuffix(".py"), []).append(said)
    return found


def test_a_sound_definition_has_no_findings(findings: dict[str, list[str]]) -> None:
    assert findings.get("sound", []) == []


@pytest.mark.parametrize("mistake", _MISTAKES)
def test_a_mistake_is_found_by_the_type_checker(
    findings: dict[str, list[str]], mistake: str
) -> None:
    number = list(_MISTAKES).index(mistake)
    errors = [line for line in findings.get(f"mistake{number}", []) if "error:" in line]
    assert any(_MISTAKES[mistake][2] in line for line in errors), errors
