"""Inputs of sagas and answers of participants, made up from their types."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput
from orchestrator.testing.exploring.walk.sampling import sample_input, sample_replies
from outbox.errors import InvalidMessage
from outbox.wire.codec import decode_value, encode_value


@lru_cache(maxsize=1024)
def inputs(saga: Saga[Any]) -> tuple[Any, ...]:
    """One input, or two about different things where the types allow that. Raises InvalidInput."""
    first = sample_input(saga)
    try:
        second = decode_value(saga.state, _other(encode_value(first)))
        return (first,) if saga.accept(first) == saga.accept(second) else (first, second)
    except (InvalidInput, InvalidMessage):
        return (first,)


@lru_cache(maxsize=1024)
def answers(saga: Saga[Any]) -> Mapping[str, Any]:
    """For each type of command of the saga's actions, the value of a reply. Raises InvalidInput."""
    values = sample_replies(saga, {})
    return {str(saga.action_type(name)): value for name, (value, *_) in values.items()}


def _other(value: Any) -> Any:
    """The same value with other texts."""
    match value:
        case str():
            return f"{value}-2"
        case list():
            return [_other(each) for each in value]
        case dict():
            return {name: _other(each) for name, each in value.items()}
        case _:
            return value
