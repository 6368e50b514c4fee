"""The commands of a run: made by the saga's functions, checked against their declarations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind, Step
from orchestrator.machine.instance import Awaited, Instance
from orchestrator.machine.transition import Dispatch
from outbox.contract import Void
from outbox.errors import InvalidMessage
from outbox.ids import derive
from outbox.messages import Command
from outbox.wire.codec import encode

S = TypeVar("S")

_VOID = str(Void.message_type)


def action_of(saga: Saga[S], instance: Instance[S], step: Step[S]) -> Awaited:
    """The next command that does the step, with an id of its own. Raises what the saga's function
    raises, and InvalidMessage where it makes another command than the declared one."""
    attempt = len(instance.steps[step.name].action_ids) + 1
    declared = saga.actions[step.name]
    return _made(instance, step, "do", attempt, declared, step.action, undoes=())


def compensation_of(saga: Saga[S], instance: Instance[S], step: Step[S]) -> Awaited:
    """The next command that undoes the step, with an id of its own; it names every action of the
    step that was ever sent. Raises as `action_of` does."""
    run = instance.steps[step.name]
    attempt = len(run.undo_ids) + 1
    declared = saga.compensations[step.name]
    assert step.compensation is not None
    return _made(
        instance, step, "undo", attempt, declared, step.compensation, undoes=run.action_ids
    )


def void_of(instance: Instance[S], name: str, ids: tuple[str, ...]) -> Awaited:
    """The next command that keeps these commands of the step from ever running, or tells what
    became of them, with an id of its own."""
    attempt = len(instance.steps[name].void_ids) + 1
    key = _key(instance, name)
    return Awaited(
        id=derive(instance.id, name, "void", str(attempt)),
        type=_VOID,
        key=key,
        data=encode(Void(list(ids), key)),
    )


def dispatch_of(saga: Saga[S], step: Step[S], awaited: Awaited) -> Dispatch:
    """The dispatch of the awaited command."""
    may_be_given_up = step.kind is Kind.COMPENSATABLE and not awaited.is_undo
    return Dispatch(
        id=awaited.id,
        step=step.name,
        participant=saga.action_type(step.name).owner,
        type=awaited.type,
        key=awaited.key,
        data=awaited.data,
        undoes=awaited.undoes,
        urgent=awaited.is_undo or step.kind is Kind.RETRIABLE or awaited.type == _VOID,
        expires=awaited.deadline if may_be_given_up else None,
        due=awaited.due,
    )


def _key(instance: Instance[S], name: str) -> str:
    """The order key of the step's commands. A stuck command holds up no other step's."""
    return f"{instance.id}/{name}"


def jitter(command_id: str, tries: int) -> float:
    """The random part of a pause, in [0, 1). It is derived from the command and the count of tries,
    so that the machine stays a function."""
    digest = hashlib.sha256(f"{command_id}:{tries}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / (1 << 32)


def _made(
    instance: Instance[S],
    step: Step[S],
    direction: str,
    attempt: int,
    declared: type[Command[Any]],
    make: Callable[[S], Command[Any]],
    undoes: tuple[str, ...],
) -> Awaited:
    command: object = make(instance.state)
    made = getattr(command, "message_type", None)
    if not isinstance(command, Command) or made != declared.message_type:
        # The participant and the fingerprint were derived from the declared command.
        raise InvalidMessage(
            f"it made {made or type(command).__name__} instead of {declared.message_type}",
            next_step="let the function of a step always make the same command",
        )
    return Awaited(
        id=derive(instance.id, step.name, direction, str(attempt)),
        type=str(declared.message_type),
        key=_key(instance, step.name),
        data=encode(command),
        undoes=undoes,
    )
