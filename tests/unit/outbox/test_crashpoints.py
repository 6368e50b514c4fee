from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from outbox import crashpoints
from outbox.crashpoints import ENVIRONMENT_VARIABLE, Crash, arm, countdown, crashpoint

pytestmark = pytest.mark.slow

POINT = "after deliver, before settle"

_CHILD = """
from outbox.crashpoints import crashpoint
for lap in range(1, 6):
    crashpoint("relay: after fetch")
    crashpoint("after deliver, before settle")
    print(lap, flush=True)
"""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm(None)


def _die() -> None:
    raise Crash


def _child(order: str | None) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name != ENVIRONMENT_VARIABLE
    }
    if order is not None:
        environment[ENVIRONMENT_VARIABLE] = order
    return subprocess.run(
        [sys.executable, "-c", _CHILD],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_point_that_is_not_armed_does_nothing() -> None:
    crashpoint(POINT)
    arm(countdown("elsewhere", 1, _die))
    crashpoint(POINT)


def test_an_armed_point_crashes_at_the_hit_that_was_asked_for() -> None:
    arm(countdown(POINT, 3, _die))
    crashpoint(POINT)
    crashpoint("elsewhere")
    crashpoint(POINT)
    with pytest.raises(Crash):
        crashpoint(POINT)


def test_a_point_crashes_once() -> None:
    arm(countdown(POINT, 1, _die))
    with pytest.raises(Crash):
        crashpoint(POINT)
    crashpoint(POINT)


def test_disarming_ends_it() -> None:
    arm(countdown(POINT, 1, _die))
    arm(None)
    crashpoint(POINT)


def test_a_trap_sees_every_name_that_is_reached() -> None:
    reached: list[str] = []
    arm(reached.append)
    crashpoint("one")
    crashpoint("two")
    assert reached == ["one", "two"]


def test_no_handler_of_exceptions_survives_a_crash() -> None:
    assert not issubclass(Crash, Exception)
    arm(countdown(POINT, 1, _die))
    with pytest.raises(Crash):
        try:
            crashpoint(POINT)
        except Exception:
            pytest.fail("a crash was survived")


@pytest.mark.parametrize(("hit", "laps"), [(1, ""), (3, "1\n2\n")])
def test_a_child_process_is_killed_at_the_hit_that_its_environment_names(
    hit: int, laps: str
) -> None:
    child = _child(f"{POINT}:{hit}")
    assert child.returncode == -signal.SIGKILL
    assert child.stdout == laps


def test_a_name_may_hold_colons() -> None:
    child = _child("relay: after fetch:2")
    assert (child.returncode, child.stdout) == (-signal.SIGKILL, "1\n")


@pytest.mark.parametrize("order", [None, "", f"{POINT}:99", "elsewhere:1"])
def test_a_child_process_that_reaches_no_armed_point_lives_on(order: str | None) -> None:
    child = _child(order)
    assert (child.returncode, child.stdout) == (0, "1\n2\n3\n4\n5\n")


@pytest.mark.parametrize(
    "order", [POINT, ":1", f"{POINT}:", f"{POINT}:x", f"{POINT}:0", "x:-1", "x:²"]
)
def test_an_order_that_could_never_crash_is_refused(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, order)
    with pytest.raises(ValueError, match="write NAME:HIT"):
        crashpoints._from_environment()
