"""Trials of answers that come later."""

from __future__ import annotations

from orchestrator.testing.conforming.conversation import Conversation, worded
from orchestrator.testing.conforming.messages import Sent
from orchestrator.testing.conforming.trial import Broken, Trials
from outbox.replies import Outcome, Reply

trials = Trials("Answers that come later")

_RACES = 6


def complete(it: Conversation, action: Sent, outcome: str) -> Sent:
    """The command that completes that one."""
    return it.command(
        "complete",
        action.account,
        f"completion of {action.name} as {outcome}",
        command=action.id,
        outcome=outcome,
    )


@trials()
async def pending(it: Conversation) -> None:
    """A pending command keeps its effect, and gets its answer later."""
    account = it.account()
    later, after = it.command("later", account, amount=5), it.add(account)
    # It holds nothing: what comes after it in its key goes on.
    replies = await it.answers([later, after], "ongoing/pending", "done")
    _has_time(replies[0])
    await it.has(account, later, after)
    await it.answers([later], "ongoing/pending")
    await it.answers([complete(it, later, "done")], "done")
    (done,) = await it.answers([later], "done")
    if not isinstance(done.value, dict) or "balance" not in done.value:
        raise Broken(worded(done), "done with the value of the completion")
    it.same(done, (await it.answers([later], "done"))[0])
    await it.answers([complete(it, later, "done")], "done")
    await it.answers([complete(it, later, "refused")], "refused/already-answered")
    await it.has(account, later, after)
    await it.answers([it.undo(later)], "done")
    await it.has(account, after)


@trials()
async def refused_after_pending(it: Conversation) -> None:
    """A pending command that is refused says that it was pending."""
    account = it.account()
    later = it.command("later", account, amount=5)
    await it.answers([later], "ongoing/pending")
    await it.answers([complete(it, later, "refused")], "done")
    for _ in range(2):
        (reply,) = await it.answers([later], "refused/no")
        if not reply.after_pending:
            raise Broken(f"{worded(reply)} without after_pending", "refused, with after_pending")
    await it.has(account)
    # Its handler's writes were kept once: for the barrier it ran.
    await it.answers([it.undo(later)], "done")
    await it.answers([later], "already-undone")
    await it.has(account)


@trials()
async def undo_of_pending(it: Conversation) -> None:
    """An undo ends the waiting, and a completion comes too late."""
    account = it.account()
    later, never = it.command("later", account, amount=5), it.command("later", account, amount=6)
    await it.answers([later], "ongoing/pending")
    await it.answers([it.undo(later)], "done")
    await it.has(account)
    await it.answers([complete(it, later, "done")], "refused/too-late")
    await it.answers([later], "already-undone")
    await it.answers([complete(it, never, "done")], "refused/not-pending")
    await it.answers([it.undo(never)], "nothing-to-undo")
    await it.answers([never], "already-undone")
    await it.has(account)


@trials()
async def completion_races(it: Conversation) -> None:
    """A completion and an undo that race leave nothing."""
    account = it.account()
    for _ in range(_RACES):
        later = it.command("later", account, amount=5)
        await it.answers([later], "ongoing/pending")
        (undone,), (completed,) = await it.together(
            it.until_answered([it.undo(later)]), it.until_answered([complete(it, later, "done")])
        )
        if undone.outcome is not Outcome.DONE:
            raise Broken(f"undo: {worded(undone)}", "undo: done")
        if completed.outcome is not Outcome.DONE and completed.code != "too-late":
            raise Broken(
                f"completion: {worded(completed)}", "completion: done, or refused/too-late"
            )
        await it.answers([later], "already-undone")
    await it.has(account)


@trials(section="Void")
async def void_of_pending(it: Conversation) -> None:
    """A void of a pending command bars it."""
    account = it.account()
    later = it.command("later", account, amount=5)
    await it.answers([later], "ongoing/pending")
    (told,) = await it.answers([it.void(later)], "done")
    if told.value != {later.id: {"state": "pending"}}:
        raise Broken(worded(told), f"the value {{{later.id!r}: {{'state': 'pending'}}}}")
    await it.answers([complete(it, later, "done")], "refused/too-late")
    await it.answers([later], "already-undone")


def _has_time(reply: Reply) -> None:
    value = reply.value
    is_told = isinstance(value, dict) and isinstance(value.get("since"), str)
    if reply.retry_after is None and not is_told:
        raise Broken(worded(reply), "a retry_after, or a value with since, or both")
