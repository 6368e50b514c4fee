"""The completion of a pending command: what it changes, and what is to be told. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import DONE, Change, Row, State
from outbox.replies import Outcome, Reply


@dataclass(frozen=True, slots=True)
class Completion:
    """What one completion leads to: the rows to change, the ids that are pending no longer, and the
    answers to tell."""

    changes: tuple[Change, ...]
    over: tuple[str, ...]
    told: tuple[tuple[Pended, Reply], ...]


def completed(
    pended: Pended, reply: Reply, undoing: Iterable[Row], *, is_definite: bool
) -> Completion:
    """The completion by `reply`, which is DONE, REFUSED, or UNKNOWN where nothing more is to be
    waited for. `undoing` are the rows that are undoing because of it. `is_definite` says that a
    refusal means that nothing is in effect: only a call that was made for the first time can know
    that, since a handler's writes were kept.
    """
    is_refused = reply.outcome is Outcome.REFUSED
    is_sure = reply.outcome is Outcome.DONE or (is_refused and is_definite)
    changes, told = [], []
    # What is kept of a call stays as long as its success may still come.
    over = [] if pended.is_call and not is_sure else [pended.id]
    for row in undoing:
        late = None if row.pended is None else row.pended.late_reply
        if late is not None and late.outcome is Outcome.DONE and row.success is None:
            # It took effect while it was undone, so it is to be undone once more.
            assert row.pended is not None
            changes.append(Change(row.id, State.RAN, late))
            told.append((row.pended, late))
            over.append(row.id)
        elif reply.outcome is Outcome.DONE:
            changes.append(Change(row.id, State.UNDONE, row.reply, pended.id))
            if row.is_over_once_undone:
                over.append(row.id)
        elif row.success is not None:
            # `after` is still to write it.
            changes.append(Change(row.id, State.PENDING, None))
        else:
            is_open = row.pended is not None and row.reply is None
            was = State.PENDING if is_open else State.RAN
            # Its undo may yet say that it took effect, but not of what happens from now on.
            by = pended.id if reply.outcome is Outcome.UNKNOWN else None
            changes.append(Change(row.id, was, row.reply, by))
    if is_refused and not pended.undoes and not is_definite:
        reply = replace(reply, after_pending=True)
        own = Change(pended.id, State.RAN, reply)
    elif is_refused:
        own = Change(pended.id, State.REFUSED, reply)
    else:
        own = Change(pended.id, State.RAN, None if reply == DONE else reply)
    return Completion((own, *changes), tuple(over), ((pended, reply), *told))
