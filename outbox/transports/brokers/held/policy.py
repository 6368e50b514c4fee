"""What becomes of a held message, by its reply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from outbox.replies import Outcome, Reply
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.safe_text import told
from outbox.transports.brokers.held.rows import HeldRow, State

LONGEST_REST = 86_400
"""Seconds for which a message rests at most, however long a handler wants that."""


@dataclass(frozen=True)
class HeldPolicy:
    """How held messages are tried again. `retry` has the pauses, and how many failures are too
    many; those before a message was held count too."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    on_exhaustion: OnExhaustion = OnExhaustion.DEAD_LETTER_AND_CONTINUE


@dataclass(frozen=True, slots=True)
class Gone:
    """The verdict on a message that is answered: its row goes."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The verdict that it is tried again in `delay` seconds. `attempts` are its failures, with this
    one if it was one."""

    attempts: int
    delay: float
    error: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The verdict that it is given up, in that state. `must_tell` says that its saga does not know
    it yet."""

    state: State
    attempts: int
    reason: str
    must_tell: bool


@dataclass(frozen=True, slots=True)
class Behind:
    """The verdict on a message that was not tried, since an earlier one comes first."""


Verdict = Gone | Rest | GiveUp | Behind
GONE = Gone()
BEHIND = Behind()


def judge(row: HeldRow, reply: Reply, policy: HeldPolicy, chance: float) -> Verdict:
    """The verdict on the message of that row by its reply. `chance` in [0, 1) is the jitter of a
    pause."""
    is_awaited = row.saga is not None
    match reply.outcome:
        case (
            Outcome.DONE
            | Outcome.REFUSED
            | Outcome.ALREADY_UNDONE
            | Outcome.NOTHING_TO_UNDO
            | Outcome.EXPIRED
        ):
            return GONE
        case Outcome.TOO_OLD | Outcome.UNKNOWN:
            # Its saga was told, as of every definite answer.
            return GONE if is_awaited else _given_up(row, row.attempts, told(reply), policy)
        case Outcome.LOCKED | Outcome.ONGOING:
            # A saga that is told so asks again under the same id.
            is_kept = reply.is_pending and reply.retry_after is None
            return GONE if is_awaited or is_kept else _wait(row, reply, policy, chance)
        case Outcome.TOO_BUSY:
            return _wait(row, reply, policy, chance)
        case Outcome.NOT_ATTEMPTED:
            return BEHIND
        case Outcome.FAILED:
            return _failed(row, told(reply), policy, chance)
        case Outcome.REJECTED:
            # The code that knows the type may be on its way; wrong data stays wrong.
            if reply.code == "unknown-type":
                return _failed(row, told(reply), policy, chance)
            attempts = row.attempts + 1
            return _given_up(row, attempts, told(reply), policy, was_told=True)
        case _:
            assert_never(reply.outcome)


def exhausted(row: HeldRow, policy: HeldPolicy) -> GiveUp | None:
    """The verdict on a message that has used up its attempts without an answer to the last, as one
    that ends its process each time; None where it is to be tried."""
    if row.attempts < policy.retry.attempts:
        return None
    return _too_often(row, row.attempts, row.last_error, policy)


def raised(row: HeldRow, error: str, policy: HeldPolicy, chance: float) -> Rest | GiveUp:
    """The verdict on a message for which the inbox raised, though no database was in trouble."""
    return _failed(row, error, policy, chance)


def unreadable(row: HeldRow, error: str) -> GiveUp:
    """The verdict on a row without a message that can be read."""
    return GiveUp(State.DEAD, row.attempts + 1, error, must_tell=False)


def _failed(row: HeldRow, error: str, policy: HeldPolicy, chance: float) -> Rest | GiveUp:
    attempts = row.attempts + 1
    delay = policy.retry.delay(attempts, chance)
    if delay is None:
        return _too_often(row, attempts, error, policy)
    return Rest(attempts, delay, error)


def _wait(row: HeldRow, reply: Reply, policy: HeldPolicy, chance: float) -> Rest:
    """The verdict that it rests, without using up an attempt."""
    pause = policy.retry.delay(1, chance) or policy.retry.first
    wanted = min(reply.retry_after or 0, LONGEST_REST)
    return Rest(row.attempts, max(pause, wanted), told(reply))


def _too_often(row: HeldRow, attempts: int, error: str, policy: HeldPolicy) -> GiveUp:
    reason = f"given up after {attempts} attempts; the last: {error}"
    return _given_up(row, attempts, reason, policy)


def _given_up(
    row: HeldRow, attempts: int, reason: str, policy: HeldPolicy, *, was_told: bool = False
) -> GiveUp:
    if row.saga is not None:
        return GiveUp(State.DEAD, attempts, reason, must_tell=not was_told)
    blocks = policy.on_exhaustion is OnExhaustion.BLOCK_KEY
    return GiveUp(State.BLOCKED if blocks else State.DEAD, attempts, reason, must_tell=False)
