"""The people and webhooks of a world: they complete the commands that are pending there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.testing.virtual.timeline import Timeline, Wait
from orchestrator.testing.worlds.participants.completions import Answers
from orchestrator.testing.worlds.participants.effects import Place
from orchestrator.testing.worlds.participants.mailbox import Mailbox
from orchestrator.testing.worlds.participants.participant import Participant
from orchestrator.testing.worlds.troubles import Sort, Troubles
from outbox.errors import AlreadyAnswered, CannotComplete, NotPendingYet, TooLate
from outbox.replies import Reply
from outbox.wire.envelope import Envelope

_SOON = 1.0
_RESTART = 5.0
_HOUR = 3600.0


class CompletionFailed(AssertionError):
    """A pending command could not be completed, or could where it must not."""


@dataclass(frozen=True)
class _Command:
    participant: Participant
    id: str
    place: Place
    answers: Sequence[object]


class Answerer:
    """Completes pending commands by the answers of the test. `cancel` is told the run that an
    operator cancels."""

    def __init__(
        self,
        timeline: Timeline,
        troubles: Troubles,
        saga: Saga[Any],
        answers: Answers,
        mailbox: Mailbox,
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        self._timeline = timeline
        self._troubles = troubles
        self._saga = saga
        self._answers = answers
        self._mailbox = mailbox
        self._cancel = cancel
        self._known: set[str] = set()
        self._due: set[str] = set()
        self._too_late: list[_Command] = []

    async def receive(
        self, participant: Participant, envelopes: Sequence[Envelope]
    ) -> list[Reply] | None:
        """What the participant answers to these messages, some of which may be pending then."""
        for envelope in envelopes:
            place = Place.of(envelope)
            if self._strikes(Sort.ANSWERED_EARLY, place):
                await self._too_early(self._command(participant, envelope.id, place))
        replies = await participant.receive(envelopes)
        if await self.look(participant):
            # That answer overtakes the one of the delivery.
            await Wait(_SOON)
        return replies

    async def look(self, participant: Participant) -> bool:
        """Note what is pending there by now; returns whether any of it was completed at once."""
        at_once = False
        for id, place in participant.pending().items():
            command = self._command(participant, id, place)
            if id not in self._known and command.answers:
                self._known.add(id)
                self._due.add(id)
                at_once |= await self._plan(command)
        return at_once

    def completes(self, id: str) -> bool:
        """Whether it is still going to complete that command."""
        return id in self._due

    async def finish(self) -> None:
        """Complete what was to be completed when all is over."""
        while self._too_late:
            command = self._too_late.pop()
            try:
                while not await self._answer(command, command.answers[0]):
                    pass
            except TooLate:
                continue
            if not callable(command.answers[0]):
                raise CompletionFailed(f"step {command.place.step!r} was completed after its undo")

    def _command(self, participant: Participant, id: str, place: Place) -> _Command:
        answers = self._answers.of(place.step, undo=place.is_undo)
        return _Command(participant, id, place, answers)

    def _strikes(self, sort: Sort, place: Place) -> bool:
        return self._troubles.strikes(sort, place.step, undo=place.is_undo)

    async def _plan(self, command: _Command) -> bool:
        place = command.place
        if self._strikes(Sort.ANSWERED_AT_ONCE, place):
            await self._complete(command)
            return True
        if self._strikes(Sort.ANSWERED_TOO_LATE, place):
            self._too_late.append(command)
            self._due.discard(command.id)
            await self._cancel(place.saga_id)
        elif self._strikes(Sort.ANSWERED_LATE, place):
            deadline = self._saga.step(place.step).deadline.total_seconds()
            self._timeline.after(deadline + _HOUR, partial(self._complete, command))
        else:
            self._timeline.after(_SOON, partial(self._complete, command))
        return False

    async def _too_early(self, command: _Command) -> None:
        try:
            await self._answer(command, command.answers[0])
        except NotPendingYet:
            return
        if not callable(command.answers[0]):
            raise CompletionFailed(
                f"step {command.place.step!r} was completed before its handler had committed"
            )

    async def _complete(self, command: _Command) -> None:
        place, number = command.place, 0
        otherwise = self._troubles.struck(Sort.ANSWERED_OTHERWISE, place.step, undo=place.is_undo)
        if otherwise is not None:
            number = otherwise.number
        await self._complete_with(command, number)

    async def _complete_with(self, command: _Command, number: int) -> None:
        try:
            if not await self._answer(command, command.answers[number]):
                # A webhook that hears nothing comes again.
                again = partial(self._complete_with, command, number)
                self._timeline.after(_RESTART, again)
                return
            if self._strikes(Sort.ANSWERED_TWICE, command.place):
                await self._complete_again(command, number)
        except (TooLate, AlreadyAnswered):
            pass
        self._due.discard(command.id)

    async def _complete_again(self, command: _Command, number: int) -> None:
        await self._answer(command, command.answers[number])
        for other in [it for at, it in enumerate(command.answers) if at != number]:
            try:
                await self._answer(command, other)
            except AlreadyAnswered:
                continue
            if not callable(other):
                raise CompletionFailed(f"step {command.place.step!r} took two different answers")

    async def _answer(self, command: _Command, answer: object) -> bool:
        """False where the participant died meanwhile."""
        try:
            done = await command.participant.complete(command.id, answer)
        except CannotComplete:
            raise
        except Exception as error:
            raise CompletionFailed(
                f"step {command.place.step!r} could not be completed: {error!r}"
            ) from error
        self._mailbox.collect(command.participant)
        return done
