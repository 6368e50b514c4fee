"""What must hold in every world, after every event."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind
from orchestrator.errors import InvalidInput
from orchestrator.machine.instance import Direction, Instance, Status, StepRun, StepStatus
from orchestrator.machine.transition import Transition
from orchestrator.testing.exploring.model.effects import IN_FORCE, RIGHT, TAKEN_BACK
from orchestrator.testing.exploring.model.participant import Participant
from orchestrator.testing.exploring.model.view import Invariant, View
from outbox.safe_text import described

MEANINGS = {
    "P2": "a start takes effect once: no run that was removed begins again",
    "P3": "an action and its compensation never both stay in effect, and nothing happens twice",
    "P4": "COMPLETED means every effect, COMPENSATED none, and what a person ends lists the rest",
    "P5": "never forward after backward, and no way back once the point of no return happened",
    "order": "a step is undone only when no step that came after it is in effect",
    "end": "without further faults every run ends, or is STUCK",
    "total": "machine and saga take in all that happens",
}
"""The promises, in a sentence each."""

_BY_HAND = frozenset({Status.RESOLVED, Status.TERMINATED})


class Broken(Exception):
    """A promise does not hold. `promise` names it, `problem` says how."""

    def __init__(self, promise: str, problem: str) -> None:
        super().__init__(promise, problem)
        self.promise = promise
        self.problem = problem


def check_effects(
    saga: Saga[Any], instance: Instance[Any], participant: Participant, told: frozenset[str]
) -> None:
    """P3, P4 and P5, as far as the participants can tell. `told` are the ids of the actions of
    whose late success the orchestrator is being told."""
    effects = {step.name: participant.effect(step.name) for step in saga.steps}
    for name, effect in effects.items():
        run = instance.steps[name]
        in_force = effect in IN_FORCE
        if effect not in RIGHT:
            raise Broken("P3", f"step {name!r} was {_told(effect)}")
        by_hand = run.status is StepStatus.SKIPPED
        if instance.status is Status.COMPLETED and effect != "A" and not by_hand:
            raise Broken("P4", f"COMPLETED, and step {name!r} is not in effect")
        if in_force and (
            participant.may_be_told(run.action_ids, told) or name in _strays(instance)
        ):
            continue
        if instance.status is Status.COMPENSATED and (in_force or by_hand):
            raise Broken("P4", f"COMPENSATED, and step {name!r} is in effect")
        is_undoable = saga.step(name).kind is Kind.COMPENSATABLE
        if instance.status is Status.COMPENSATED and effect == TAKEN_BACK and is_undoable:
            raise Broken("P4", f"COMPENSATED, and step {name!r} was refused late and not undone")
        if instance.status in _BY_HAND and in_force and name not in instance.not_undone:
            raise Broken(
                "P4", f"{instance.status}, and step {name!r} is in effect without being listed"
            )
    if any(run.undo_ids for run in instance.steps.values()):
        for name in saga.point_of_no_return:
            if effects[name] in IN_FORCE and name not in _strays(instance):
                raise Broken("P5", f"there are compensations, and {name!r} happened")


def _strays(instance: Instance[Any]) -> frozenset[str]:
    """The steps with an effect that the run has listed for a person."""
    return frozenset(it.step for it in instance.stray_effects)


def check_transition(before: Instance[Any], transition: Transition[Any]) -> None:
    """P5, begin and finality of P4, and the saga's own functions, as far as the orchestrator can
    tell."""
    after = transition.instance
    if after.begin_at is not None and transition.commands:
        raise Broken("P4", f"{transition.commands[0].step!r} was sent before the run began")
    is_backward = before.direction is Direction.BACKWARD
    if is_backward and after.direction is not Direction.BACKWARD:
        raise Broken("P5", "the run turned forward again")
    for command in transition.commands:
        asks_back = command.undoes or command.is_void
        if after.direction is Direction.BACKWARD and not asks_back:
            raise Broken("P5", f"{command.step!r} was sent after the run had turned back")
    if before.ended is not None and (after.ended is not before.ended or transition.commands):
        raise Broken("P4", f"a run that was {before.ended} went on")
    check_functions(after)


def check_strays(before: Instance[Any], after: Instance[Any], known: frozenset[str]) -> None:
    """No copy of an answer that the run knew in time is listed as a stray effect."""
    for stray in after.stray_effects:
        if stray.command_id in known and stray not in before.stray_effects:
            raise Broken(
                "P4", f"a copy of the answer to {stray.step!r} is listed as a stray effect"
            )


def check_functions(instance: Instance[Any]) -> None:
    """No function of the saga raises. (One that does makes its run STUCK, and would every run.)"""
    for name, run in instance.steps.items():
        if instance.ended is None and _fails(run):
            raise Broken("total", f"step {name!r}: {run.reason}")


def _fails(run: StepRun) -> bool:
    # Stuck without a command, or with an answer that it keeps for later: nothing else does that.
    return run.status is StepStatus.STUCK and (run.awaited is None or run.kept is not None)


def check_order(
    saga: Saga[Any], instance: Instance[Any], participant: Participant, undone: str
) -> None:
    """A step is undone only when no step that came after it is in effect, save those that a
    person left as they are, and those whose success came after their undo."""
    for follower in saga.followers[undone]:
        run = instance.steps[follower]
        is_late = participant.may_be_told(run.action_ids, participant.late())
        by_hand = run.status is StepStatus.SKIPPED
        if participant.effect(follower) in IN_FORCE and not by_hand and not is_late:
            raise Broken("order", f"{undone!r} was undone, and {follower!r} is in effect")


def check_invariants(
    invariants: Sequence[Invariant], instance: Instance[Any], participant: Participant
) -> None:
    """What the saga's author wants to hold. Raises InvalidInput where one says neither yes nor
    no."""
    if not invariants:
        return
    view = View(
        status=instance.status,
        steps=MappingProxyType({name: run.status for name, run in instance.steps.items()}),
        state=instance.state,
        in_effect=frozenset(name for name, effect in participant.effects if effect in IN_FORCE),
        not_undone=instance.not_undone,
    )
    for invariant in invariants:
        name = name_of(invariant)
        try:
            said: object = invariant(view)
        except AssertionError as error:
            raise Broken(name, str(error) or "it does not hold") from None
        except Exception as error:
            raise Broken(name, f"it raised {described(error)}") from error
        if not isinstance(said, bool | str):
            raise InvalidInput(
                f"the invariant {name} returned {said!r:.100}",
                next_step="let it return True where it holds, else False or a sentence",
            )
        if said is not True:
            raise Broken(name, said or "it does not hold")


def name_of(invariant: Invariant) -> str:
    """What the invariant is called in a story."""
    return str(getattr(invariant, "__name__", type(invariant).__name__))


_WORDS = {"A": "done", "P": "begun", "R": "taken back", "C": "undone", "D": "undone"}


def _told(effect: str) -> str:
    words = ", then ".join(_WORDS[letter] for letter in effect)
    return f"{words}, before it was done" if effect[0] == "C" else words
