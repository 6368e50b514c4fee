"""When a relay stores what it heard of a destination, and when it pauses one."""

from __future__ import annotations

from outbox.destinations.pauses import Forgetting, Noting, Pausing, Told, change

DAYS = 86_400.0
LIMIT = 3 * DAYS


def silent(seconds: float) -> Told:
    return Told(silent_for=seconds, trouble="refused")


def test_a_destination_that_says_that_it_is_gone_is_paused_at_once() -> None:
    found = change(Told(gone="410 Gone"), None, None)
    assert isinstance(found, Pausing)
    assert "410 Gone" in found.reason


def test_a_short_silence_is_not_stored() -> None:
    assert change(silent(59), None, LIMIT) is None


def test_a_silence_is_stored_with_what_it_has_lasted_so_that_a_restart_does_not_end_it() -> None:
    assert change(silent(61), None, LIMIT) == Noting(61, "refused")
    assert change(silent(61), 61, LIMIT) is None


def test_after_days_of_silence_the_destination_is_paused() -> None:
    assert change(silent(2 * DAYS), LIMIT - 1, LIMIT) is None
    found = change(silent(2 * DAYS), LIMIT, LIMIT)
    assert isinstance(found, Pausing)
    assert found.reason == "it has given no answer for 72.0 hours, the last time: refused"


def test_a_process_that_has_just_started_finds_the_silence_out_for_itself() -> None:
    assert change(Told(), 9 * DAYS, LIMIT) is None, "it was never asked since the start"
    assert change(silent(1), 9 * DAYS, LIMIT) is None, "it may be starting, too"
    assert isinstance(change(silent(61), 9 * DAYS, LIMIT), Pausing)


def test_an_answer_ends_the_silence() -> None:
    assert change(Told(answers=True), 2 * DAYS, LIMIT) == Forgetting()
    assert change(Told(answers=True), None, LIMIT) is None


def test_a_destination_without_a_limit_is_never_paused_by_its_silence() -> None:
    assert change(silent(9 * DAYS), None, None) is None
    assert change(silent(9 * DAYS), 9 * DAYS, None) is None
