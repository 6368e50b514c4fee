"""Verdicts of the relay on answers, and the division of messages into requests.

Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from outbox.replacing import quick
from outbox.replies import Outcome, Reply
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.safe_text import told
from outbox.wire.envelope import Envelope

ENVELOPE_OVERHEAD = 1024
"""Bytes to reckon for the attributes of one envelope."""
_OF_ORCHESTRATORS = "orchestrator."
LONGEST_REST = 86_400
"""Seconds for which a message rests at most, however long a receiver wants that."""


@quick
@dataclass(frozen=True, slots=True)
class Pending:
    """A row of the outbox in the hands of its relay. `attempts` are its failures so far; `held`
    tells whether its key rests because of it."""

    seq: int
    bucket: int
    envelope: Envelope
    attempts: int = 0
    held: bool = False

    @property
    def key(self) -> tuple[int, str]:
        """The bucket and key, within which it keeps its order."""
        return self.bucket, self.envelope.key


def size_of(message: Pending) -> int:
    """The rough number of bytes that it takes in memory and in a request."""
    return len(message.envelope.data) + ENVELOPE_OVERHEAD


@dataclass(frozen=True, slots=True)
class Settle:
    """The verdict on a message that is answered for good: its row goes."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The verdict that its key rests for `delay` seconds. `attempts` are its failures, with this
    one if it was one."""

    attempts: int
    delay: float
    error: str


@dataclass(frozen=True, slots=True)
class Bury:
    """The verdict that it becomes a dead letter."""

    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """The verdict that it is given up, and stays the first of its key, which is blocked."""

    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The verdict that its row stays as it is, and it goes out again."""


Verdict = Settle | Hold | Bury | Block | Leave
SETTLED = Settle()


def judge(message: Pending, reply: Reply, policy: RetryPolicy, chance: float) -> Verdict:
    """The verdict on `message` by its `reply`. `chance` in [0, 1) is the jitter of a pause."""
    has_sink = message.envelope.reply_to is not None
    match reply.outcome:
        case (
            Outcome.DONE
            | Outcome.REFUSED
            | Outcome.ALREADY_UNDONE
            | Outcome.NOTHING_TO_UNDO
            | Outcome.EXPIRED
        ):
            return SETTLED
        case Outcome.TOO_OLD | Outcome.UNKNOWN:
            return SETTLED if has_sink else Bury(message.attempts, told(reply))
        case Outcome.LOCKED | Outcome.ONGOING:
            # A service that awaits the answer decides; without one, the relay can only ask again,
            # unless the receiver keeps the command, and needs no other copy of it.
            is_kept = reply.is_pending and reply.retry_after is None
            return SETTLED if has_sink or is_kept else _wait(message, reply, policy, chance)
        case Outcome.TOO_BUSY:
            return _wait(message, reply, policy, chance)
        case Outcome.NOT_ATTEMPTED:
            return Leave()
        case Outcome.FAILED:
            return failed(message, told(reply), policy, chance)
        case Outcome.REJECTED:
            # A receiver that knows the type may be on its way; wrong data stays wrong.
            if reply.code == "unknown-type":
                return failed(message, told(reply), policy, chance)
            return Bury(message.attempts + 1, told(reply))
        case _:
            assert_never(reply.outcome)


def failed(message: Pending, error: str, policy: RetryPolicy, chance: float) -> Hold | Bury:
    """The verdict after one more failure of the message itself: it rests, or is given up."""
    attempts = message.attempts + 1
    delay = policy.delay(attempts, chance)
    if delay is None:
        return Bury(attempts, f"given up after {attempts} attempts; the last: {error}")
    return Hold(attempts, delay, error)


def _wait(message: Pending, reply: Reply, policy: RetryPolicy, chance: float) -> Hold:
    """The verdict that it rests, without using up an attempt."""
    pause = policy.delay(1, chance) or policy.first
    wanted = min(reply.retry_after or 0, LONGEST_REST)
    return Hold(message.attempts, max(pause, wanted), told(reply))


def under(policy: OnExhaustion, message: Pending, verdict: Verdict) -> Verdict:
    """The verdict under that policy: what would be buried blocks its key instead. Messages of sagas
    never do: the undo or the answer that they wait for must not wait for a person unseen."""
    if not isinstance(verdict, Bury) or policy is not OnExhaustion.BLOCK_KEY:
        return verdict
    if is_of_saga(message.envelope):
        return verdict
    return Block(verdict.attempts, verdict.reason)


def is_of_saga(envelope: Envelope) -> bool:
    """Whether it is a command that awaits its answer, or a message to or from an orchestrator."""
    return envelope.reply_to is not None or envelope.type.startswith(_OF_ORCHESTRATORS)


def requests(
    messages: Iterable[Pending], *, most: int, most_bytes: int, strictly: bool = False
) -> Iterator[tuple[Pending, ...]]:
    """Cut the messages, in their order, into requests of at most `most` messages and about
    `most_bytes` bytes. A single one that is larger stands alone. `strictly` puts one message of a
    key into a request at most, since a receiver goes on after one that it rejects."""
    batch: list[Pending] = []
    keys: set[tuple[int, str]] = set()
    size = 0
    for message in messages:
        weight = size_of(message)
        is_full = len(batch) >= most or size + weight > most_bytes
        if batch and (is_full or (strictly and message.key in keys)):
            yield tuple(batch)
            batch, keys, size = [], set(), 0
        batch.append(message)
        keys.add(message.key)
        size += weight
    if batch:
        yield tuple(batch)


def streams(messages: Sequence[Pending], width: int) -> list[list[Pending]]:
    """Spread the messages over up to `width` streams that can run side by side: a key is in one
    stream only, in its order."""
    result: list[list[Pending]] = [[] for _ in range(width)]
    for message in messages:
        result[message.bucket % width].append(message)
    return [stream for stream in result if stream]
