"""Trials of the barrier: an action and its undo never both stay in effect."""

from __future__ import annotations

from orchestrator.testing.conforming.conversation import Conversation
from orchestrator.testing.conforming.trial import Broken, Trials

trials = Trials("Undo")

_RACES = 12


@trials()
async def undo(it: Conversation) -> None:
    """An undo takes its action back, once, and the action never runs again."""
    account = it.account()
    other, add = it.add(account), it.add(account)
    await it.answers([other, add], "done", "done")
    undo = it.undo(add)
    (first,) = await it.answers([undo], "done")
    await it.has(account, other)
    (again,) = await it.answers([undo], "done")
    it.same(first, again)
    await it.answers([add], "already-undone")
    await it.answers([it.undo(add)], "nothing-to-undo")
    await it.has(account, other)


@trials()
async def undo_before_action(it: Conversation) -> None:
    """An undo that comes first bars its action for ever."""
    account = it.account()
    add = it.add(account)
    undo = it.undo(add)
    await it.answers([undo], "nothing-to-undo")
    await it.answers([add], "already-undone")
    await it.answers([add], "already-undone")
    await it.answers([undo], "nothing-to-undo")
    # A second undo must not take the barred action for one that ran.
    await it.answers([it.undo(add)], "nothing-to-undo")
    await it.has(account)


@trials()
async def undo_of_a_refusal(it: Conversation) -> None:
    """An undo of a refused action undoes nothing."""
    account = it.account()
    refused = it.command("refuse", account, amount=1)
    await it.answers([refused], "refused/no")
    await it.answers([it.undo(refused)], "nothing-to-undo")
    await it.answers([refused], "refused/no")
    await it.has(account)


@trials()
async def undo_of_several(it: Conversation) -> None:
    """An undo of several attempts undoes those that ran, and bars the others."""
    account = it.account()
    ran, never = it.add(account), it.add(account)
    await it.answers([ran], "done")
    await it.answers([it.undo(never, ran)], "done")
    await it.answers([never], "already-undone")
    await it.answers([ran], "already-undone")
    await it.has(account)


@trials()
async def undo_in_one_batch(it: Conversation) -> None:
    """An action and its undo in one batch leave nothing, in either order."""
    account = it.account()
    add = it.add(account)
    replies = await it.replies([add, it.undo(add)], ["done or already-undone", ""])
    _leaves_nothing(replies[0].outcome.value, replies[1].outcome.value)
    await it.has(account)
    late = it.add(account)
    replies = await it.replies([it.undo(late), late], ["", "done or already-undone"])
    _leaves_nothing(replies[1].outcome.value, replies[0].outcome.value)
    await it.has(account)
    await it.answers([late], "already-undone")


@trials()
async def undo_races(it: Conversation) -> None:
    """An action and its undo that race leave nothing."""
    account = it.account()
    for number in range(_RACES):
        add = it.add(account)
        both = [add, it.undo(add)] if number % 2 else [it.undo(add), add]
        replies = await it.together(*(it.until_answered([each]) for each in both))
        words = {sent.id: reply.outcome.value for sent, (reply,) in zip(both, replies, strict=True)}
        _leaves_nothing(words.pop(add.id), *words.values())
    await it.has(account)


@trials()
async def undo_of_another_run(it: Conversation) -> None:
    """A run cannot undo what another run did."""
    account = it.account()
    add = it.add(account)
    await it.answers([add], "done")
    foreign = it.undo(add).but("by another run", correlationid=it.new_id(), runnumber=None)
    await it.answers([foreign], "rejected/conflict")
    await it.has(account, add)
    await it.answers([add], "done")
    await it.answers([it.undo(add)], "done")
    await it.has(account)


@trials()
async def odd_undos(it: Conversation) -> None:
    """An undo that cannot be one is rejected."""
    add = it.add(it.account())
    itself = it.undo(add)
    itself = itself.but("of itself", undoes=itself.id)
    many = it.undo(add).but("of 501", undoes=" ".join(it.new_id() for _ in range(501)))
    await it.answers([itself, many], "rejected/invalid", "rejected/invalid")
    await it.answers([add], "done")


@trials(section="Expiry")
async def undo_after_its_time(it: Conversation) -> None:
    """An undo never expires."""
    add = it.add(it.account())
    await it.answers([add], "done")
    over = it.at(it.now().replace(year=2020))
    undo = it.undo(add).but("that is late", expirytime=over, expiresin="-1")
    await it.answers([undo], "done")
    await it.has(add.account)


@trials(section="Void")
async def void(it: Conversation) -> None:
    """A void bars what never came, and tells what ran."""
    account = it.account()
    ran, refused, absent = it.add(account), it.command("refuse", account, amount=1), it.add(account)
    done, no = await it.answers([ran, refused], "done", "refused/no")
    sent = it.void(ran, refused, absent)
    (first,) = await it.answers([sent], "done")
    expected = {
        ran.id: {"state": "ran", "reply": {"outcome": "done", "value": done.value}},
        refused.id: {"state": "refused"},
        absent.id: {"state": "absent"},
    }
    found = first.value if isinstance(first.value, dict) else {}
    for action in (ran, refused, absent):
        told = found.get(action.id)
        if told != expected[action.id]:
            raise Broken(f"of {action.name}: {told}", f"of {action.name}: {expected[action.id]}")
    it.same(first, (await it.answers([sent], "done"))[0])
    await it.answers([absent], "already-undone")
    await it.answers([ran], "done")
    it.same(no, (await it.answers([refused], "refused/no"))[0])
    await it.has(account, ran)


def _leaves_nothing(action: str, *undo: str) -> None:
    fitting = {("done", "done"), ("already-undone", "nothing-to-undo")}
    if (action, *undo) not in fitting:
        raise Broken(
            f"action: {action}, undo: {', '.join(undo)}",
            "done and done, or already-undone and nothing-to-undo",
        )
