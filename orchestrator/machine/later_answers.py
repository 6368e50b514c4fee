"""Answers that come later: a command was taken by its transport, or its participant says that the
answer is to come. Either way the run asks again by itself, so that no answer can be lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from orchestrator.machine.instance import Awaited, Pended, StepStatus, Wait
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import TransitionBuilder
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
    if name is None or builder.awaited(name).wait is not Wait.ANSWER:
        return
    _ask_again(builder, name)


def pended(builder: TransitionBuilder[S], name: str, reply: Reply, words: str) -> None:
    """Keep what a participant says of an answer that comes later, and ask again then, unless the
    step is stuck. Where the command has been accepted, that has set the time, and a second copy of
    this must not put it off."""
    before, run = builder.awaited(name), builder.run(name)
    pending = _told_pending(builder, before, reply)
    builder.put_awaited(name, replace(before, pending=pending))
    if before.pending is None or _differ(before.pending, pending):
        builder.note_about(name, Happening.ANSWERED, words, before.id)
    if run.status is StepStatus.STUCK:
        return
    builder.put(name, replace(builder.run(name), reason=None))
    if reply.retry_after is not None:
        builder.wait(name, Wait.ACCEPTED, bounded(max(reply.retry_after, PENDING_SHORTEST_PAUSE)))
    elif before.wait is not Wait.ACCEPTED:
        _ask_again(builder, name)


def _told_pending(builder: TransitionBuilder[S], awaited: Awaited, reply: Reply) -> Pended:
    since = builder.moment if awaited.pending is None else awaited.pending.progress.since
    progress = reply_json.progress_of(reply) or Progress(since)
    return Pended(fit(reply.reason or ""), progress)


def _differ(before: Pended, after: Pended) -> bool:
    """Whether the second says something else to a person."""
    return (before.note, before.progress.attempt) != (after.note, after.progress.attempt)


def _ask_again(builder: TransitionBuilder[S], name: str) -> None:
    """Send the command again where no answer comes by itself, after a pause that grows."""
    awaited = builder.awaited(name)
    seconds = ACCEPTED_FIRST_PAUSE * 2.0 ** min(awaited.acceptances, 10)
    builder.put_awaited(name, replace(awaited, acceptances=awaited.acceptances + 1))
    builder.wait(name, Wait.ACCEPTED, bounded(min(seconds, ACCEPTED_LONGEST_PAUSE)))


def bounded(seconds: float) -> timedelta:
    """A pause of so many seconds, or the longest one."""
    return timedelta(seconds=min(seconds, MAX_PAUSE.total_seconds()))
