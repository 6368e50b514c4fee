"""The promises that the participants' effects can show to be broken. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Status
from orchestrator.testing.worlds.participants.effects import Effect

_WANTED = {Status.COMPLETED: ("A",), Status.COMPENSATED: ("", "AC")}
_SAID = {"": "had no effect", "A": "is in effect", "AC": "took effect and was undone"}


def broken(saga: Saga[Any], status: Status, effects: Sequence[Effect]) -> Iterator[str]:
    """The promises that a run of this saga broke, which ended so or is STUCK. `effects` are its
    own, in the order in which they came."""
    letters = dict.fromkeys((step.name for step in saga.steps), "")
    calls: set[str] = set()
    for effect in effects:
        if effect.is_call and not effect.is_undo:
            calls.add(effect.step)
        if _is_taken_back(saga, effect):
            continue
        if effect.is_undo and effect.step in calls and letters[effect.step] == "AC":
            # A call that was thought to be over took effect late, and was undone once more.
            continue
        letters[effect.step] += "C" if effect.is_undo else "A"
        if letters[effect.step] not in ("A", "AC"):
            yield f"P2, P3: step {effect.step!r} took effect as {_spelt(letters[effect.step])}"
            return
        if effect.is_undo:
            there = {step for step, of_step in letters.items() if of_step == "A"}
            if beyond := sorted(there & saga.point_of_no_return):
                yield f"P5: {effect.step!r} was undone although {beyond[0]!r} had happened"
            if later := sorted(there & saga.followers[effect.step]):
                yield f"order: {effect.step!r} was undone before {later[0]!r}"
    if status is Status.STUCK:
        return
    if status not in _WANTED:
        yield f"P4: it ended as {status}, and no operator wanted that"
        return
    for step, of_step in letters.items():
        if of_step not in _WANTED[status]:
            yield f"P4: it is {status}, and step {step!r} {_SAID[of_step]}"


def _is_taken_back(saga: Saga[Any], effect: Effect) -> bool:
    """Whether it came to nothing, or the code that refused it has taken its effect back; that of a
    compensatable action is left to the compensation."""
    return effect.is_nothing or (
        effect.is_refused and (effect.is_undo or effect.step in saga.point_of_no_return)
    )


def _spelt(letters: str) -> str:
    return ", ".join({"A": "action", "C": "compensation"}[it] for it in letters)
