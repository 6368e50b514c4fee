"""The participants within an explored world: each state has a number, and what a command leads to
is remembered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind
from orchestrator.machine.instance import Instance
from orchestrator.machine.transition import Dispatch
from orchestrator.testing.exploring.model import promises
from orchestrator.testing.exploring.model.events import What
from orchestrator.testing.exploring.model.faults import Price
from orchestrator.testing.exploring.model.participant import Participant
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.rows import (
    CALLING,
    PENDING,
    UNKNOWN,
    Answer,
    Task,
)
from orchestrator.testing.exploring.model.values import Message, Numbers, Sent
from outbox.replies import Outcome


class Receipt(NamedTuple):
    """What a participant makes of a command: itself afterwards, its answer, and what else it tells
    by messages, by numbers."""

    participant: int
    answer: int
    told: tuple[int, ...]
    price: Price
    broken: Broken | None


class Ending(NamedTuple):
    """Something that happens to a command that is pending: the participants afterwards, and the
    answers that are told, by numbers. `call` is the attempt that it happens to, if it is a call."""

    what: What
    command_id: str
    answer: Answer | None
    call: int
    participant: int
    told: tuple[int, ...]
    price: Price
    broken: Broken | None = None


class Participating:
    """`sent` has every command by its id; `replies` has, for a step, the values that its action
    may be answered with."""

    def __init__(
        self,
        saga: Saga[Any],
        messages: Numbers[Message],
        sent: Mapping[str, Sent],
        replies: Mapping[str, Sequence[Any]],
    ) -> None:
        self._saga = saga
        self._messages = messages
        self._sent = sent
        self._replies = replies
        self._receipts: dict[tuple[int, int, int], list[Receipt]] = {}
        self._stored: dict[tuple[int, int], int] = {}
        self._endings: dict[tuple[int, int], list[Ending]] = {}
        self.participants: Numbers[Participant] = Numbers()

    def received(
        self, participant: int, number: int, engine: int, instance: Instance[Any]
    ) -> list[Receipt]:
        """What becomes of a command, for all that its handler may say. `instance` is what the
        orchestrator knows meanwhile, and `engine` its number."""
        message = self._messages.values[number]
        command = self._sent[message.command_id].dispatch
        # Only whether an undo comes in order depends on what the orchestrator knows.
        key = (engine if command.undoes else -1, participant, number)
        if key not in self._receipts:
            before = self.participants.values[participant]
            self._receipts[key] = receipts = []
            for wish, price in self._wishes(before, command):
                after, answer = before.receive(command, wish)
                broken = self._out_of_order(before, after, command, instance)
                answered = self._messages.of(message._replace(answer=answer))
                told = self._late(after.late() - before.late())
                number = self.participants.of(after)
                receipts.append(Receipt(number, answered, told, price, broken))
        return self._receipts[key]

    def _late(self, ids: frozenset[str]) -> tuple[int, ...]:
        done = Answer(Outcome.DONE)
        return tuple(self._messages.of(Message(id, done, accepted=True)) for id in sorted(ids))

    def stored_answer(self, participant: int, number: int) -> int:
        """The answer that the inbox has for that command; -1 where it does not know it."""
        key = (participant, number)
        if key not in self._stored:
            message = self._messages.values[number]
            id = message.command_id
            inbox = self.participants.values[participant]
            answered = -1
            if inbox.knows(id):
                _, answer = inbox.receive(self._sent[id].dispatch, Answer(Outcome.DONE))
                answered = self._messages.of(message._replace(answer=answer))
            self._stored[key] = answered
        return self._stored[key]

    def _wishes(
        self, participant: Participant, command: Dispatch
    ) -> Iterator[tuple[Answer, Price]]:
        if participant.takes_over(command):
            yield CALLING, ()
            yield UNKNOWN, ()
            return
        if not participant.decides(command):
            yield Answer(Outcome.DONE), ()
            return
        if (command.step, bool(command.undoes)) in self._saga.rest_calls:
            # Its participant is called, also where it refuses then.
            yield CALLING, ()
            if command.expires is not None:
                yield Answer(Outcome.EXPIRED), ("expiries",)
            return
        yield from self._ends(command)
        yield Answer(Outcome.LOCKED), ("locks",)
        yield Answer(Outcome.ONGOING), ("ongoing",)
        yield PENDING, ("pendings",)
        yield CALLING, ("calls",)
        if command.expires is not None:
            yield Answer(Outcome.EXPIRED), ("expiries",)

    def _ends(self, command: Dispatch) -> Iterator[tuple[Answer, Price]]:
        """What it may come to, whether at once or later."""
        yield Answer(Outcome.DONE), ()
        if not command.undoes:
            for choice in range(1, len(self._replies[command.step])):
                yield Answer(Outcome.DONE, choice), ()
        is_last = self._saga.step(command.step).kind is Kind.RETRIABLE
        yield Answer(Outcome.REFUSED), ("refusals",) if command.undoes or is_last else ()

    # What is pending

    def endings(self, participant: int, engine: int, instance: Instance[Any]) -> list[Ending]:
        """All that may happen to what is pending, but for commands that arrive."""
        before = self.participants.values[participant]
        pending = before.pending()
        if not pending and not before.tasks:
            return []
        key = (engine, participant)
        if key not in self._endings:
            found = [it for id in pending for it in self._completed(before, id, instance)]
            for task in sorted(before.tasks):
                found += self._called(before, task, instance)
            self._endings[key] = found
        return self._endings[key]

    def _completed(
        self, before: Participant, id: str, instance: Instance[Any], call: int = 0
    ) -> Iterator[Ending]:
        command = self._sent[id].dispatch
        goes_on: list[tuple[Answer, Price]] = [(PENDING, ("pendings",))] if call else []
        for answer, price in (*self._ends(command), *goes_on):
            if call and not before.may_end(command, answer.outcome, call):
                continue
            is_known = call > 0 and before.was_said(Task(id, call))
            after, told = before.complete(command, answer._replace(call=call))
            yield Ending(
                What.COMPLETED,
                id,
                answer,
                call,
                self.participants.of(after),
                tuple(self._messages.of(Message(it, said, accepted=True)) for it, said in told),
                () if is_known else price,
                self._out_of_order(before, after, command, instance),
            )

    def _called(self, before: Participant, task: Task, instance: Instance[Any]) -> Iterator[Ending]:
        yield from self._completed(before, task.id, instance, task.call)
        if not before.is_live(task):
            return
        command = self._sent[task.id].dispatch
        # What the outside has said once, a further call does not change.
        for called in (False,) if before.was_said(task) else (False, True):
            answer = Answer(Outcome.DONE) if called else None
            for what, after in (
                (What.OVERDUE, before.overdue(command, task.call, called=called)),
                (What.DIED, before.die(command, task.call, called=called)),
            ):
                number = self.participants.of(after)
                broken = self._out_of_order(before, after, command, instance)
                yield Ending(what, task.id, answer, task.call, number, (), ("hangs",), broken)

    def _out_of_order(
        self, before: Participant, after: Participant, command: Dispatch, instance: Instance[Any]
    ) -> Broken | None:
        if not command.undoes or before.effect(command.step) == after.effect(command.step):
            return None
        try:
            promises.check_order(self._saga, instance, after, command.step)
        except Broken as broken:
            return broken
        return None
