"""The inbox's decisions on a dictionary, in place of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from outbox.inbox.barrier import claims, conclude, decide
from outbox.inbox.retention import NOTHING_FORGOTTEN, Forgotten
from outbox.inbox.rows import DONE, Again, Answer, Arrival, Row, Run, State
from outbox.messages import Command, Message
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import fingerprint
from tests.support.outbox.inboxes import START, envelope


def arriving(id: str, message: Message, **rest: Any) -> Arrival:
    """The message as it arrives under that id; a command belongs to its saga."""
    asked = envelope(id, message, **rest)
    saga = asked.correlation if isinstance(message, Command) else None
    return Arrival(asked, message, fingerprint(asked), saga)


class Table:
    """What the inbox does with the decisions, on a dictionary. `effects` are the actions that are
    in effect; a handler answers `answer`."""

    def __init__(self, forgotten: Forgotten = NOTHING_FORGOTTEN) -> None:
        self.rows: dict[str, Row] = {}
        self.effects: list[str] = []
        self.forgotten = forgotten
        self.now = START

    def deliver(self, arrival: Arrival, answer: Reply = DONE) -> Reply:
        """Take it in; what it is answered."""
        wanted = claims([arrival])
        found = {row.id: self.rows[row.id] for row in wanted if row.id in self.rows}
        made = {
            row.id: Row(row.id, row.state, row.fingerprint, None, row.barred_by, row.saga)
            for row in wanted
            if row.id not in found
        }
        verdict = decide(arrival, found, self.forgotten, self.now)
        match verdict:
            case Answer(reply, changes, forget):
                pass
            case Again():
                raise AssertionError("nothing here calls the outside")
            case Run(undone):
                if not answer.outcome.is_final:
                    return answer
                reply, forget = answer, ()
                changes = conclude(arrival, verdict, answer)
                if answer.outcome is Outcome.DONE:
                    self._act(arrival, undone)
        self.rows |= made
        for change in changes:
            self.rows[change.id] = replace(
                self.rows[change.id],
                state=change.state,
                reply=change.reply,
                barred_by=change.barred_by,
            )
        for id in forget:
            assert id in made, "only what this transaction inserted is taken back"
            del self.rows[id]
        return reply

    def _act(self, arrival: Arrival, undone: Sequence[Row]) -> None:
        if arrival.envelope.undoes:
            for row in undone:
                self.effects.remove(row.id)
        else:
            self.effects.append(arrival.envelope.id)

    def states(self) -> dict[str, State]:
        """How each id stands."""
        return {id: row.state for id, row in self.rows.items()}
