"""The database's time between two of its answers."""

from __future__ import annotations

from datetime import timedelta

from orchestrator.engine.commits.database_time import DatabaseTime
from outbox.testing import FakeClock

HOUR = timedelta(hours=1)
SHORTLY = timedelta(milliseconds=5)


def test_it_goes_on_from_what_was_told_last_although_the_clock_of_the_machine_is_wrong() -> None:
    clock = FakeClock()
    time = DatabaseTime(clock)
    told = clock.now() - HOUR
    time.told(told)
    assert time.now() == told
    clock.advance(2)
    assert time.now() == told + timedelta(seconds=2)
    assert time.until(told + timedelta(seconds=5)) == 3
    assert time.until(told) == 0


def test_it_does_not_go_back_where_an_answer_was_delayed_for_longer_than_the_one_before() -> None:
    clock = FakeClock()
    time = DatabaseTime(clock)
    told = clock.now()
    time.told(told)
    clock.advance(1)
    latest = time.now()
    time.told(latest - SHORTLY)
    assert time.now() == latest
    clock.advance(1)
    assert time.now() == latest - SHORTLY + timedelta(seconds=1)


def test_it_goes_back_with_the_databases_own_clock() -> None:
    clock = FakeClock()
    time = DatabaseTime(clock)
    told = clock.now()
    time.told(told)
    assert time.now() == told
    time.told(told - HOUR)
    assert time.now() == told - HOUR
