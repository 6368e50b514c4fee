"""How long what has ended is kept, and how fast it is removed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.errors import InvalidRetention
from orchestrator.machine.instance import Status
from orchestrator.retention.pace import LARGEST, SMALLEST, Pace
from orchestrator.retention.policy import ENDS, Policy

DAYS_30 = timedelta(days=30)


def parsed(text: str) -> Policy:
    policy = Policy.parse(text)
    assert policy is not None
    return policy


def test_without_the_setting_everything_is_kept() -> None:
    assert Policy.parse("") is None
    assert Policy.parse("  ") is None


def test_one_word_turns_it_on_with_30_days_for_each_end() -> None:
    policy = parsed("on")
    assert {it: policy.age("any", it) for it in ENDS} == dict.fromkeys(ENDS, DAYS_30)
    assert (policy.keys, policy.refused, policy.ids) == (DAYS_30, DAYS_30, DAYS_30)
    assert policy.letters == timedelta(days=90)


@pytest.mark.parametrize("status", [it for it in Status if it not in ENDS])
def test_a_run_that_has_not_ended_has_no_age(status: Status) -> None:
    assert parsed("1d").age("any", status) is None
    with pytest.raises(InvalidRetention, match=f"about {status}.*has not ended"):
        Policy.parse(f"{status}=30d")


def test_one_age_is_that_of_every_end() -> None:
    policy = parsed("36h")
    assert {policy.age("any", it) for it in ENDS} == {timedelta(hours=36)}
    assert policy.keys == DAYS_30


def test_a_list_says_it_for_one_status_one_saga_and_the_rest() -> None:
    policy = parsed(
        "COMPLETED=7d, trip:COMPLETED=90d, cart:*=forever, dead-letters=forever,keys=2d"
    )
    assert policy.age("other", Status.COMPLETED) == timedelta(days=7)
    assert policy.age("other", Status.RESOLVED) == DAYS_30
    assert policy.age("trip", Status.COMPLETED) == timedelta(days=90)
    assert policy.age("trip", Status.COMPENSATED) == DAYS_30
    assert {policy.age("cart", it) for it in ENDS} == {None}
    assert (policy.letters, policy.keys, policy.refused) == (None, timedelta(days=2), DAYS_30)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("off", "no age that is understood"),
        ("30", "no age that is understood"),
        ("COMPLETED=", "no age that is understood"),
        ("23h", "less than a day"),
        ("COMPLETED=0d", "less than a day"),
        ("DONE=3d", "says nothing that can be removed"),
        ("trip:DONE=3d", "says nothing that can be removed"),
        ("trip:history=3d", "says nothing that can be removed"),
        ("history=23h", "less than a day"),
        ("36501d", "more than 36500d"),
        ("COMPLETED=999999h,keys=999999d", "more than 36500d"),
        ("history=30d", "history has no effect"),
        ("COMPLETED=7d,trip:*=20d,history=60d", "history has no effect"),
        ("trip:STUCK=3d", "has not ended"),
        ("keys=3d,keys=4d", "two ages"),
        ("ids=forever", "grow for ever"),
    ],
)
def test_what_is_not_understood_names_the_part_and_the_way_out(text: str, problem: str) -> None:
    with pytest.raises(InvalidRetention, match=problem) as raised:
        Policy.parse(text)
    assert raised.value.next_step


def test_a_history_has_an_age_of_its_own_where_its_run_stays_longer() -> None:
    policy = parsed("history=7d,COMPENSATED=7d,RESOLVED=5d,trip:RESOLVED=8d,TERMINATED=forever")
    week = timedelta(days=7)
    assert policy.history == week
    assert {it: policy.history_age("other", it) for it in ENDS} == {
        Status.COMPLETED: week,
        Status.COMPENSATED: None,
        Status.RESOLVED: None,
        Status.TERMINATED: week,
    }
    assert policy.history_age("trip", Status.RESOLVED) == week


@pytest.mark.parametrize("text", ["on", "9d", "COMPLETED=forever", "history=forever"])
def test_a_history_goes_with_its_run_unless_it_has_an_age(text: str) -> None:
    policy = parsed(text)
    assert policy.history is None
    assert {policy.history_age("any", it) for it in ENDS} == {None}


def test_a_slow_database_gets_smaller_steps_and_longer_pauses() -> None:
    first = Pace()
    slow = first.after(1.0)
    assert slow.size < first.size
    assert slow.pause == pytest.approx(3.0)
    assert slow.after(1.0).size < slow.size


def test_a_fast_one_gets_larger_steps_and_is_at_rest_most_of_the_time() -> None:
    pace = Pace()
    for _ in range(20):
        pace = pace.after(0.01)
    assert pace.size == LARGEST
    assert pace.pause == pytest.approx(0.03)


def test_steps_and_pauses_are_bounded() -> None:
    pace = Pace()
    for _ in range(20):
        pace = pace.after(1000.0)
    assert pace == Pace(SMALLEST, 30.0)
    assert Pace(100).after(0.4).size == 100
