"""The number of a run: one for each run, and as young as its begin."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store.records import number_of
from outbox.ids import compose, time_of
from tests.support.outbox.envelopes import ids

BEGINS = st.integers(1_000_000_000_000, 2_000_000_000_000)
MINUTE = timedelta(minutes=1)


def at(milliseconds: int) -> datetime:
    return time_of(compose(milliseconds, 0))


@given(ids(), BEGINS)
def test_it_is_as_young_as_the_begin_and_the_same_each_time(id: str, begin: int) -> None:
    number = number_of(id, at(begin))
    assert abs(time_of(number) - at(begin)) <= MINUTE
    assert number == number_of(id, at(begin))


@given(ids(), ids(), BEGINS)
def test_runs_that_begin_together_have_numbers_of_their_own(one: str, two: str, at_: int) -> None:
    assert (number_of(one, at(at_)) == number_of(two, at(at_))) == (one == two)


@given(ids(), ids(), BEGINS, st.integers(120_001, 10**9))
def test_a_run_that_begins_later_has_a_greater_number(
    one: str, two: str, begin: int, later: int
) -> None:
    assert number_of(one, at(begin)) < number_of(two, at(begin + later))
