"""What `Void` makes of the commands that it names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outbox.inbox.pending.completion import completed
from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import DONE, Answer, Arrival, Change, Row, State
from outbox.replies import Outcome, Reply
from outbox.wire import reply_json

_VOIDED = Reply(Outcome.UNKNOWN, code="unknown", reason="its sender waits for its answer no longer")
_IN_DOUBT = Reply(
    Outcome.UNKNOWN,
    code="unknown",
    reason="it was barred after a call without an answer, which may have had its effect",
)


def void(arrival: Arrival, found: Mapping[str, Row]) -> Answer:
    """What became of the commands that are to run no more: those that are pending are barred, and
    stay in doubt where a call was made. What a pending undo has made `undoing` becomes what it was;
    `found` has these rows, too."""
    envelope = arrival.envelope
    value = {named: _told(found.get(named)) for named in arrival.names}
    reply = Reply(Outcome.DONE, value=value)
    changes = [Change(envelope.id, State.RAN, reply)]
    over: list[str] = []
    told: list[tuple[Pended, Reply]] = []
    for named in arrival.names:
        row = found.get(named)
        if row is None or row.state is not State.PENDING:
            continue
        in_doubt = row.pended is not None and row.pended.is_call
        changes.append(Change(row.id, State.BARRED, _IN_DOUBT if in_doubt else None, envelope.id))
        if row.pended is None:
            continue
        undoing = [
            it for it in found.values() if it.state is State.UNDOING and it.barred_by == row.id
        ]
        completion = completed(row.pended, _VOIDED, undoing, is_definite=True)
        changes += [it for it in completion.changes if it.id != row.id]
        over += completion.over
        told += [it for it in completion.told if it[0] is not row.pended]
    return Answer(reply, tuple(changes), over=tuple(over), told=tuple(told))


def _told(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {"state": "absent"}
    if row.state is State.RAN:
        return {"state": row.state.value, "reply": reply_json.value_of(row.reply or DONE)}
    return {"state": row.state.value}
