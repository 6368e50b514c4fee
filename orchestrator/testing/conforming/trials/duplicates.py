"""Trials of duplicates: a message that comes again takes effect once, and is answered as before."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.testing.conforming.conversation import Conversation
from orchestrator.testing.conforming.messages import Sent
from orchestrator.testing.conforming.trial import Trials

trials = Trials("Duplicates")

_AT_ONCE = 8


@trials()
async def duplicate(it: Conversation) -> None:
    """A message that comes again has no effect, and gets the same reply."""
    account = it.account()
    add = it.add(account, 3)
    (first,) = await it.answers([add], "done")
    later = it.add(account, 4)
    await it.answers([later], "done")
    # The balance is another one by now: the reply is the stored one.
    (again,) = await it.answers([add], "done")
    it.same(first, again)
    await it.has(account, add, later)


@trials()
async def duplicate_in_a_batch(it: Conversation) -> None:
    """Copies in one batch take effect once."""
    account = it.account()
    add = it.add(account)
    first, again, _ = await it.answers([add, add, it.add(it.account())], "done", "done", "done")
    it.same(first, again)
    await it.has(account, add)


@trials()
async def duplicates_at_once(it: Conversation) -> None:
    """Copies that come at once take effect once."""
    account = it.account()
    add = it.add(account)
    replies = await it.together(*(it.until_answered([add]) for _ in range(_AT_ONCE)))
    for (reply,) in replies[1:]:
        it.same(replies[0][0], reply)
    await it.answers([add], "done")
    await it.has(account, add)


@trials()
async def crosswise_batches(it: Conversation) -> None:
    """Batches that name the same messages crosswise both end."""
    adds = [it.add(it.account()) for _ in range(6)]
    await it.together(
        *(it.until_answered(adds if it_is_even else adds[::-1]) for it_is_even in [1, 0] * 3)
    )
    for add in adds:
        await it.has(add.account, add)


@trials()
async def reused_id(it: Conversation) -> None:
    """An id that was used for another message is a conflict."""
    account = it.account()
    add = it.add(account, 3)
    (first,) = await it.answers([add], "done")
    for other in (
        add.with_data("with another amount", amount=4),
        add.but("with another type", type="conform.later.v1"),
        add.but("in another run", correlationid=it.new_id()),
    ):
        await it.answers([other], "rejected/conflict")
    elsewhere = add.but("with another key", partitionkey=it.account())
    await it.answers([elsewhere], "rejected/conflict")
    await it.has(account, add)
    (again,) = await it.answers([_travelled(it, add)], "done")
    it.same(first, again)
    await it.has(account, add)


def _travelled(it: Conversation, sent: Sent) -> Sent:
    """The same message, as another way or another attempt would bring it."""
    data = dict(reversed(sent.event["data"].items()))
    event = {**sent.event, "data": data, "time": it.at(it.now()), "causationid": it.new_id()}
    event = dict(reversed(event.items()))
    return replace(sent, name=f"{sent.name} with its fields in another order", event=event)


@trials(section="Replies")
async def refusal(it: Conversation) -> None:
    """A refusal changes nothing, and is the answer for ever."""
    account, other = it.account(), it.account()
    before = it.add(account)
    refused = it.command("refuse", account, amount=10)
    after, beside = it.add(account), it.add(other)
    expected = "done", "refused/no", "done", "done"
    replies = await it.answers([before, refused, after, beside], *expected)
    await it.has(account, before, after)
    (again,) = await it.answers([refused], "refused/no")
    it.same(replies[1], again)
    await it.has(account, before, after)
    await it.has(other, beside)


@trials(section="Ended runs and purging")
async def old_messages(it: Conversation) -> None:
    """Old messages that come for the first time are run."""
    account = it.account()
    add = it.add(account).but(
        "due in 2020", due="2020-01-01T00:00:00Z", time="2020-01-01T00:00:00Z"
    )
    # One who has purged since then must not run it, and says so.
    (reply,) = await it.answers([add], "done or too-old")
    await it.has(account, *([add] if reply.outcome == "done" else []))
