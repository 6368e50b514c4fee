"""The rules for operators: which signals a run allows as it stands."""

from __future__ import annotations

from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.errors import IllegalSignal
from orchestrator.machine.instance import Direction, Instance, Status, StepStatus


def allowed_signals(saga: Saga[Any], instance: Instance[Any]) -> tuple[str, ...]:
    """The names of the operator signals that are possible now, sorted."""
    if instance.ended is not None:
        return ()
    names = ["terminate", "resume" if instance.paused else "pause"]
    if instance.direction is Direction.FORWARD and not passed(saga, instance):
        names.append("cancel")
    if instance.status is Status.STUCK:
        names += ["resolve", "retry", "skip"]
    return tuple(sorted(names))


def passed(saga: Saga[Any], instance: Instance[Any]) -> list[str]:
    """The steps past the point of no return: sent and not refused, or skipped by an operator."""
    runs = {name: instance.steps[name] for name in sorted(saga.point_of_no_return)}
    return [
        name
        for name, run in runs.items()
        if (run.action_ids and run.status is not StepStatus.REFUSED)
        or run.status is StepStatus.SKIPPED
    ]


def check(saga: Saga[Any], instance: Instance[Any], verb: str, step: str | None) -> None:
    """Raises IllegalSignal, with the reason, unless the operator signal is possible now."""
    allowed = allowed_signals(saga, instance)
    stuck = [name for name, run in instance.steps.items() if run.status is StepStatus.STUCK]
    if verb not in allowed:
        problem = f"{verb} is not possible while the run is {instance.status}"
        beyond = passed(saga, instance)
        if verb == "cancel" and instance.ended is None and beyond:
            problem += f", since {beyond[0]!r} may have happened and cannot be undone"
    elif step is not None and step not in stuck:
        names = ", ".join(map(repr, stuck))
        problem = f"there is nothing to {verb} at step {step!r}; stuck is {names}"
    else:
        return
    raise IllegalSignal(problem, status=instance.status, allowed=allowed)
