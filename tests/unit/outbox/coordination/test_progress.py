"""Work that goes on and does not get on, told by a clock."""

from __future__ import annotations

import pytest

from outbox.coordination.progress import STUCK_AFTER, Progress, Stuck
from outbox.relay.settings import RelaySettings
from outbox.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def progress(clock: FakeClock) -> Progress:
    return Progress(clock.monotonic)


def test_work_is_stuck_once_it_goes_on_for_longer_than_the_limit(
    clock: FakeClock, progress: Progress
) -> None:
    progress.of("rest")
    with progress.of("commit"):
        clock.advance(STUCK_AFTER)
        assert progress.stuck() == []
        clock.advance(1)
        assert progress.stuck() == [Stuck("commit", STUCK_AFTER + 1)]
    assert progress.stuck() == []


def test_no_work_is_never_stuck(clock: FakeClock, progress: Progress) -> None:
    for _ in range(2):
        with progress.of("commit"):
            pass
        clock.advance(3600)
        assert progress.stuck() == []
        assert progress.stalled == {"commit": 0}


def test_work_that_fails_has_ended(clock: FakeClock, progress: Progress) -> None:
    with pytest.raises(ZeroDivisionError), progress.of("commit"):
        _ = 1 / 0
    clock.advance(3600)
    assert progress.stuck() == []


def test_a_piece_that_goes_on_while_others_end_is_only_slow(
    clock: FakeClock, progress: Progress
) -> None:
    handling = progress.of("handle")
    with handling:
        for _ in range(10):
            with handling:
                clock.advance(STUCK_AFTER)
        assert progress.stuck() == []
        clock.advance(3600)
        assert progress.stuck() == []


def test_several_pieces_are_stuck_from_the_first_that_began_after_the_last_end(
    clock: FakeClock, progress: Progress
) -> None:
    handling = progress.of("handle")
    handling.begin()
    clock.advance(10)
    handling.begin()
    clock.advance(STUCK_AFTER)
    assert progress.stuck() == [Stuck("handle", STUCK_AFTER + 10)]


def test_one_kind_says_nothing_about_another_and_the_slowest_comes_first(
    clock: FakeClock, progress: Progress
) -> None:
    progress.of("send").begin()
    clock.advance(1)
    progress.of("commit").begin()
    clock.advance(STUCK_AFTER + 1)
    with progress.of("tend"):
        pass
    assert [it.kind for it in progress.stuck()] == ["send", "commit"]


def test_a_long_piece_that_moves_is_not_stuck_until_it_moves_no_longer(
    clock: FakeClock, progress: Progress
) -> None:
    sending = progress.of("send")
    with sending:
        for _ in range(10):
            clock.advance(STUCK_AFTER)
            sending.moved()
        assert progress.stuck() == []
        clock.advance(STUCK_AFTER + 1)
        assert progress.stuck() == [Stuck("send", STUCK_AFTER + 1)]


def test_what_moves_without_work_is_no_work(clock: FakeClock, progress: Progress) -> None:
    progress.of("send").moved()
    clock.advance(3600)
    assert progress.of("send").is_idle


def test_a_kind_is_the_same_wherever_it_is_asked_for(progress: Progress) -> None:
    progress.of("send").begin()
    assert not progress.of("send").is_idle


def test_the_limit_is_above_the_bounds_of_deliveries_and_of_the_database() -> None:
    from outbox.database import opening
    from outbox.sqlite import DEFAULT_BUSY_TIMEOUT

    bounds = [float(opening._BOUNDS[it].rstrip("s")) for it in opening._BOUNDS if "timeout" in it]
    bounds += [opening._SILENCE, DEFAULT_BUSY_TIMEOUT, RelaySettings().delivery_timeout]
    assert 2 * max(bounds) <= STUCK_AFTER
