"""Tells what happens to a run, line by line, and shows what it leads to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Instance, Status, StepRun, StepStatus
from orchestrator.machine.machine import advance, start
from orchestrator.machine.signals import Buried, Replied, Signal, TimerFired, TimerKind
from orchestrator.machine.transition import Dispatch, Entry, Happening, Timer, Transition
from outbox.replies import Outcome, Reply
from outbox.wire import reply_json
from tests.support.orchestrator.trips import Trip

RUN_ID = "0190a000-0000-7000-8000-000000000001"
BEGIN = datetime(2030, 1, 1, tzinfo=UTC)

DONE = Reply(Outcome.DONE)
SEAT_7 = Reply(Outcome.DONE, value={"number": "7"})
REFUSED = Reply(Outcome.REFUSED, code="full", reason="nothing is left")
LOCKED = Reply(Outcome.LOCKED, code="locked", reason="by another trip")
ONGOING = Reply(Outcome.ONGOING, retry_after=30)
NOTHING = Reply(Outcome.NOTHING_TO_UNDO)


class Story:
    """One run. Each line that tells what happens keeps its transition in `last`."""

    def __init__(self, saga: Saga[Trip]) -> None:
        self.saga = saga
        self.now = BEGIN
        self.history: list[Entry] = []
        self.last: Transition[Trip] = self._keep(start(saga, RUN_ID, Trip("t1"), self.now))

    # What happens

    def answers(self, *steps: str, reply: Reply | None = None) -> Story:
        """The participants answer the awaited commands of these steps, one after the other: with
        success, unless told otherwise."""
        for step in steps:
            self.hears(Replied(self.awaited(step), reply or self._success(step)))
        return self

    def deadline(self, step: str) -> Story:
        """The deadline of the step's awaited command passes."""
        return self.hears(TimerFired(TimerKind.DEADLINE, self.awaited(step)))

    def repeat(self, step: str) -> Story:
        """It is time to ask again."""
        return self.hears(TimerFired(TimerKind.REPEAT, self.awaited(step)))

    def buried(self, step: str) -> Story:
        """The step's awaited command becomes a dead letter."""
        return self.hears(Buried(self.awaited(step), "no receiver"))

    def tells(self, step: str, state: str, reply: Reply | None = None) -> Story:
        """The participant answers the void of the step's skip: the step's last command was in that
        state, with the stored reply, and those before it had been refused."""
        return self.hears(Replied(self.void(step), self.told(step, state, reply)))

    def told(self, step: str, state: str, reply: Reply | None = None) -> Reply:
        """The answer to the void of the step's skip."""
        run = self.step(step)
        *others, last = run.undo_ids if self.undoes(step) else run.action_ids
        states: dict[str, Any] = {id: {"state": "refused"} for id in others}
        states[last] = {"state": state}
        if reply is not None:
            states[last]["reply"] = orjson.loads(reply_json.dumps(reply))
        return Reply(Outcome.DONE, value=states)

    def late(self, command_id: str, reply: Reply) -> Story:
        """An answer to any command, awaited or not."""
        return self.hears(Replied(command_id, reply))

    def hears(self, *signals: Signal) -> Story:
        for signal in signals:
            self.now += timedelta(seconds=1)
            self._keep(advance(self.saga, self.run, signal, self.now))
        return self

    def _success(self, step: str) -> Reply:
        return SEAT_7 if step == "reserve seat" and not self.undoes(step) else DONE

    def _keep(self, transition: Transition[Trip]) -> Transition[Trip]:
        self.last = transition
        self.history += transition.history
        return transition

    # What it leads to

    @property
    def run(self) -> Instance[Trip]:
        return self.last.instance

    @property
    def status(self) -> Status:
        return self.run.status

    def step(self, name: str) -> StepRun:
        return self.run.steps[name]

    def steps(self) -> list[StepStatus]:
        """The statuses of all steps, in the order of the list."""
        return [self.run.steps[step.name].status for step in self.saga.steps]

    def awaited(self, step: str) -> str:
        """The id of the command that the step awaits."""
        awaited = self.step(step).awaited
        assert awaited is not None, f"{step} awaits nothing"
        return awaited.id

    def void(self, step: str) -> str:
        """The id of the void that the step's skip waits for."""
        skip = self.step(step).skip
        assert skip is not None, f"{step} is not being skipped"
        return skip.void.id

    def undoes(self, step: str) -> bool:
        awaited = self.step(step).awaited
        return awaited is not None and awaited.is_undo

    @property
    def sent(self) -> list[str]:
        """What was sent at last, such as `do charge`, `undo reserve room` or `void charge`."""
        return [f"{self._verb(it)} {it.step}" for it in self.last.commands]

    def _verb(self, command: Dispatch) -> str:
        if command.is_void:
            return "void"
        return "undo" if command.undoes else "do"

    @property
    def happened(self) -> list[Happening]:
        """What the history was told at last."""
        return [entry.happening for entry in self.last.history]

    def timer(self, kind: TimerKind) -> Timer:
        """The timer of that kind that was set at last."""
        (timer,) = [it for it in self.last.timers if it.kind is kind]
        return timer

    def pause(self) -> float:
        """Seconds until the step is asked again, as was set at last."""
        return (self.timer(TimerKind.REPEAT).due - self.now).total_seconds()


def outcome(name: str, **more: Any) -> Reply:
    """A reply by the name of its outcome."""
    return Reply(Outcome(name), **more)
