"""How many requests each caller may send."""

from __future__ import annotations

import pytest

from outbox.chassis.access.rate_limit import Rates
from outbox.testing import FakeClock


def test_twice_a_seconds_requests_pass_at_once_and_then_one_after_the_other() -> None:
    clock = FakeClock()
    rates = Rates(clock.monotonic, rate=10)
    assert [rates.take("ann") for _ in range(20)] == [0.0] * 20
    assert rates.take("ann") == pytest.approx(0.1)
    clock.advance(0.05)
    assert rates.take("ann") == pytest.approx(0.05), "what was refused took nothing"
    clock.advance(0.05)
    assert rates.take("ann") == 0
    assert rates.take("ann") > 0


def test_over_a_long_time_as_many_pass_as_the_rate_says() -> None:
    clock = FakeClock()
    rates = Rates(clock.monotonic, rate=10)
    passed = 0
    for _ in range(40 * 25):
        passed += rates.take("ann") == 0
        clock.advance(1 / 40)
    assert passed == pytest.approx(10 * 25 + 20, abs=1)


def test_a_silent_caller_saves_up_no_more_than_a_full_bucket() -> None:
    clock = FakeClock()
    rates = Rates(clock.monotonic, rate=10)
    rates.take("ann")
    clock.advance(3600)
    assert [rates.take("ann") == 0 for _ in range(21)] == [True] * 20 + [False]


def test_the_requests_of_others_do_not_count() -> None:
    rates = Rates(lambda: 0.0, rate=1)
    assert [rates.take("ann") for _ in range(3)] == [0, 0, 1]
    assert rates.take("bob") == 0


def test_the_smallest_rate_lets_one_request_through() -> None:
    clock = FakeClock()
    rates = Rates(clock.monotonic, rate=0.1)
    assert [rates.take("ann") for _ in range(2)] == [0, 10]
    clock.advance(10)
    assert rates.take("ann") == 0


def test_without_a_rate_there_is_no_limit_and_no_caller_is_remembered() -> None:
    rates = Rates(lambda: 0.0, rate=0)
    assert {rates.take("ann") for _ in range(1000)} == {0.0}
    assert len(rates) == 0


def test_rates_take_bounded_memory_and_forget_who_was_silent_longest() -> None:
    rates = Rates(lambda: 0.0, rate=1, remembered=100)
    assert [rates.take("ann") for _ in range(3)] == [0, 0, 1]
    for number in range(1000):
        rates.take(str(number))
        # Who goes on asking is not forgotten, and so gets no new bucket by it.
        assert rates.take("ann") == 1
    assert len(rates) == 100
