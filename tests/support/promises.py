"""What must hold in every world, whatever happens."""

from __future__ import annotations

from typing import Any

from orchestrator.definition import Saga
from orchestrator.instance import Direction, Instance, Status, StepStatus
from orchestrator.transition import Transition
from tests.support.participant import Participant


class Broken(Exception):
    """A promise does not hold. `promise` names it, `problem` says how."""

    def __init__(self, promise: str, problem: str) -> None:
        super().__init__(promise, problem)
        self.promise = promise
        self.problem = problem


def check_effects(saga: Saga[Any], instance: Instance[Any], participant: Participant) -> None:
    """P3, P4 and P5, as far as the participants can tell."""
    effects = {step.name: participant.effect(step.name) for step in saga.steps}
    for name, effect in effects.items():
        if effect not in {"", "A", "AC"}:
            raise Broken("P3", f"step {name!r} had the effects {effect}")
        by_hand = instance.steps[name].status is StepStatus.SKIPPED
        if instance.status is Status.COMPLETED and effect != "A" and not by_hand:
            raise Broken("P4", f"COMPLETED, and step {name!r} has the effects {effect!r}")
        if instance.status is Status.COMPENSATED and (effect == "A" or by_hand):
            raise Broken("P4", f"COMPENSATED, and step {name!r} is in effect")
    if any(run.undo_ids for run in instance.steps.values()):
        for name in saga.point_of_no_return:
            if effects[name]:
                raise Broken("P5", f"there are compensations, and {name!r} happened")


def check_transition(before: Instance[Any], transition: Transition[Any]) -> None:
    """P5 and the finality of P4, as far as the orchestrator can tell."""
    after = transition.instance
    is_backward = before.direction is Direction.BACKWARD
    if is_backward and after.direction is not Direction.BACKWARD:
        raise Broken("P5", "the run turned forward again")
    for command in transition.commands:
        if after.direction is Direction.BACKWARD and not command.undoes:
            raise Broken("P5", f"{command.step!r} was sent after the run had turned back")
    if before.ended is not None and (after.ended is not before.ended or transition.commands):
        raise Broken("P4", f"a run that was {before.ended} went on")


def check_order(
    saga: Saga[Any], instance: Instance[Any], participant: Participant, undone: str
) -> None:
    """A step is undone only when no step that came after it is in effect, save those that a
    person left as they are."""
    for follower in saga.followers[undone]:
        by_hand = instance.steps[follower].status is StepStatus.SKIPPED
        if participant.effect(follower) == "A" and not by_hand:
            raise Broken("order", f"{undone!r} was undone, and {follower!r} is in effect")
