"""Trials of batches: the order of each key, and failures in the middle."""

from __future__ import annotations

from orchestrator.testing.conforming.conversation import Conversation
from orchestrator.testing.conforming.trial import Trials

trials = Trials("Batches and order")


@trials()
async def mixed_keys(it: Conversation) -> None:
    """The messages of each key take effect in their order."""
    accounts = [it.account() for _ in range(4)]
    adds = [it.add(account, number + 1) for number in range(5) for account in accounts]
    replies = await it.answers(adds, *["done"] * len(adds))
    for position, account in enumerate(accounts):
        await it.has(account, *adds[position :: len(accounts)])
    last = replies[-len(accounts) :]
    for reply in last:
        it.same(last[0], reply)


@trials()
async def partial_failure(it: Conversation) -> None:
    """After a failure the rest of its key is not attempted, and other keys go on."""
    account, other, gate = it.account(), it.account(), it.account()
    before, after, beside = it.add(account), it.add(account), it.add(other)
    fails = it.command("fail", account, amount=10, gate=gate)
    expected = "done", "failed", "done", "not-attempted"
    await it.answers([before, fails, beside, after], *expected)
    await it.has(account, before)
    await it.has(other, beside)
    # A failure is not kept: the handler is called again.
    await it.answers([fails, after], "failed", "not-attempted")
    await it.has(account, before)
    await it.answers([it.add(gate)], "done")
    await it.answers([fails, after], "done", "done")
    await it.has(account, before, fails, after)


@trials()
async def locked(it: Conversation) -> None:
    """A lock changes nothing, is not kept, and holds its key."""
    account, gate = it.account(), it.account()
    busy, after = it.command("busy", account, amount=1, gate=gate), it.add(account)
    await it.answers([busy, after], "locked", "not-attempted")
    await it.has(account)
    await it.answers([it.add(gate)], "done")
    (first, _) = await it.answers([busy, after], "done", "done")
    (again,) = await it.answers([busy], "done")
    it.same(first, again)
    await it.has(account, busy, after)


@trials(section="Undo")
async def undo_passes_a_failure(it: Conversation) -> None:
    """An undo passes a failure of its key."""
    account = it.account()
    add = it.add(account)
    fails = it.command("fail", account, amount=1, gate=it.account())
    await it.answers([add], "done")
    await it.answers([fails, it.undo(add)], "failed", "done")
    await it.has(account)
    await it.answers([it.undo(fails)], "nothing-to-undo")
    await it.answers([fails], "already-undone")


@trials(section="Expiry")
async def expired(it: Conversation) -> None:
    """An action after its expiry never runs; the sender's word on it counts."""
    account = it.account()
    over = it.at(it.now().replace(year=2020))
    late = it.add(account).but("that has expired", expirytime=over, expiresin="0")
    (first,) = await it.answers([late], "expired")
    await it.has(account)
    again = late.but("and comes again without", expirytime=None, expiresin=None)
    (reply,) = await it.answers([again], "expired or already-undone")
    if reply.outcome is first.outcome:
        it.same(first, reply)
    fresh = it.add(account).but("by a clock behind", expirytime=over, expiresin="60000")
    await it.answers([fresh], "done")
    alone = it.add(account).but("with expirytime alone", expirytime=over)
    await it.answers([alone], "expired")
    # What ran is answered as it was, whenever its copy comes.
    copy = fresh.but("again, after its expiry", expiresin="-1")
    await it.answers([copy], "done")
    await it.answers([it.undo(late)], "nothing-to-undo")
    await it.has(account, fresh)
