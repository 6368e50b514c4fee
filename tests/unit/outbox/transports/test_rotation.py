"""Whose turn it is among several addresses, and how long a bad one is left out."""

from __future__ import annotations

from collections import Counter

from outbox.transports.addresses.address import Address, Found
from outbox.transports.addresses.rotation import Rotation
from outbox.transports.addresses.standing import LONGEST_PAUSE, Standing, State


def found(name: str, priority: int = 0, weight: int = 1) -> Found:
    return Found(Address("http", name, 80, ""), priority, weight)


def turns(*among: Found, count: int) -> str:
    rotation = Rotation()
    return "".join(rotation.next_of(among).address.host for _ in range(count))


def test_equal_addresses_are_asked_in_turn() -> None:
    assert turns(found("a"), found("b"), found("c"), count=6) == "abcabc"


def test_weights_give_shares_that_are_spread() -> None:
    assert turns(found("a", weight=2), found("b", weight=1), count=6) == "abaaba"
    shares = Counter(turns(found("a", weight=10), found("b", weight=0), count=1000))
    assert 0 < shares["b"] < 5
    assert turns(found("a", weight=0), found("b", weight=0), count=4) == "abab"


def test_a_higher_priority_number_waits_until_the_lower_ones_are_gone() -> None:
    assert turns(found("a", 1), found("b", 2), count=3) == "aaa"
    assert turns(found("b", 2), count=2) == "bb"


def test_one_that_comes_back_has_no_claim_on_the_turns_that_it_missed() -> None:
    rotation = Rotation()
    for _ in range(100):
        rotation.next_of([found("a")])
    both = "".join(rotation.next_of([found("a"), found("b")]).address.host for _ in range(4))
    assert both in ("abab", "baba")


def test_pauses_double_up_to_the_longest_and_begin_anew_after_an_answer() -> None:
    standing, pauses = Standing(), []
    for _ in range(9):
        standing = standing.failed(100.0, "away", chance=1.0)
        pauses.append(standing.until - 100.0)
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_PAUSE
    assert not standing.is_due(100.0 + LONGEST_PAUSE - 1)
    assert standing.is_due(100.0 + LONGEST_PAUSE)
    on_trial = standing.probed()
    assert (on_trial.state, on_trial.failures) == (State.USABLE, 9)
    assert on_trial.failed(0.0, "away", chance=1.0).until == LONGEST_PAUSE
    assert on_trial.answered() == Standing()
