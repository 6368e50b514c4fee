"""The answers that a test gives to pending commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.definition.saga import Saga
from outbox.messages import Command

Completions = Mapping[type[Command[Any]], Sequence[object]]
"""By the class of a command, its possible answers, the usual one first: the command's own value,
Done, Refused, or a function `(session, command_id)` that completes it, and does what belongs to
that in its transaction."""


class Answers:
    """The answers by step and direction. Raises ValueError for a command that the saga does not
    send, and for one without an answer."""

    def __init__(self, saga: Saga[Any], completions: Completions) -> None:
        sent = {(name, False): command for name, command in saga.actions.items()}
        sent |= {(name, True): command for name, command in saga.compensations.items()}
        for command, answers in completions.items():
            if command not in sent.values():
                raise ValueError(
                    f"completions= names {command.__name__}, which {saga} does not send"
                )
            if not answers:
                raise ValueError(f"completions= has no answer to {command.__name__}; give one")
        self._saga = saga
        self._by_place = {
            place: tuple(completions[command])
            for place, command in sent.items()
            if command in completions
        }

    def of(self, step: str, *, undo: bool) -> tuple[object, ...]:
        """The answers to the step's action, or with `undo` to its compensation; none where the test
        gives none."""
        return self._by_place.get((step, undo), ())

    def __bool__(self) -> bool:
        return bool(self._by_place)

    def command(self, step: str, *, undo: bool) -> str:
        """The name of the command's class."""
        commands = self._saga.compensations if undo else self._saga.actions
        return commands[step].__name__


def told(answer: object) -> str:
    """The answer in words."""
    return getattr(answer, "__name__", repr(answer)) if callable(answer) else repr(answer)
