"""Every error of this package. Each says what happened, why, and the next step.

OrchestratorError
├── InvalidSaga          a definition that cannot keep what it promises
├── InvalidInput         a saga's input, or a result supplied by a person, that does not fit
└── IllegalSignal        an operator asked for what is not possible now
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """Base of all errors of this package.

    `problem` says what happened and why; `next_step` what to do about it. `str()` gives both.
    """

    def __init__(self, problem: str, *, next_step: str) -> None:
        super().__init__(problem, next_step)
        self.problem = problem
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.problem}; {self.next_step}"


class InvalidSaga(OrchestratorError):
    """The definition cannot be run as it was promised; the problem names the step."""


class InvalidInput(OrchestratorError):
    """The value does not fit the definition; nothing was changed."""


class IllegalSignal(OrchestratorError):
    """An operator asked for what is not possible now; nothing was changed.

    `status` is how the run stands, `allowed` names the operator signals that are possible.
    """

    def __init__(self, problem: str, *, status: str, allowed: tuple[str, ...]) -> None:
        possible = ", ".join(allowed) or "nothing, for it has ended"
        super().__init__(problem, next_step=f"what is possible now: {possible}")
        self.status = status
        self.allowed = allowed
