"""`sagabox explore`, and the tests that it writes, run by pytest as a user's project would."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing import Faults, PromiseBroken, Violation, explore
from tests.support.checkout import ROOT
from tests.support.orchestrator.trip_rules import (
    never_charged_without_a_ticket,
    no_passenger_sits_in_1b,
)
from tests.support.orchestrator.trips import BOOKING, UNMAKEABLE_ROOM, Seat, Trip, trip
from tests.support.processes.cli import sagabox, told_error

NONE = [f"--{field.name}=0" for field in fields(Faults)]
TRIP = "tests.support.orchestrator.trips:BOOKING"
RULE = "tests.support.orchestrator.trip_rules:never_charged_without_a_ticket"

SHOP = '''
"""A saga that is to be explored."""

from dataclasses import dataclass

from orchestrator import Saga, compensatable, pivot
from outbox import Command


@dataclass(frozen=True)
class Order:
    order_id: str


@dataclass(frozen=True)
class Reserve(Command[None], type="shop.reserve.v1", key="order_id"):
    order_id: str


@dataclass(frozen=True)
class Release(Command[None], type="shop.release.v1", key="order_id"):
    order_id: str


@dataclass(frozen=True)
class Charge(Command[None], type="bank.charge.v1", key="order_id"):
    order_id: str


def never_charged_without_goods(view):
    if "charge" in view.in_effect and "reserve" not in view.in_effect:
        return "a customer paid for nothing"
    return True


checkout = Saga(
    name="checkout",
    version=1,
    state=Order,
    key=lambda it: it.order_id,
    steps=[
        STEPS
    ],
)
'''
RESERVE = (
    'compensatable("reserve", lambda it: Reserve(it.order_id), '
    "compensation=lambda it: Release(it.order_id)),"
)
REFUND = (
    'compensatable("charge", lambda it: Charge(it.order_id), '
    "compensation=lambda it: Refund(it.order_id)),"
)
CHARGE = 'pivot("charge", lambda it: Charge(it.order_id)),'
REFUNDING = """

@dataclass(frozen=True)
class Refund(Command[None], type="bank.refund.v1", key="order_id"):
    order_id: str
"""


def explored(*arguments: str, **variables: str | None) -> tuple[int, dict[str, Any]]:
    """Exit code and document."""
    told = sagabox("explore", *arguments, "--json", **variables)
    return told.code, json.loads(told.out)


# The command


def test_the_saga_of_the_blog_is_found_and_keeps_its_promises() -> None:
    code, found = explored("delete-article", SAGABOX_SAGAS=None)
    assert (code, found["violation"], found["pytest"]) == (0, None, None)
    assert (found["saga"], found["version"]) == ("delete-article", 1)
    assert found["input"]["article_id"] == "article-id"
    assert found["ends"] == ["COMPENSATED", "COMPLETED"]
    assert found["worlds"] > 3_000
    assert found["steps"]["purge comments"]["answers"] == ["done"]
    assert "P1" in [row["name"] for row in found["not_covered"]]


def test_a_broken_promise_is_told_as_a_story_and_ends_with_1() -> None:
    code, found = explored(TRIP, "--invariant", RULE)
    assert code == 1
    assert found["violation"]["promise"] == "never_charged_without_a_ticket"
    assert found["violation"]["story"][0] == "the run starts; 'reserve seat' is sent"
    told = sagabox("explore", TRIP, "--invariant", RULE)
    assert told.code == 1
    assert "breaks never_charged_without_a_ticket: a customer paid and has no ticket" in told.out
    assert "\n  1. the run starts; 'reserve seat' is sent\n" in told.out


def test_for_people_it_says_what_was_tried_and_what_was_not() -> None:
    told = sagabox("explore", "delete-article", *NONE, "--losses=1", SAGABOX_SAGAS=None)
    assert told.code == 0
    for said in (
        *("delete-article v1", "1 losses", "close thread", "Every promise held, everywhere."),
        *("Not covered, or not wholly:", "two orchestrators at once"),
    ):
        assert said in told.out


@pytest.mark.parametrize("fault", [field.name for field in fields(Faults)])
def test_each_fault_has_an_option_of_its_name(fault: str) -> None:
    arguments = [it for it in NONE if not it.startswith(f"--{fault}=")]
    code, found = explored(TRIP, *arguments, f"--{fault}", "1")
    assert code == 0
    assert {name for name, many in found["faults"].items() if many} == {fault}


def test_the_input_is_the_one_that_is_given() -> None:
    code, found = explored(TRIP, *NONE, "--input", '{"trip": "t7", "seat": null}')
    assert (code, found["input"]) == (0, {"trip": "t7", "seat": None})


def test_a_saga_that_sagabox_sagas_names_is_found_by_its_own_name() -> None:
    code, found = explored("book-trip", *NONE, SAGABOX_SAGAS=TRIP)
    assert (code, found["saga"]) == (0, "book-trip")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-saga"], "there is no saga 'no-such-saga'"),
        (["delete-article", "--version", "7"], "there is no saga 'delete-article v7'"),
        ([TRIP, "--input", "{"], "--input is no input of this saga"),
        ([TRIP, "--input", '{"trip": 7}'], "--input is no input of this saga"),
        ([TRIP, "--invariant", "nothing"], "there is no invariant 'nothing'"),
        ([TRIP, "--at-most", "10"], "book-trip v1 with these faults has more than 10 worlds"),
        ([TRIP, "--crashes", "9", *[f"--{it}=9" for it in ("late", "locks", "skips", "pauses")]],
         "these faults are too many to try all their combinations"),
        (["tests.support.orchestrator.trips:SEAT"],
         "SAGABOX_SAGAS names 'tests.support.orchestrator.trips:SEAT'"),
    ],
)  # fmt: skip  # one case a line
def test_what_cannot_be_explored_is_refused(arguments: list[str], said: str) -> None:
    error = told_error(sagabox("explore", *arguments, "--json", SAGABOX_SAGAS=None))
    assert (error["exit_code"], error["happened"].startswith(said)) == (2, True), error


def test_a_file_of_another_author_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "test_mine.py"
    file.write_text("mine")
    told = sagabox("explore", TRIP, "--invariant", RULE, "--pytest", str(file))
    assert (told.code, file.read_text()) == (2, "mine")
    assert "is there already" in told.err


def test_no_test_is_written_where_every_promise_held(tmp_path: Path) -> None:
    file = tmp_path / "test_found.py"
    code, found = explored(TRIP, *NONE, "--pytest", str(file))
    assert (code, found["pytest"], file.exists()) == (0, None, False)


# The tests that it writes


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a saga that gives the goods back before the money."""
    write(tmp_path, REFUND, RESERVE)
    return tmp_path


def write(project: Path, *steps: str) -> None:
    """The project's saga with these steps."""
    shop = SHOP.replace("STEPS", "\n        ".join(steps))
    (project / "shop.py").write_text(
        shop.replace("\n\ndef never", f"{REFUNDING}\n\ndef never"), "utf-8"
    )


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """What a command says that runs in the project."""
    environment = {
        "PYTHONPATH": f"{project}:{ROOT}",
        "PATH": "/usr/bin:/bin",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def checked(project: Path, file: str) -> subprocess.CompletedProcess[str]:
    """What pytest says of that file, and of no other."""
    options = ["-p", "no:cacheprovider", "-q", "-c", "pytest.ini"]
    (project / "pytest.ini").write_text("[pytest]\n")
    return run(project, "-m", "pytest", *options, file)


def test_the_test_that_is_written_fails_like_the_story_until_the_saga_is_mended(
    project: Path,
) -> None:
    explored = run(
        project,
        *("-m", "orchestrator.cli", "explore", "shop:checkout"),
        *("--invariant", "shop:never_charged_without_goods", "--pytest", "test_found.py"),
    )
    assert explored.returncode == 1, explored.stdout + explored.stderr
    assert "breaks never_charged_without_goods: a customer paid for nothing" in explored.stdout
    assert "As a test: test_found.py" in explored.stdout
    failed = checked(project, "test_found.py")
    assert failed.returncode == 1, failed.stdout
    assert "PromiseBroken: checkout v1 breaks never_charged_without_goods" in failed.stdout
    story = [it for it in explored.stdout.splitlines() if it.startswith("  1. ")]
    assert len(story) == 1
    assert story[0] in failed.stdout
    write(project, RESERVE, CHARGE)
    passed = checked(project, "test_found.py")
    assert passed.returncode == 0, passed.stdout
    assert "1 passed" in passed.stdout


BROKEN_MACHINE = """
import inspect

from orchestrator.machine import turning_back

source = inspect.getsource(turning_back)
right = "        if run.action_ids:\\n"
assert source.count(right) == 1
wrong = "        if run.action_ids and run.status is not StepStatus.SENT:\\n"
broken = {"__name__": "a machine with a mistake"}
exec(compile(source.replace(right, wrong), "machine with a mistake", "exec"), broken)
# In place, since other modules have imported the function by its name.
turning_back.turn_back.__code__ = broken["turn_back"].__code__
"""


def test_a_test_of_a_mistake_in_the_machine_passes_once_the_machine_is_mended(
    tmp_path: Path,
) -> None:
    write(tmp_path, RESERVE, CHARGE)
    (tmp_path / "conftest.py").write_text(BROKEN_MACHINE)
    finds = "import conftest, shop; from orchestrator.testing import explore; "
    finds += "print(explore(shop.checkout).violation.as_pytest(), end='')"
    written = run(tmp_path, "-c", finds)
    assert written.returncode == 0, written.stderr
    (tmp_path / "test_found.py").write_text(written.stdout)
    assert "def test_checkout_keeps_p4() -> None:" in written.stdout
    failed = checked(tmp_path, "test_found.py")
    assert "breaks P4" in failed.stdout
    assert failed.returncode == 1
    (tmp_path / "conftest.py").unlink()
    passed = checked(tmp_path, "test_found.py")
    assert passed.returncode == 0, passed.stdout


def violation_of_a_ticket() -> Violation:
    """A story that is the same every time."""
    found = explore(
        BOOKING, Trip("t1"), faults=Faults(), invariants=[never_charged_without_a_ticket]
    )
    assert found.violation is not None
    return found.violation


def test_the_source_reads_like_the_story() -> None:
    source = violation_of_a_ticket().as_pytest("tests.support.orchestrator.trips:BOOKING")
    compile(source, "test_found.py", "exec")
    lines = source.splitlines()
    assert "from tests.support.orchestrator.trips import BOOKING" in lines
    assert (
        "from tests.support.orchestrator.trip_rules import never_charged_without_a_ticket" in lines
    )
    assert "def test_book_trip_keeps_never_charged_without_a_ticket() -> None:" in lines
    assert "            # 1. the run starts; 'reserve seat' is sent" in lines
    assert "            Event(What.STARTS)," in lines
    assert '            Event(What.ARRIVES, "charge", answer=Outcome.DONE),' in [
        it.replace("'", '"') for it in lines
    ]
    assert "        invariants=[never_charged_without_a_ticket]," in lines


def test_the_answers_that_lead_there_are_part_of_the_source() -> None:
    replies = {"reserve seat": [Seat("1A"), Seat("1B")]}
    found = explore(BOOKING, faults=Faults(), invariants=[no_passenger_sits_in_1b], replies=replies)
    assert found.violation is not None
    written: dict[str, Any] = {}
    exec(found.violation.as_pytest("tests.support.orchestrator.trips:BOOKING"), written)
    with pytest.raises(PromiseBroken) as caught:
        written["test_book_trip_keeps_no_passenger_sits_in_1b"]()
    assert caught.value.violation.story == found.violation.story
    assert "done, with its value 2" in found.violation.story


def test_what_has_no_name_to_be_imported_by_cannot_become_a_test() -> None:
    def never_ends(view: Any) -> bool:
        return not view.ended

    found = explore(BOOKING, faults=Faults(), invariants=[never_ends]).violation
    assert found is not None
    with pytest.raises(Exception, match="never_ends' cannot be imported by a name"):
        found.as_pytest("tests.support.orchestrator.trips:BOOKING")
    unnamed = explore(trip(UNMAKEABLE_ROOM), faults=Faults()).violation
    assert unnamed is not None
    with pytest.raises(Exception, match="where book-trip v1 can be imported from"):
        unnamed.as_pytest()
    with pytest.raises(Exception, match="is not module:attribute"):
        violation_of_a_ticket().as_pytest("BOOKING; import os")
