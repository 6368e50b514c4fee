"""Answers that come later: a command was taken by its transport, or its participant says that the
answer is to come. Either way the run asks again by itself, so that no answer can be lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeVar

from orchestrator.machine.instance import Awaited, Pended, StepStatus, Wait
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import TransitionBuilder
from outbox.replacing import replace
from outbox.replies import Progress, Reply
from outbox.safe_text import fit
from outbox.wire import reply_json

S = TypeVar("S")

MAX_PAUSE = timedelta(days=1)
"""The longest pause that a participant may ask for in `retry_after`."""
ACCEPTED_FIRST_PAUSE = 60.0
"""Seconds until a command that was accepted and not answered is sent again, the first time."""
ACCEPTED_LONGEST_PAUSE = 3600.0
"""The longest such pause, after it has doubled again and again."""
PENDING_SHORTEST_PAUSE = 0.5
"""The shortest pause, in seconds, before a command is sent again whose answer comes later."""


def accepted(builder: TransitionBuilder[S], command_id: str) -> None:
    """Note that the transport took the command, unless an answer has overtaken this."""
    name = builder.instance.step_awaiting(command_id)
    if name is not None and builder.awaited(name).wait is Wait.ANSWER:
        builder.put_awaited(name, *asked_again(builder.awaited(name)))


def pended(builder: TransitionBuilder[S], name: str, reply: Reply, words: str) -> None:
    """Keep what a participant says of an answer that comes later, and ask again then, unless the
    step is stuck."""
    before, run = builder.awaited(name), builder.run(name)
    pending = told_pending(builder.moment, before, reply)
    if before.pending is None or _differ(before.pending, pending):
        builder.note_about(name, Happening.ANSWERED, words, before.id)
    after = replace(before, pending=pending)
    if run.status is StepStatus.STUCK:
        builder.put_awaited(name, after)
        return
    builder.put(name, replace(builder.run(name), reason=None))
    builder.put_awaited(name, *asked_again(after, reply.retry_after))


def told_pending(moment: datetime, awaited: Awaited, reply: Reply) -> Pended:
    """What the reply says of an answer that comes later. Where it does not say since when, that is
    `moment`, or what the last such answer said."""
    since = moment if awaited.pending is None else awaited.pending.progress.since
    progress = reply_json.progress_of(reply) or Progress(since)
    return Pended(fit(reply.reason or ""), progress)


def _differ(before: Pended, after: Pended) -> bool:
    """Whether the second says something else to a person."""
    return (before.note, before.progress.attempt) != (after.note, after.progress.attempt)


def asked_again(
    awaited: Awaited, retry_after: float | None = None
) -> tuple[Awaited, timedelta | None]:
    """The command, to be sent again where no answer comes by itself, and the pause before that:
    `retry_after`, else one that grows. None where it was accepted before, which has set the time,
    so that no second copy of an answer puts it off."""
    if retry_after is not None:
        pause = max(retry_after, PENDING_SHORTEST_PAUSE)
        return replace(awaited, wait=Wait.ACCEPTED), bounded(pause)
    if awaited.wait is Wait.ACCEPTED:
        return awaited, None
    pause = min(ACCEPTED_FIRST_PAUSE * 2.0 ** min(awaited.acceptances, 10), ACCEPTED_LONGEST_PAUSE)
    acceptances = awaited.acceptances + 1
    return replace(awaited, wait=Wait.ACCEPTED, acceptances=acceptances), bounded(pause)


def bounded(seconds: float) -> timedelta:
    """A pause of so many seconds, or the longest one."""
    return timedelta(seconds=min(seconds, MAX_PAUSE.total_seconds()))
