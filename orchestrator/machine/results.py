"""Results of actions, and what the saga's state learns from them."""

from __future__ import annotations

from typing import Any, TypeVar

from orchestrator.definition.steps import Step
from orchestrator.machine.instance import StepStatus
from orchestrator.machine.transition_builder import TransitionBuilder
from outbox.replacing import replace
from outbox.replies import Reply
from outbox.safe_text import described

S = TypeVar("S")


def take_in(builder: TransitionBuilder[S], step: Step[S], reply: Reply) -> None:
    """Note that the action took effect, and let the saga's state learn from its answer."""
    run = builder.run(step.name)
    try:
        state = learned(builder, step, reply.value)
    except Exception as error:
        builder.put(step.name, replace(run, kept=reply))
        builder.stick(step.name, f"its answer could not be taken in: {described(error)}")
        return
    builder.instance = replace(builder.instance, state=state)
    builder.settle(step.name, StepStatus.DONE)


def learned(builder: TransitionBuilder[S], step: Step[S], value: Any) -> S:
    """The state with the answer in it. Raises what the saga's function raises, and InvalidInput or
    InvalidMessage where value or state do not fit."""
    if step.on_reply is None:
        return builder.instance.state
    state = step.on_reply(builder.instance.state, builder.saga.decode_reply(step.name, value))
    builder.saga.check_state(state)
    return state
