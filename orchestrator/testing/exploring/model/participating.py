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
from orchestrator.testing.exploring.model.faults import Price
from orchestrator.testing.exploring.model.participant import Answer, Participant
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.values import Message, Numbers, Sent
from outbox.replies import Outcome


class Receipt(NamedTuple):
    """What a participant makes of a command: itself afterwards, and its answer, by numbers."""

    participant: int
    answer: int
    price: Price
    broken: Broken | None


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
                receipts.append(Receipt(self.participants.of(after), answered, price, broken))
        return self._receipts[key]

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
        yield Answer(Outcome.DONE), ()
        if not participant.decides(command):
            return
        if not command.undoes:
            for choice in range(1, len(self._replies[command.step])):
                yield Answer(Outcome.DONE, choice), ()
        is_last = self._saga.step(command.step).kind is Kind.RETRIABLE
        yield Answer(Outcome.REFUSED), ("refusals",) if command.undoes or is_last else ()
        yield Answer(Outcome.LOCKED), ("locks",)
        yield Answer(Outcome.ONGOING), ("ongoing",)
        if command.expires is not None:
            yield Answer(Outcome.EXPIRED), ("expiries",)

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
