"""The values that an explored world is made of."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from orchestrator.machine.instance import Awaited, Instance
from orchestrator.machine.signals import TimerKind
from orchestrator.machine.transition import Dispatch
from orchestrator.testing.exploring.model.events import Event, What
from orchestrator.testing.exploring.model.faults import Price
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.retaining import WHOLE, Kept
from orchestrator.testing.exploring.model.rows import Answer

V = TypeVar("V", bound=Hashable)


class Message(NamedTuple):
    """A command on its way, or the answer to it. Where it is `accepted`, the way took the command
    durably, and the answer is a message."""

    command_id: str
    answer: Answer | None
    accepted: bool = False


class Engine(NamedTuple):
    """What the orchestrator has stored of the run, as far as it decides anything. `known` are the
    ids of the actions whose success it was told before it began to undo them."""

    essence: Hashable
    timers: frozenset[tuple[TimerKind, str]]
    known: frozenset[str] = frozenset()


class Place(NamedTuple):
    """One state of everything but the faults that are left, by numbers. `network` is what is on
    its way, in no order. Where the run was removed, `engine` is how it stood then."""

    engine: int
    participant: int
    network: tuple[int, ...]
    kept: Kept = WHOLE


class Edge(NamedTuple):
    """One thing that can happen. It costs `price`, and leads to `place` or, where that very step
    breaks a promise, to `broken`."""

    event: Event
    place: int
    price: Price = ()
    broken: Broken | None = None


class Sent(NamedTuple):
    """A command that was ever sent, and which one it is of its step in that direction."""

    dispatch: Dispatch
    attempt: int


def about(what: What, message: Message, sent: Sent) -> Event:
    """Something that happens to that message."""
    (command, attempt), answer = sent, message.answer
    return Event(
        what,
        command.step,
        bool(command.undoes),
        attempt,
        answer=answer and answer.outcome,
        choice=answer.choice if answer else 0,
        accepted=message.accepted,
        later=bool(answer and answer.later),
        call=answer.call if answer else 0,
        void=command.is_void,
    )


class Numbers(Generic[V]):
    """A number for each different value."""

    def __init__(self) -> None:
        self._numbers: dict[V, int] = {}
        self.values: list[V] = []

    def of(self, value: V) -> int:
        """Its number; a new one, where it is new."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


def essence(instance: Instance[Any], state: bytes) -> Hashable:
    """All of a run that decides anything: equal ones behave alike.

    What is left out (the times, the history's counts, the words of reasons) is stored and shown,
    and no decision asks for it.
    """
    return (
        instance.direction,
        instance.ended,
        instance.paused,
        instance.begin_at is None,
        instance.not_undone,
        frozenset(it.command_id for it in instance.stray_effects),
        state,
        tuple(
            (
                run.status,
                run.action_ids,
                run.undo_ids,
                run.awaited and _essence(run.awaited),
                run.skip and _essence(run.skip.void),
                run.void_ids,
                run.done_ids,
                run.tries,
                run.kept is not None,
            )
            for run in instance.steps.values()
        ),
    )


def _essence(awaited: Awaited) -> Hashable:
    return awaited.id, awaited.wait, awaited.deadline is None, awaited.action_ran
