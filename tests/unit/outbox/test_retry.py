from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.retry import RetryPolicy

_CHANCES = st.floats(min_value=0, max_value=1, exclude_max=True)
_POLICIES = st.builds(
    lambda first, more, factor, jitter, attempts: RetryPolicy(
        first, factor, first + more, jitter, attempts
    ),
    first=st.floats(0.001, 100),
    more=st.floats(0, 1000),
    factor=st.floats(1, 10),
    jitter=st.floats(0, 1),
    attempts=st.integers(1, 1000),
)


def test_pauses_double_up_to_the_ceiling_and_then_end() -> None:
    policy = RetryPolicy(first=0.5, factor=2, ceiling=4, jitter=0.5, attempts=7)
    pauses = [policy.delay(attempt, 0) for attempt in range(1, 9)]
    assert pauses == [0.5, 1, 2, 4, 4, 4, None, None]


def test_the_usual_policy_gives_up_after_twelve_attempts_and_some_minutes() -> None:
    pauses = [RetryPolicy().delay(attempt, 0) for attempt in range(1, 13)]
    assert pauses[-1] is None
    assert None not in pauses[:-1]
    assert 240 < sum(pause for pause in pauses if pause is not None) < 360


def test_a_single_attempt_is_never_repeated() -> None:
    assert RetryPolicy(attempts=1).delay(1, 0) is None


def test_chance_shortens_a_pause_by_up_to_the_jitter() -> None:
    policy = RetryPolicy(first=10, ceiling=10, jitter=0.4)
    assert policy.delay(1, 0) == 10
    assert policy.delay(1, 0.5) == pytest.approx(8)
    assert policy.delay(1, math.nextafter(1, 0)) == pytest.approx(6)
    assert RetryPolicy(first=10, jitter=0).delay(1, 0.9) == 10


@given(_POLICIES, st.integers(1, 2000), _CHANCES)
def test_a_pause_stays_between_its_bounds(policy: RetryPolicy, attempt: int, chance: float) -> None:
    pause = policy.delay(attempt, chance)
    assert (pause is None) is (attempt >= policy.attempts)
    if pause is not None:
        assert policy.first * (1 - policy.jitter) <= pause * (1 + 1e-9)
        assert pause <= policy.ceiling


@given(_POLICIES, _CHANCES)
def test_pauses_never_shrink_for_the_same_chance(policy: RetryPolicy, chance: float) -> None:
    pauses = [policy.delay(attempt, chance) for attempt in range(1, min(policy.attempts, 50))]
    assert all(a is not None and b is not None and a <= b for a, b in pairwise(pauses))


def test_a_very_late_attempt_waits_as_long_as_the_ceiling() -> None:
    assert RetryPolicy(attempts=10**6).delay(10**6 - 1, 0) == 60


@pytest.mark.parametrize(
    ("figures", "named"),
    [
        ({"first": 0}, "first"),
        ({"first": -1}, "first"),
        ({"first": 61}, "ceiling"),
        ({"first": math.nan}, "first"),
        ({"ceiling": math.inf}, "ceiling"),
        ({"ceiling": math.nan}, "ceiling"),
        ({"factor": 0.9}, "factor"),
        ({"factor": math.inf}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": math.nan}, "jitter"),
        ({"attempts": 0}, "attempts"),
    ],
)
def test_figures_that_make_no_sense_are_refused_by_name(figures: Any, named: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{named}="):
        RetryPolicy(**figures)


@pytest.mark.parametrize(("attempt", "chance"), [(0, 0), (-1, 0), (1, 1), (1, -0.1), (1, math.nan)])
def test_an_attempt_or_chance_out_of_range_is_refused(attempt: int, chance: float) -> None:
    with pytest.raises(ValueError, match=r"attempt=|chance="):
        RetryPolicy().delay(attempt, chance)
