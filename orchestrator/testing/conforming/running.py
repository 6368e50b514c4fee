"""All trials of a participant, one after the other, and how each of them ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from orchestrator.testing.conforming.conversation import (
    Conversation,
    Restart,
    replies_in,
    worded,
)
from orchestrator.testing.conforming.line import Line
from orchestrator.testing.conforming.trial import Broken, Ending, Result, Skipped, Trial
from orchestrator.testing.conforming.trials import (
    batches,
    duplicates,
    later,
    requests,
    restarting,
    signatures,
    undoing,
)
from outbox.replies import Outcome
from outbox.transports.http.posting import NoAnswer

TRIALS: tuple[Trial, ...] = tuple(
    trial
    for module in (requests, signatures, duplicates, batches, undoing, later, restarting)
    for trial in module.trials.all
)
"""All trials, in the order in which they are made."""


class NoParticipant(Exception):
    """There is no participant to try at that address. `is_silent` says that nothing answers."""

    def __init__(self, happened: str, why: str, next_step: str, *, is_silent: bool) -> None:
        super().__init__(happened)
        self.happened = happened
        self.why = why
        self.next_step = next_step
        self.is_silent = is_silent


async def greet(line: Line) -> None:
    """One command that changes nothing. Raises NoParticipant where it shows that no trial makes
    sense."""
    it = Conversation(line, None)
    read = it.command("read", it.account())
    answer = await it.post([read])
    if isinstance(answer, NoAnswer):
        raise NoParticipant(
            f"{line.url} gives no answer",
            answer.reason,
            "look into the participant's log; docs/reference/wire.md, The answer to a request"
            if answer.sent
            else "start the participant, and give the address below which it has /messages",
            is_silent=True,
        )
    next_steps = {
        401: f"let both have the same SAGABOX_SECRETS, and the participant the name {line.to!r} "
        "(--to), and set both clocks",
        404: "give the address below which the participant has POST /messages",
        405: "let the participant take POST at /messages",
    }
    try:
        (reply,) = replies_in(answer, [read.id])
    except Broken as broken:
        step = next_steps.get(answer.status, "see docs/reference/wire.md, Replies")
        if 300 <= answer.status < 400:
            step = "give the address that it leads to; a sender follows no redirect"
        raise NoParticipant(
            f"{line.url} does not answer as a participant does",
            f"{broken.came}; expected: {broken.expected}",
            step,
            is_silent=False,
        ) from None
    if reply.outcome is not Outcome.DONE:
        raise NoParticipant(
            f"{line.url} does not take the trial commands",
            f"conform.read.v1 is answered {worded(reply)}",
            "let it offer them: docs/reference/wire.md, The trial commands",
            is_silent=False,
        )


async def conform(
    line: Line, *, restart: Restart | None, only: Collection[str] = ()
) -> AsyncIterator[Result]:
    """The results, in the order of TRIALS; with `only`, of the trials with these names. Once the
    participant answers no more, the rest is skipped."""
    gone = ""
    for trial in TRIALS:
        if only and trial.name not in only:
            continue
        if gone:
            yield Result(trial, Ending.SKIPPED, why=gone)
            continue
        result = await _made(trial, Conversation(line, restart))
        if result.ending is Ending.FAILED and await _is_gone(line):
            gone = f"the participant answers no more since {trial.name}"
        yield result


async def _made(trial: Trial, it: Conversation) -> Result:
    try:
        await trial.run(it)
    except Skipped as skipped:
        return Result(trial, Ending.SKIPPED, why=str(skipped))
    except Broken as broken:
        return Result(trial, Ending.FAILED, it.told, broken.came, broken.expected)
    return Result(trial, Ending.PASSED)


async def _is_gone(line: Line) -> bool:
    it = Conversation(line, None)
    answer = await it.post([it.command("read", it.account())])
    return isinstance(answer, NoAnswer)
