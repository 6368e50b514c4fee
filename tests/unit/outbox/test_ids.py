from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.ids import Ids, compose, derive, first_at, is_id, time_of
from tests.support.outbox import envelopes

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2030, 1, 31, 12, tzinfo=UTC)
_MILLISECONDS = st.integers(0, 2**48 - 1)
_TAILS = st.integers(0, 2**74 - 1)


class _Clock:
    def __init__(self, now: datetime = START) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        raise AssertionError("ids need the wall clock only")


def _zeros(count: int) -> bytes:
    return bytes(count)


def _ones(count: int) -> bytes:
    return b"\xff" * count


# --- The form --------------------------------------------------------------------------------


@given(_MILLISECONDS, _TAILS)
def test_an_id_is_a_canonical_uuid_of_version_7(milliseconds: int, tail: int) -> None:
    identifier = compose(milliseconds, tail)
    parsed = uuid.UUID(identifier)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == identifier
    assert parsed.int >> 80 == milliseconds
    assert is_id(identifier)


@given(_MILLISECONDS, _TAILS, _MILLISECONDS, _TAILS)
def test_ids_sort_as_their_times_and_then_as_their_tails(
    one: int, tail: int, other: int, other_tail: int
) -> None:
    first, second = compose(one, tail), compose(other, other_tail)
    assert (first < second) is ((one, tail) < (other, other_tail))
    assert (first == second) is ((one, tail) == (other, other_tail))


def test_the_example_of_the_rfc_is_composed_bit_by_bit() -> None:
    assert compose(0x017F22E279B0, 0xCC3 << 62 | 0x18C4DC0C0C07398F) == (
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
        "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
        "urn:uuid:017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "017f22e279b07cc398c4dc0c0c07398f",
        "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-d8c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n",
        " 017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
        "\u066017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        str(uuid.UUID(int=0)),
    ],
)
def test_other_texts_are_no_ids(text: str) -> None:
    assert not is_id(text)


@given(st.text() | st.uuids().map(str) | envelopes.ids())
def test_an_id_is_what_the_standard_library_takes_for_one(text: str) -> None:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        assert not is_id(text)
    else:
        assert is_id(text) is (parsed.version == 7 and str(parsed) == text)


# --- The time --------------------------------------------------------------------------------


def test_an_id_tells_its_time_to_the_millisecond() -> None:
    moment = START + timedelta(microseconds=123_456)
    identifier = Ids(_Clock(moment), _ones)()
    assert time_of(identifier) == START + timedelta(milliseconds=123)


@pytest.mark.parametrize("text", ["3c7e9a52-7d0e-4cf5-9f43-4d1d6c5b1d0e", "7", ""])
def test_the_time_of_what_is_no_id_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        time_of(text)


@given(_MILLISECONDS.filter(lambda it: it < 250_000_000_000_000), _TAILS)
def test_the_first_id_of_a_millisecond_parts_what_was_made_before_it(
    milliseconds: int, tail: int
) -> None:
    moment = EPOCH + timedelta(milliseconds=milliseconds)
    assert first_at(moment) <= compose(milliseconds, tail)
    assert first_at(moment + timedelta(microseconds=999)) <= compose(milliseconds, tail)
    assert compose(milliseconds, tail) < first_at(moment + timedelta(milliseconds=1))


def test_a_moment_before_1970_covers_no_id() -> None:
    assert first_at(EPOCH - timedelta(days=1)) == first_at(EPOCH) == compose(0, 0)


# --- Making them -----------------------------------------------------------------------------


@given(st.lists(st.integers(-5000, 5000), min_size=1, max_size=50), st.binary(min_size=9))
def test_ids_grow_strictly_however_the_clock_jumps(jumps: list[int], noise: bytes) -> None:
    clock = _Clock()
    turn = iter(range(10_000))

    def entropy(count: int) -> bytes:
        start = next(turn) % len(noise)
        return (noise[start:] + noise)[:count]

    ids = Ids(clock, entropy)
    made = []
    for jump in jumps:
        clock.time += timedelta(microseconds=jump * 300)
        made += [ids(), ids()]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert all(map(is_id, made))


def test_a_burst_beyond_one_millisecond_of_ids_borrows_from_the_next() -> None:
    ids = Ids(_Clock(), _ones)
    before = ids()
    ids._counter = (1 << 42) - 2
    made = [before, ids(), ids(), ids()]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert [time_of(each) - START for each in made] == [
        timedelta(milliseconds=each) for each in (0, 0, 1, 1)
    ]


def test_a_full_draw_of_entropy_leaves_room_for_a_burst() -> None:
    ids = Ids(_Clock(), _ones)
    ids()
    assert ids._counter < 1 << 41


def test_two_processes_in_one_millisecond_differ_by_their_entropy() -> None:
    assert Ids(_Clock(), _zeros)() != Ids(_Clock(), _ones)()
    one, other = Ids(_Clock(), lambda n: b"\x01" * n), Ids(_Clock(), lambda n: b"\x02" * n)
    assert not {one() for _ in range(100)} & {other() for _ in range(100)}


def test_a_clock_before_1970_still_gives_growing_ids() -> None:
    ids = Ids(_Clock(EPOCH - timedelta(days=1)), _zeros)
    assert ids() < ids()


def test_threads_never_get_the_same_id() -> None:
    ids = Ids(_Clock(), _zeros)
    made: list[list[str]] = [[] for _ in range(4)]
    start = threading.Barrier(len(made))

    def make(mine: list[str]) -> None:
        start.wait(timeout=10)
        mine.extend(ids() for _ in range(2000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len({each for mine in made for each in mine}) == 8000
    assert all(mine == sorted(mine) for mine in made)


def test_an_id_is_drawn_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads collide too seldom for the test above to miss the lock every time.
    ids = Ids(_Clock(), _zeros)
    locked: list[bool] = []

    def watched(milliseconds: int, tail: int) -> str:
        locked.append(ids._lock.locked())
        return compose(milliseconds, tail)

    monkeypatch.setattr("outbox.ids.compose", watched)
    ids()
    assert locked == [True]
    assert not ids._lock.locked()


# --- Deriving them ---------------------------------------------------------------------------


@given(envelopes.ids(), st.lists(st.text(st.characters(codec="utf-8")), max_size=3))
def test_a_derived_id_is_always_the_same_and_carries_its_parents_time(
    parent: str, parts: list[str]
) -> None:
    derived = derive(parent, *parts)
    assert derived == derive(parent, *parts)
    assert is_id(derived)
    assert derived[:13] == parent[:13]
    assert derived != parent


_AWKWARD = st.lists(st.text("a:1\x1f", max_size=3), max_size=3)


@given(_AWKWARD, _AWKWARD)
def test_other_parts_give_another_id(one: list[str], other: list[str]) -> None:
    parent = compose(1, 1)
    assert (derive(parent, *one) == derive(parent, *other)) is (one == other)


def test_another_parent_gives_another_id() -> None:
    assert derive(compose(1, 1), "hide") != derive(compose(1, 2), "hide")


def test_a_derived_id_never_changes_between_versions_of_the_code() -> None:
    # A command that is sent again after an upgrade must be recognised as the same.
    assert (
        derive(compose(1_900_000_000_000, 1), "hide article", "action", "1")
        == "01ba60d3-3800-7916-9bab-fdee49f3d950"
    )


def test_the_time_of_an_id_beyond_the_years_of_a_datetime_is_the_last_day() -> None:
    assert time_of(compose((1 << 48) - 1, 0)) == datetime(9999, 12, 31, tzinfo=UTC)
