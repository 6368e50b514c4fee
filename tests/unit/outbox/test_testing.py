from __future__ import annotations

import asyncio
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import outbox
from outbox.crashpoints import Crash, crashpoint
from outbox.testing import FakeClock, crash_at, crash_points


def test_a_fake_clock_stands_still_until_it_is_told_to_go_on() -> None:
    clock = FakeClock(datetime(2030, 1, 1, tzinfo=UTC))
    assert (clock.now(), clock.monotonic()) == (clock.now(), clock.monotonic())
    start, since = clock.now(), clock.monotonic()
    clock.advance(90)
    assert clock.now() - start == timedelta(seconds=90)
    assert clock.monotonic() - since == 90


def test_a_fake_clock_jumps_without_time_passing() -> None:
    clock = FakeClock()
    start, since = clock.now(), clock.monotonic()
    clock.jump(-3600)
    assert clock.now() - start == timedelta(hours=-1)
    assert clock.monotonic() == since
    with pytest.raises(ValueError, match=r"use jump\(\)"):
        clock.advance(-1)


def test_a_crash_ends_the_block_at_the_hit_that_was_asked_for() -> None:
    passed = []
    with crash_at("here", hit=3):
        for number in range(5):
            passed.append(number)
            crashpoint("elsewhere")
            crashpoint("here")
    assert passed == [0, 1, 2]
    crashpoint("here")


def test_a_crash_is_no_exception_that_code_catches() -> None:
    with crash_at("here"):
        try:
            crashpoint("here")
        except Exception:
            pytest.fail("a dead process catches nothing")


def test_a_test_that_misses_its_crash_point_fails() -> None:
    with (
        pytest.raises(AssertionError, match=r"'here' was not reached 2 times"),
        crash_at("here", hit=2),
    ):
        crashpoint("here")


def test_a_test_may_look_at_the_crash_itself() -> None:
    with crash_at("here"), pytest.raises(Crash, match="here"):
        crashpoint("here")


async def test_a_crash_in_a_task_group_ends_the_block() -> None:
    async def die() -> None:
        crashpoint("here")

    with crash_at("here"):
        async with asyncio.TaskGroup() as group:
            group.create_task(die())


async def test_another_error_beside_the_crash_is_not_hidden() -> None:
    async def die() -> None:
        crashpoint("here")

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup), crash_at("here"):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(die())


def test_an_error_within_the_block_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), crash_at("here"):
        raise ZeroDivisionError


def test_every_crash_point_is_found_in_the_source() -> None:
    found = crash_points(outbox)
    assert "outbox: after drain, before commit" in found
    assert "outbox: after commit, before bell" in found
    assert "here" not in found


def test_a_crash_point_without_a_plain_name_is_an_error(tmp_path: Path) -> None:
    package = types.ModuleType("package")
    package.__path__ = [str(tmp_path)]
    (tmp_path / "fine.py").write_text("crashpoint('a')\npoints.crashpoint('b')\n")
    assert crash_points(package) == {"a", "b"}
    (tmp_path / "wrong.py").write_text("\ncrashpoint(f'{a}')\n")
    with pytest.raises(ValueError, match=r"wrong\.py:2: the name of a crash point"):
        crash_points(package)
