"""The plan of a test for a world: its troubles, and the steps at which they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind, Step
from orchestrator.testing.worlds.participants.completions import Answers, Completions
from orchestrator.testing.worlds.troubles import Sort, Troubles
from outbox.inbox.outside.registration import Outside

When = Literal["early", "at once", "twice", "late", "too late"]
_SORTS: dict[When, tuple[Sort, str]] = {
    "early": (Sort.ANSWERED_EARLY, "is completed before its handler has committed"),
    "at once": (Sort.ANSWERED_AT_ONCE, "is completed before it is known to be pending"),
    "twice": (Sort.ANSWERED_TWICE, "is completed twice"),
    "late": (Sort.ANSWERED_LATE, "is completed after its deadline"),
    "too late": (Sort.ANSWERED_TOO_LATE, "is cancelled while it is pending, and completed then"),
}

How = Literal["refused", "unanswered", "cut off", "cancelled", "taken over", "undone"]
_CALLS: dict[How, tuple[Sort, str, int]] = {
    "refused": (Sort.CALL_REFUSED, "is refused by the provider", 1),
    "unanswered": (Sort.CALL_UNANSWERED, "ends twice without an answer", 2),
    "cut off": (Sort.CALL_CUT_OFF, "is cut off at its timeout", 1),
    "cancelled": (Sort.CALL_CANCELLED, "is cut off, and the run is cancelled meanwhile", 1),
    "taken over": (Sort.CALL_TAKEN_OVER, "is taken over, and made late", 1),
    "undone": (Sort.CALL_AFTER_UNDO, "is made after its undo", 1),
}


class Steering:
    """The steering of troubles in runs of this saga. Raises ValueError for an unknown step, or for
    one to which the trouble cannot happen."""

    def __init__(
        self, saga: Saga[Any], completions: Completions, outside: Mapping[str, Outside]
    ) -> None:
        self.saga = saga
        self.calls = _calls(saga, outside)
        self.answers = Answers(saga, completions)
        self._troubles = Troubles()

    def refuse(self, step: str) -> None:
        """The participant refuses the step's action, once; its handler is not called."""
        if self._step(step).kind is Kind.RETRIABLE:
            raise ValueError(f"step {step!r} is retriable: it may not be refused")
        self._troubles.add(Sort.REFUSED, f"step {step!r} is refused", step)

    def fail(self, step: str, times: int | None = None, *, undo: bool = False) -> None:
        """The handler of the step's action, or with `undo` of its compensation, does its work and
        raises an error then: so many times, or as long as this world is not mended."""
        what = self._words(step, undo)
        how_often = "for good" if times is None else f"{times} times"
        self._troubles.add(Sort.FAILS, f"{what} fails {how_often}", step, undo=undo, times=times)

    def lock(self, step: str, times: int = 1, *, undo: bool = False) -> None:
        """Another operation holds the step's entity, so many times."""
        words = f"{self._words(step, undo)} finds a lock"
        self._troubles.add(Sort.LOCKED, words, step, undo=undo, times=times)

    def cancel(self, step: str) -> None:
        """An operator cancels the run while that step is under way."""
        self._step(step)
        self._troubles.add(Sort.CANCELLED, f"a person cancels during step {step!r}", step)

    def overtake(self, step: str) -> None:
        """The step's action is delayed past its deadline, so that its compensation arrives before
        it."""
        if self._step(step).kind is not Kind.COMPENSATABLE:
            raise ValueError(f"step {step!r} has no compensation that could overtake it")
        self._troubles.add(Sort.OVERTAKEN, f"step {step!r} is overtaken", step)

    def answer(self, step: str, when: When, *, undo: bool = False) -> None:
        """The pending action of the step, or with `undo` its compensation, is completed: `early`,
        before its handler has committed, so that it is to be completed once more; `at once`, before
        the orchestrator hears that it is pending; `twice`, with the same answer and with each other
        one; `late`, after its deadline; `too late`, when the run was cancelled meanwhile and is
        over."""
        if when == "too late" and (undo or self._step(step).kind is not Kind.COMPENSATABLE):
            raise ValueError(f"step {step!r} is not undone, so that no answer comes too late")
        sort, words = _SORTS[when]
        self._require_answers(step, undo, 1)
        self._troubles.add(sort, f"{self._words(step, undo)} {words}", step, undo=undo)

    def answer_otherwise(self, step: str, number: int = 1, *, undo: bool = False) -> None:
        """The pending command is completed, once, with another answer than the usual one, which has
        the number 0."""
        self._require_answers(step, undo, number + 1)
        words = f"{self._words(step, undo)} is completed otherwise"
        self._troubles.add(Sort.ANSWERED_OTHERWISE, words, step, undo=undo, number=number)

    def disturb(self, step: str, how: How, *, undo: bool = False) -> None:
        """The call to the outside of the step's action, or with `undo` of its compensation, goes
        wrong: `refused` by the provider; `unanswered`, since its function raises after its work,
        twice; `cut off` at its timeout after its work; `cancelled`, which is the same while a
        person cancels the run; `taken over` by another process, and made all the same then; or
        `undone` before it is made, since its process stood still and a person cancelled the run."""
        what = self._words(step, undo)
        if (step, undo) not in self.calls:
            raise ValueError(f"{what} makes no call to the outside")
        if how in ("cancelled", "undone") and (
            undo or self._step(step).kind is not Kind.COMPENSATABLE
        ):
            raise ValueError(f"{what} is not undone")
        sort, words, times = _CALLS[how]
        words = f"the call of {what} {words}"
        self._troubles.add(sort, words, step, undo=undo, times=times)

    def lose_replies(self) -> None:
        """No message arrives by which a participant answers later."""
        self._troubles.add(Sort.REPLY_LOST, "every later reply is lost", times=None)

    def duplicate(self) -> None:
        """Every message arrives twice."""
        self._troubles.add(Sort.TWICE, "everything arrives twice", times=None)

    def arrive_again(self) -> None:
        """After the run, every sent message arrives once more, the last first."""
        self._troubles.add(Sort.AGAIN, "everything arrives again at the end", times=None)

    def lose_answers(self) -> None:
        """The first answer to every message is lost."""
        self._troubles.add(Sort.ANSWER_LOST, "every first answer is lost", times=None)

    def crash_at(self, name: str, hit: int = 1) -> None:
        """The process that gets to that crash point dies there, at the `hit`-th time from now."""
        if hit < 1:
            raise ValueError(f"hit={hit}; times are counted from 1")
        self._troubles.add_crash(name, hit)

    def mend(self) -> None:
        """Mend the world: nothing goes wrong any more."""
        self._troubles.clear()

    def _step(self, name: str) -> Step[Any]:
        names = [it.name for it in self.saga.steps]
        if name not in names:
            raise ValueError(f"{self.saga} has no step {name!r}; it has {', '.join(names)}")
        return self.saga.step(name)

    def _words(self, step: str, undo: bool) -> str:
        if undo and self._step(step).kind is not Kind.COMPENSATABLE:
            raise ValueError(f"step {step!r} has no compensation")
        self._step(step)
        return f"the compensation of step {step!r}" if undo else f"step {step!r}"

    def _require_answers(self, step: str, undo: bool, count: int) -> None:
        what = self._words(step, undo)
        known = len(self.answers.of(step, undo=undo))
        if known < count:
            command = self.answers.command(step, undo=undo)
            raise ValueError(
                f"{what} has {known} answers, and this needs {count}: "
                f"give them in completions={{{command}: [...]}}"
            )


def _calls(saga: Saga[Any], outside: Mapping[str, Outside]) -> Mapping[tuple[str, bool], Outside]:
    """By step and direction, the calls to the outside; `outside` has them by message type."""
    sent = {(name, False): command for name, command in saga.actions.items()}
    sent |= {(name, True): command for name, command in saga.compensations.items()}
    types = {place: str(command.message_type) for place, command in sent.items()}
    return {place: outside[it] for place, it in types.items() if it in outside}
