"""The rules of a definition, checked when it is made. Each violation raises InvalidSaga."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.definition.probe import returned_class
from orchestrator.definition.steps import Kind, Step, WhenLocked
from orchestrator.errors import InvalidSaga
from outbox.errors import InvalidMessage
from outbox.messages import reply_type
from outbox.wire.json_types import shape_of

if TYPE_CHECKING:
    from orchestrator.definition.saga import Saga

MAX_NAME_LENGTH = 100
MAX_STEPS = 100
MAX_DEADLINE = timedelta(days=366)

_SAGA_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_RANK = {Kind.COMPENSATABLE: 0, Kind.PIVOT: 1, Kind.RETRIABLE: 2}
_ORDER = "the order is compensatable steps, at most one pivot, retriable steps"


def check(saga: Saga[Any]) -> None:
    """Check the definition. Raises InvalidSaga at the first violation."""
    _check_frame(saga)
    _check_state(saga)
    _check_names(saga)
    _check_order(saga)
    for step in saga.steps:
        _check_step(step)
        _check_on_reply(step, saga.state)
    _check_graph(saga)
    _check_messages(saga)
    _check_participants(saga)
    _check_rest(saga)


def _check_frame(saga: Saga[Any]) -> None:
    if not _SAGA_NAME.fullmatch(saga.name) or len(saga.name) > MAX_NAME_LENGTH:
        raise InvalidSaga(
            f"{saga.name!r} is no name for a saga",
            next_step=f"name it by lower case words with hyphens, such as delete-article, in at "
            f"most {MAX_NAME_LENGTH} letters",
        )
    if saga.version < 1:
        raise InvalidSaga(
            f"saga {saga.name!r} has version {saga.version}", next_step="start with version 1"
        )
    if not 1 <= len(saga.steps) <= MAX_STEPS:
        raise InvalidSaga(
            f"saga {saga.name!r} has {len(saga.steps)} steps",
            next_step=f"give it 1 to {MAX_STEPS} steps",
        )


def _check_state(saga: Saga[Any]) -> None:
    state: Any = saga.state
    is_frozen = (
        isinstance(state, type) and is_dataclass(state) and state.__dataclass_params__.frozen  # type: ignore[attr-defined]  # typeshed leaves the parameters out
    )
    if not is_frozen:
        raise InvalidSaga(
            f"the state of saga {saga.name!r} is {getattr(state, '__name__', state)!r}, which is "
            "no frozen dataclass",
            next_step="write @dataclass(frozen=True) above the class, and give the class itself",
        )
    _check_shape(state, f"the state of saga {saga.name!r}")


def _check_names(saga: Saga[Any]) -> None:
    seen: set[str] = set()
    for step in saga.steps:
        name = step.name
        fits = 0 < len(name) <= MAX_NAME_LENGTH and name == name.strip() and name.isprintable()
        if not fits:
            raise InvalidSaga(
                f"{name!r} is no name for a step of saga {saga.name!r}",
                next_step=f"use 1 to {MAX_NAME_LENGTH} printable characters, no blanks at the ends",
            )
        if name in seen:
            raise InvalidSaga(
                f"two steps of saga {saga.name!r} are named {name!r}, and a step is known by its "
                "name",
                next_step="rename one of them",
            )
        seen.add(name)


def _check_order(saga: Saga[Any]) -> None:
    previous = saga.steps[0]
    for step in saga.steps[1:]:
        if step.kind is Kind.PIVOT and previous.kind is Kind.PIVOT:
            raise InvalidSaga(
                f"step {step.name!r} is a second pivot after {previous.name!r}, and a saga has one "
                "point of no return",
                next_step=_ORDER,
            )
        if _RANK[step.kind] < _RANK[previous.kind]:
            raise InvalidSaga(
                f"the {step.kind} step {step.name!r} stands after the {previous.kind} step "
                f"{previous.name!r}",
                next_step=_ORDER,
            )
        previous = step


def _check_step(step: Step[Any]) -> None:
    if (step.compensation is not None) is not (step.kind is Kind.COMPENSATABLE):
        has = "no compensation" if step.compensation is None else "a compensation"
        raise InvalidSaga(
            f"the {step.kind} step {step.name!r} has {has}",
            next_step="give a compensation to every compensatable step, and to no other",
        )
    if step.when_locked is WhenLocked.REJECT and step.kind is not Kind.COMPENSATABLE:
        raise InvalidSaga(
            f"the {step.kind} step {step.name!r} is to be given up when it is locked, but a copy "
            "of its command may still run, and nothing would undo it",
            next_step="let an earlier, compensatable step take the lock",
        )
    if not timedelta(0) < step.deadline <= MAX_DEADLINE:
        raise InvalidSaga(
            f"the deadline of step {step.name!r} is {step.deadline}",
            next_step=f"choose more than nothing and at most {MAX_DEADLINE.days} days",
        )


def _check_on_reply(step: Step[Any], state: type[Any]) -> None:
    # A type checker sees a wrong reply, but not always that no state is returned, and it takes one
    # of a subclass, which would be read as the state's own class.
    returned = returned_class(step.on_reply) if step.on_reply is not None else None
    if returned is not None and returned is not state:
        raise InvalidSaga(
            f"on_reply of step {step.name!r} returns {returned.__name__}",
            next_step=f"let it return a {state.__name__}, such as replace(self, ...)",
        )


def _check_graph(saga: Saga[Any]) -> None:
    names = {step.name for step in saga.steps}
    for name, needs in saga.dependencies.items():
        if unknown := sorted(needs - names):
            raise InvalidSaga(
                f"step {name!r} comes after {unknown[0]!r}, which is no step of saga {saga.name!r}",
                next_step=f"its steps are {', '.join(map(repr, sorted(names)))}",
            )
    for step in saga.steps:
        later = [it for it in map(saga.step, saga.dependencies[step.name])]
        beyond = [it for it in later if _RANK[it.kind] > _RANK[step.kind]]
        if beyond:
            raise InvalidSaga(
                f"the {step.kind} step {step.name!r} comes after the {beyond[0].kind} step "
                f"{beyond[0].name!r}",
                next_step=_ORDER,
            )
    if circle := [step.name for step in saga.steps if step.name in saga.followers[step.name]]:
        raise InvalidSaga(
            f"these steps of saga {saga.name!r} wait for each other, so that none of them would "
            f"ever start: {', '.join(map(repr, circle))}",
            next_step="take one of them out of the other's after=",
        )


def _check_messages(saga: Saga[Any]) -> None:
    for role, commands in (("action", saga.actions), ("compensation", saga.compensations)):
        for name, command in commands.items():
            _check_shape(command, f"the {role} of step {name!r}")
    for name, command in saga.actions.items():
        _check_shape(reply_type(command), f"the reply to step {name!r}")


def _check_participants(saga: Saga[Any]) -> None:
    for name, undo in saga.compensations.items():
        does, undoes = saga.action_type(name).owner, undo.message_type.owner
        if does != undoes:
            raise InvalidSaga(
                f"step {name!r} is done by {does!r} and undone by {undoes!r}, but only the "
                "participant that ran an action knows whether there is anything to undo",
                next_step=f"send the compensation to {does!r}",
            )


def _check_rest(saga: Saga[Any]) -> None:
    for (name, is_undo), call in saga.rest_calls.items():
        if not is_undo and call.needs_reply:
            raise InvalidSaga(
                f"the action of step {name!r} is {call.call!r}, and there is no reply before it "
                "was sent",
                next_step="give values=, or {key} for the id of the action",
            )
        if not is_undo and call.timeout >= saga.step(name).deadline.total_seconds():
            raise InvalidSaga(
                f"the deadline of step {name!r} is over before its REST call ends, which may take "
                f"{call.timeout:g} s",
                next_step="give the step a longer deadline=, or the call a shorter timeout=",
            )
        does = saga.rest_calls.get((name, False))
        if is_undo and call.probe and does and call.longest < does.longest:
            raise InvalidSaga(
                f"the probe of the compensation of step {name!r} counts after {call.longest:g} s, "
                f"and the request of the action may arrive until {does.longest:g} s are over",
                next_step="give the compensation at least the timeout= and grace= of the action",
            )


def _check_shape(declared: Any, what: str) -> None:
    try:
        shape_of(declared)
    except InvalidMessage as error:
        raise InvalidSaga(f"{what}: {error.problem}", next_step=error.next_step) from error
