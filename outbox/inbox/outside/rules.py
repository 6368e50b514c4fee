"""The rules of a call to the outside: when it may be made, and when its result counts.

Pure: from what is kept of the call to what is to be kept next, or to an answer. A call is *in
doubt* once it ended without an answer, so that its effect may be there or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import DONE, Row, State
from outbox.replies import Outcome, Reply

START_WITHIN = timedelta(seconds=5)
"""The time from the transaction that stores a call to its beginning; after it, it is not made."""

MARGIN = 2 * START_WITHIN
"""The time that a call has beside its own: for its beginning, and for the transaction that writes
its result. Clocks of machines that share a SQLite file may differ by half of it."""

LONGEST_PAUSE = 60.0

_NOT_AWAITED = Reply(
    Outcome.ONGOING,
    code="ongoing",
    reason="its call is another process's by now, or was undone",
    retry_after=1.0,
)


@dataclass(frozen=True, slots=True)
class Promise:
    """What holds of each call: its end after `timeout`; and, where the provider honours the `keyed`
    ones, that within `key_valid_for` of the first one a repetition under the same key has no second
    effect.

    A `repeatable` one may be made again at any time, although its refusal then tells nothing of an
    earlier attempt. One that `only_reads` leaves no doubt behind."""

    timeout: timedelta
    keyed: bool
    key_valid_for: timedelta
    repeatable: bool = False
    only_reads: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a call: only its `holder` makes it."""

    holder: str | None
    number: int

    @classmethod
    def of(cls, pended: Pended) -> Attempt:
        """The last one that was begun."""
        return cls(pended.holder, pended.attempt)


def begun(pended: Pended, promise: Promise, holder: str) -> Pended:
    """The first attempt of a call, which begins now."""
    return _next(pended, promise, holder, is_in_doubt=False)


def begun_again(pended: Pended, promise: Promise, holder: str) -> Pended | Reply:
    """The next attempt of a call whose last one is over; an answer where it may not be made."""
    # Its holder would be gone from here if nothing had happened: the call may have had its effect.
    was_cut = pended.holder is not None and not promise.only_reads
    is_in_doubt = pended.is_in_doubt or was_cut
    why = _why_unknown(pended, promise) if is_in_doubt else None
    if why is not None:
        return _unknown(pended, why)
    return _next(pended, promise, holder, is_in_doubt)


def failed(pended: Pended, error: str, *, only_reads: bool = False) -> Pended:
    """What is kept after an attempt that ended without an answer. Its holder stays known, since the
    answer may still come."""
    is_in_doubt = pended.is_in_doubt or not only_reads
    return replace(pended, until=pended.read_at, is_in_doubt=is_in_doubt, last_error=error)


def goes_on(pended: Pended, kept: str, note: str) -> Pended:
    """What is kept after an attempt that learned that the provider works on it, and asks again with
    `kept` (JSON) as what was stored before the call."""
    return replace(
        pended, until=pended.read_at, holder=None, before=kept, note=note, last_error=None
    )


def not_made(pended: Pended) -> Pended:
    """What is kept after an attempt in which definitely nothing happened."""
    return replace(pended, until=pended.read_at, holder=None)


def answers_later(pended: Pended, reply: Reply) -> Pended:
    """What is kept after a call whose answer comes on a way of its own (a reply as `reply_of` makes
    it of Pending): it is no call any more."""
    expect = None if reply.value is None else pended.read_at + timedelta(seconds=reply.value)
    return replace(
        pended,
        attempt=0,
        holder=None,
        until=None,
        is_in_doubt=False,
        last_error=None,
        note=reply.reason or "",
        expected_at=expect,
    )


def kept_for_after(pended: Pended, reply: Reply, why: str) -> Pended:
    """What is kept after a result that could not be written, and why: nothing is called again, and
    `after` is tried when the command is asked for."""
    return replace(
        pended,
        until=pended.read_at,
        holder=None,
        late_reply=reply,
        last_error=f"its result is known, and cannot be written: {why}",
    )


def fits(pended: Pended, attempt: Attempt) -> bool:
    """Whether a pending command awaits the result of that attempt."""
    return Attempt.of(pended) == attempt


def counts(pended: Pended, promise: Promise, reply: Reply) -> bool:
    """Whether the provider's answer to the last attempt says what became of the call. A refusal of
    a repetition does not, where the provider may have carried out an earlier attempt, and does not
    know its key any more. One that only reads tells of what was sent under a valid key."""
    if reply.outcome is not Outcome.REFUSED or pended.attempt == 1 or not pended.is_in_doubt:
        return True
    is_valid = promise.only_reads or pended.read_at - pended.since <= promise.key_valid_for
    return promise.keyed and is_valid


def answer_after_failure(pended: Pended, promise: Promise) -> Reply:
    """The answer while the last attempt is over without an answer: when to ask for the next one, or
    that there will be none."""
    why = _why_unknown(pended, promise) if pended.is_in_doubt else None
    if why is not None:
        return _unknown(pended, why)
    return replace(pended.reply(), retry_after=pause(pended.attempt))


def answer_where_not_awaited(row: Row | None) -> Reply:
    """What a delivery that still waits is answered where the result is not awaited any more."""
    if row is not None and row.state in (State.RAN, State.REFUSED):
        return row.reply or DONE
    return _NOT_AWAITED


def pause(attempt: int) -> float:
    """Seconds between the failure of that attempt and the next one."""
    return min(LONGEST_PAUSE, 2.0 ** min(attempt - 1, 10))


def _next(pended: Pended, promise: Promise, holder: str, is_in_doubt: bool) -> Pended:
    return replace(
        pended,
        attempt=pended.attempt + 1,
        holder=holder,
        until=pended.read_at + promise.timeout + MARGIN,
        is_in_doubt=is_in_doubt,
    )


def _why_unknown(pended: Pended, promise: Promise) -> str | None:
    """Why a call that is in doubt may not be made again."""
    if promise.repeatable or promise.only_reads:
        return None
    if not promise.keyed:
        return "the provider is not said to honour a key, so that it might carry it out twice"
    # The end of a key may be beyond any date.
    ends = pended.read_at + START_WITHIN + promise.timeout
    if ends - pended.since > promise.key_valid_for:
        key_ends = pended.since + promise.key_valid_for
        return f"the provider honours its key until {key_ends.isoformat()} only"
    return None


def _unknown(pended: Pended, why: str) -> Reply:
    last = pended.last_error or "the process that made it ended, or was too slow"
    reason = f"its call ended without an answer ({last}), and is not made again: {why}"
    return Reply(Outcome.UNKNOWN, code="unknown", reason=reason)
