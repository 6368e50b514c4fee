"""Which databases speak under one name, and whether they do so side by side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from outbox.inbox.purge.origins import MOST, Heard, at_once, joined

START = datetime(2030, 1, 1, tzinfo=UTC)
NOW = START + timedelta(hours=5)


def heard(first: float, last: float) -> Heard:
    """From and until those hours."""
    return Heard(START + timedelta(hours=first), START + timedelta(hours=last))


def test_what_two_processes_heard_is_what_was_heard() -> None:
    one, other = {"a": heard(1, 2), "b": heard(3, 3)}, {"a": heard(0, 1), "c": heard(2, 2)}
    both = {"a": heard(0, 2), "c": heard(2, 2), "b": heard(3, 3)}
    assert joined(one, other, START) == both
    assert [*joined(one, other, START)] == ["a", "c", "b"], "the last speaker last"
    assert joined(other, one, START) == both


def test_who_was_silent_since_then_is_forgotten_and_so_are_the_oldest_of_many() -> None:
    assert joined({"a": heard(0, 1)}, {"b": heard(0, 2)}, START + timedelta(hours=2)) == {
        "b": heard(0, 2)
    }
    many = {str(number): heard(number, number) for number in range(MOST + 3)}
    assert [*joined(many, {}, START)] == [str(it) for it in range(3, MOST + 3)]


@pytest.mark.parametrize(
    ("origins", "found"),
    [
        ({}, ()),
        ({"a": heard(0, 5)}, ()),
        ({"a": heard(0, 2), "b": heard(3, 5)}, ()),
        ({"a": heard(0, 3), "b": heard(3, 5)}, ()),
        ({"a": heard(0, 3 + 1 / 60), "b": heard(3, 5)}, ()),
        ({"a": heard(0, 3 + 1.1 / 60), "b": heard(3, 5)}, ("a", "b")),
        ({"b": heard(0, 5), "a": heard(3, 4), "c": heard(-2, -1)}, ("a", "b")),
        ({"a": heard(-100, -19.5), "b": heard(-50, 5)}, ()),
    ],
    ids=[
        "none",
        "one",
        "one after the other",
        "one as the other ends",
        "as clocks may differ",
        "longer than clocks may differ",
        "within the time of the other, after a third",
        "not lately",
    ],
)
def test_two_are_at_once_if_each_spoke_while_the_other_did(
    origins: dict[str, Heard], found: tuple[str, ...]
) -> None:
    assert at_once(origins, NOW) == found
