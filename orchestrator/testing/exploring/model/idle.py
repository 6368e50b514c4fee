"""Which messages neither now nor ever change anything: whether they come is no matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.machine.signals import Buried, Replied
from orchestrator.testing.exploring.model.orchestrating import Orchestrating
from orchestrator.testing.exploring.model.participating import Participating
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.rows import Answer
from orchestrator.testing.exploring.model.values import Message, Numbers, Sent
from outbox.replies import PENDING, Outcome, Reply
from outbox.wire import reply_json


def replied(message: Message, sent: Sent, replies: Mapping[str, Sequence[Any]]) -> Replied:
    """The answer as it comes to the orchestrator, with the value that `replies` has for it."""
    answer = message.answer
    assert answer is not None
    if sent.dispatch.is_void and answer.outcome is Outcome.DONE:
        values = replies[sent.dispatch.step]
        told = {
            id: {"state": state}
            | ({"reply": reply_json.value_of(_reply(its, values))} if its else {})
            for id, state, its in answer.told
        }
        return Replied(message.command_id, Reply(Outcome.DONE, told), _source(message, sent))
    values = () if sent.dispatch.undoes else replies[sent.dispatch.step]
    return Replied(message.command_id, _reply(answer, values), _source(message, sent))


def _reply(answer: Answer, values: Sequence[Any]) -> Reply:
    is_refused = answer.outcome is Outcome.REFUSED
    return Reply(
        answer.outcome,
        values[answer.choice] if answer.outcome is Outcome.DONE and values else None,
        code=PENDING if answer.later and not is_refused else None,
        after_pending=answer.later and is_refused,
    )


def buried(message: Message, sent: Sent) -> Buried | Replied:
    """The burial as it comes to the orchestrator: from its relay; from the consumer, as a message,
    where the way had accepted the command."""
    if message.accepted:
        return Replied(message.command_id, Reply(Outcome.REJECTED), _source(message, sent))
    return Buried(message.command_id, "-")


def _source(message: Message, sent: Sent) -> str | None:
    return sent.dispatch.participant if message.accepted else None


class Idle:
    """Remembers what it was asked before."""

    def __init__(
        self,
        messages: Numbers[Message],
        orchestrating: Orchestrating,
        participating: Participating,
        replies: Mapping[str, Sequence[Any]],
    ) -> None:
        self._messages = messages
        self._orchestrating = orchestrating
        self._participating = participating
        self._replies = replies
        self._known: dict[tuple[int, int], bool] = {}

    def is_idle(self, engine: int, participant: int, number: int) -> bool:
        """Whether that message is idle, the orchestrator and the participants being like this."""
        if self._messages.values[number].answer is not None:
            return self._is_idle_answer(engine, number)
        # An id that the inbox knows is known for ever, so the command changes nothing there. Its
        # answer is the stored one, which changes at most from DONE, or from REFUSED after it was
        # pending, to ALREADY_UNDONE, and only for an action, whose DONE is not idle before the end.
        # So where that answer is idle, it is.
        answered = self._participating.stored_answer(participant, number)
        return answered >= 0 and self._is_idle_answer(engine, answered)

    def _is_idle_answer(self, engine: int, number: int) -> bool:
        """After the end no answer changes anything. Before it, one to a command that is not
        awaited does not, and no id is ever awaited again; except an action's success, which may
        yet turn out to be late. That nothing changes now is asked of the machine itself."""
        key = (engine, number)
        if key not in self._known:
            message, sent = self._message(number)
            instance = self._orchestrating.instances[engine]
            assert message.answer is not None
            is_success = message.answer.outcome is Outcome.DONE and not sent.dispatch.undoes
            is_idle = instance.ended is not None or (
                not is_success and instance.step_awaiting(message.command_id) is None
            )
            if is_idle:
                signal = replied(message, sent, self._replies)
                try:
                    is_idle = self._orchestrating.advance(engine, number, signal) == (engine, ())
                except Broken:
                    is_idle = False
            self._known[key] = is_idle
        return self._known[key]

    def _message(self, number: int) -> tuple[Message, Sent]:
        message = self._messages.values[number]
        return message, self._orchestrating.sent[message.command_id]
