"""The outcome of one round: a verdict for each message."""

from __future__ import annotations

from dataclasses import dataclass, field

from outbox.relay.verdicts import Bury, Pending, Settle, Verdict
from outbox.replies import Reply
from outbox.transports.base import Accepted


@dataclass
class Round:
    """The outcome of one round: the verdict to write for each message, with its answer.

    `waiting` has the keys of which a message stays: no later message of theirs may be sent.
    """

    verdicts: list[tuple[Pending, Verdict]] = field(default_factory=list)
    answers: dict[int, Reply | Accepted] = field(default_factory=dict)
    waiting: set[tuple[int, str]] = field(default_factory=set)
    stopped: bool = False

    def judge(
        self, message: Pending, verdict: Verdict, reply: Reply | Accepted | None = None
    ) -> None:
        """Note the verdict on `message`."""
        self.verdicts.append((message, verdict))
        if reply is not None:
            self.answers[message.seq] = reply
        if not isinstance(verdict, Settle | Bury):
            self.waiting.add(message.key)

    @property
    def gone(self) -> frozenset[int]:
        """The `seq` of each message that leaves the outbox."""
        return frozenset(m.seq for m, it in self.verdicts if isinstance(it, Settle | Bury))
