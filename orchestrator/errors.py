"""Every error of this package. Each says what happened, why, and the next step.

OrchestratorError
├── InvalidSaga          a definition that cannot keep what it promises
├── InvalidInput         a saga's input, or a result supplied by a person, that does not fit
├── IllegalSignal        an operator asked for what is not possible now
├── UnknownDefinition    no such saga is registered
├── UnknownRun           there is no run of that id
├── ActiveAlready        another run is active for the same key
├── KeyReused            an idempotency key came with another input
├── Unavailable          the orchestrator cannot tell or do it now; asking again is safe
│   ├── StartInDoubt     no answer came to a start; its key makes it safe to ask again
│   └── ArchiveUnavailable  what is archived cannot be read or written now
├── RequestRefused       a client's request was refused for a reason without an error of its own
├── WaitsForItself       code within a transaction waits for a run that waits for its end
├── InvalidToken         a token that cannot be made or revoked as it was asked
├── InvalidRetention     a policy of retention, or an archive, that cannot be used
├── DefinitionChanged    a definition has another shape than its version had before
└── SecondNode           a second orchestrator on a SQLite database
"""

from __future__ import annotations

from outbox.errors import ExplainedError


class OrchestratorError(ExplainedError):
    """Base of all errors of this package."""


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


class UnknownDefinition(OrchestratorError):
    """No saga of that name and version is registered here."""


class UnknownRun(OrchestratorError):
    """There is no run of that id; `may_be_removed` says that one of its time may have been."""

    def __init__(self, instance_id: str, *, may_be_removed: bool = False) -> None:
        next_step = "take the id from the answer to its start, or from the list of sagas"
        if may_be_removed:
            next_step += "; a run as old as its id may have been removed by the retention"
        super().__init__(f"there is no saga {instance_id!r:.100}", next_step=next_step)


class ActiveAlready(OrchestratorError):
    """Another run is active for the same key; nothing was started. `instance_id` is that run."""

    def __init__(self, saga: str, key: str, instance_id: str) -> None:
        super().__init__(
            f"{saga} is active for {key!r} already: {instance_id}",
            next_step="wait for the end of that one, or cancel it",
        )
        self.instance_id = instance_id


class KeyReused(OrchestratorError):
    """The idempotency key was used for another input; nothing was started."""

    def __init__(self, saga: str, instance_id: str) -> None:
        super().__init__(
            f"this idempotency key began {saga} {instance_id} with another input",
            next_step="use a new key for another input, or send the first input again",
        )
        self.instance_id = instance_id


class Unavailable(OrchestratorError):
    """It cannot be done now, or whether it was done cannot be told now; asking again in
    `retry_after` seconds is safe."""

    def __init__(self, problem: str, *, retry_after: float = 1.0) -> None:
        super().__init__(problem, next_step="ask again, with the same idempotency key if any")
        self.retry_after = retry_after


class StartInDoubt(Unavailable):
    """No answer came to a client's start, which may have begun a run all the same. A start with
    this `key` and the same input gives that run, or begins it."""

    def __init__(self, problem: str, *, key: str) -> None:
        super().__init__(problem)
        self.next_step = f"start it again with key={key!r}, which begins no second run"
        self.key = key


class RequestRefused(OrchestratorError):
    """A client's request was refused for a reason that has no error of its own. `status` and `code`
    are those of the answer, such as 401 and `unauthenticated`."""

    def __init__(self, problem: str, *, next_step: str, status: int, code: str) -> None:
        super().__init__(problem, next_step=next_step)
        self.status = status
        self.code = code


class WaitsForItself(OrchestratorError):
    """Code within a transaction would start a run, or wait for one, that cannot go on before that
    transaction ends; nothing was done."""


class InvalidToken(OrchestratorError):
    """A token cannot be made or revoked as it was asked; nothing was changed."""


class InvalidRetention(OrchestratorError):
    """A policy of retention, or the address of an archive, that cannot be used; nothing was
    removed."""


class ArchiveUnavailable(Unavailable):
    """The archive cannot be read or written now. Nothing is removed that is not archived."""


class ArchiveNotNamed(ArchiveUnavailable):
    """What was old went to the archive at that place, and no archive is named. Nothing is removed
    until one is, or it is said that the rest is to go for good."""

    def __init__(self, place: str) -> None:
        super().__init__(f"what was old went to the archive {place}, and no archive is named now")
        self.next_step = (
            f"name it with SAGABOX_ARCHIVE={place} or --archive {place}, or write none to remove "
            "for good"
        )


class DefinitionChanged(OrchestratorError):
    """A definition has another shape than the same version had when it was first run."""


class SecondNode(OrchestratorError):
    """SQLite takes one orchestrator; several share a PostgreSQL."""
