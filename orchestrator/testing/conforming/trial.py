"""A trial: what it tries, where the contract says so, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.testing.conforming.conversation import Conversation

PAGE = "docs/reference/wire.md"
Try = Callable[["Conversation"], Coroutine[Any, Any, None]]


class Ending(StrEnum):
    """How a trial ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Trial:
    """A trial. `section` is the heading of the contract that says what it tries."""

    name: str
    what: str
    section: str
    run: Try
    restarts: bool = False
    """Whether the participant is restarted for it."""


@dataclass(frozen=True)
class Result:
    """How a trial ended. What was sent and what came is told where it failed."""

    trial: Trial
    ending: Ending
    sent: tuple[str, ...] = ()
    came: str = ""
    expected: str = ""
    why: str = ""
    """Why it was skipped."""


class Broken(Exception):
    """The contract is broken: what came is not what was expected."""

    def __init__(self, came: str, expected: str) -> None:
        super().__init__(f"{came}; expected: {expected}")
        self.came = came
        self.expected = expected


class Skipped(Exception):
    """The trial cannot be made here."""


class Trials:
    """A list of trials, in their order; a call gives a decorator that adds one.

    The function's name, with dashes, is the name of the trial, and its docstring says what holds.
    """

    def __init__(self, section: str) -> None:
        self._section = section
        self.all: list[Trial] = []

    def __call__(
        self, *, section: str | None = None, restarts: bool = False
    ) -> Callable[[Try], Try]:
        """A decorator. `section` is the heading of the contract, where it is not the usual one."""

        def add(run: Try) -> Try:
            name = getattr(run, "__name__", "").replace("_", "-")
            what = run.__doc__ or ""
            self.all.append(Trial(name, what, section or self._section, run, restarts))
            return run

        return add
