"""Runs that are to begin later: they stand and send nothing until their time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.errors import IllegalSignal
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.machine import start
from orchestrator.machine.operator_rules import allowed_signals
from orchestrator.machine.signals import (
    Cancel,
    Pause,
    Resume,
    Retry,
    Terminate,
    TimerFired,
    TimerKind,
)
from orchestrator.machine.transition import Happening, Timer
from orchestrator.store.records import Record, active_key
from tests.support.orchestrator.story import BEGIN, RUN_ID, Story
from tests.support.orchestrator.trips import BOOKING, Trip

LATER = BEGIN + timedelta(days=45)
TIME_TO_BEGIN = TimerFired(TimerKind.BEGIN, RUN_ID)
ALONE = replace(BOOKING, one_active=True)


class Later(Story):
    """The story of a run that is asked for long before its begin."""

    def __init__(self) -> None:
        super().__init__(ALONE)
        self.history = []
        self._keep(start(ALONE, RUN_ID, Trip("t1"), self.now, LATER))

    @property
    def timers(self) -> list[Timer]:
        return list(self.last.timers)


def test_a_run_for_later_stands_scheduled_sends_nothing_and_has_a_timer() -> None:
    later = Later()
    assert (later.status, later.run.begin_at, later.sent) == (Status.SCHEDULED, LATER, [])
    assert set(later.steps()) == {StepStatus.PENDING}
    assert later.timers == [Timer(TimerKind.BEGIN, RUN_ID, LATER)]
    assert later.happened == [Happening.SCHEDULED]


@pytest.mark.parametrize("before", [timedelta(), timedelta(days=3)])
def test_a_time_that_is_past_means_at_once(before: timedelta) -> None:
    begun = start(ALONE, RUN_ID, Trip("t1"), BEGIN, BEGIN - before)
    assert begun == start(ALONE, RUN_ID, Trip("t1"), BEGIN)
    assert begun.instance.status is Status.RUNNING


def test_at_its_time_it_begins_as_a_run_of_that_moment() -> None:
    later = Later()
    later.now = LATER
    later.hears(TIME_TO_BEGIN)
    assert (later.status, later.sent) == (Status.RUNNING, ["do reserve seat"])
    assert later.last == replace(
        start(ALONE, RUN_ID, Trip("t1"), later.now), history=later.last.history
    )
    assert later.happened == [Happening.STARTED, Happening.SENT]


def test_a_second_timer_of_the_begin_means_nothing() -> None:
    later = Later().hears(TIME_TO_BEGIN)
    before = later.run
    later.hears(TIME_TO_BEGIN)
    assert (later.sent, later.happened, later.run) == ([], [], before)


def test_it_has_its_key_for_itself_only_from_its_begin() -> None:
    later = Later()
    assert active_key(ALONE, later.run) is None
    later.hears(TIME_TO_BEGIN)
    assert active_key(ALONE, later.run) == "t1"
    assert active_key(BOOKING, later.run) is None
    later.hears(Terminate("ada", "enough"))
    assert active_key(ALONE, later.run) is None


def test_cancelled_before_its_begin_it_is_compensated_and_nothing_was_sent() -> None:
    later = Later().hears(Cancel("ada", "not this year"))
    assert (later.status, later.sent) == (Status.COMPENSATED, [])
    assert later.run.cause is not None
    assert later.run.cause.code == "cancelled"
    assert later.run.begin_at == LATER
    later.hears(TIME_TO_BEGIN)
    assert (later.status, later.sent, later.happened) == (Status.COMPENSATED, [], [])


def test_terminated_before_its_begin_it_leaves_nothing_in_effect() -> None:
    later = Later().hears(Terminate("ada", "not at all"))
    assert (later.status, later.run.not_undone) == (Status.TERMINATED, ())


def test_while_it_is_paused_it_does_not_begin_and_resumed_late_it_begins_at_once() -> None:
    later = Later()
    later.hears(Pause("ada", "let me look"), TIME_TO_BEGIN)
    assert (later.status, later.run.paused, later.sent) == (Status.SCHEDULED, True, [])
    later.hears(Resume("ada", "fine"))
    assert later.timers == [Timer(TimerKind.BEGIN, RUN_ID, LATER)]
    assert (later.status, later.sent) == (Status.SCHEDULED, [])
    later.hears(TIME_TO_BEGIN)
    assert (later.status, later.sent) == (Status.RUNNING, ["do reserve seat"])


def test_a_paused_one_can_be_cancelled() -> None:
    later = Later().hears(Pause("ada", "let me look"), Cancel("ada", "no"))
    assert later.status is Status.COMPENSATED


def test_what_an_operator_may_do_to_it() -> None:
    later = Later()
    assert allowed_signals(ALONE, later.run) == ("cancel", "pause", "terminate")
    with pytest.raises(IllegalSignal, match="while the run is SCHEDULED"):
        later.hears(Retry("charge", "ada", "go on"))


def test_its_timer_is_kept_until_it_has_begun_or_ended() -> None:
    later = Later()
    record = Record(later.run).after(later.last, later.now)
    assert (record.timers, record.due_at) == (later.last.timers, LATER)
    for signal in (Cancel("ada", "no"), TIME_TO_BEGIN):
        after = Later().hears(signal)
        kept = record.after(after.last, LATER).timers
        assert [it for it in kept if it.kind is TimerKind.BEGIN] == []
