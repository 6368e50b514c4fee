"""Trials in which the participant is restarted: what was answered is there, and nothing twice."""

from __future__ import annotations

import asyncio

from orchestrator.testing.conforming.conversation import Conversation
from orchestrator.testing.conforming.messages import Sent
from orchestrator.testing.conforming.trial import Trials
from orchestrator.testing.conforming.trials.later import complete

trials = Trials("Durability")

_KEYS, _BATCHES, _EACH = 6, 12, 4


@trials(restarts=True)
async def restart(it: Conversation) -> None:
    """What was answered is known after a restart."""
    account = it.account()
    add, undone, barred = it.add(account), it.add(account), it.add(account)
    refused, later = it.command("refuse", account, amount=1), it.command("later", account, amount=2)
    first = await it.answers(
        [add, undone, refused, later], "done", "done", "refused/no", "ongoing/pending"
    )
    undo, before = it.undo(undone), it.undo(barred)
    await it.answers([undo, before], "done", "nothing-to-undo")
    await it.restart()
    await it.has(account, add, later)
    again = await it.answers(
        [add, undone, refused, barred], "done", "already-undone", "refused/no", "already-undone"
    )
    it.same(first[0], again[0])
    it.same(first[2], again[2])
    await it.answers([undo, before], "done", "nothing-to-undo")
    await it.answers([later], "ongoing/pending")
    await it.answers([complete(it, later, "done")], "done")
    await it.answers([later], "done")
    await it.has(account, add, later)


@trials(restarts=True)
async def restart_in_the_middle(it: Conversation) -> None:
    """What is under way at a restart takes effect once, wholly, and in order."""
    accounts = [it.account() for _ in range(_KEYS)]
    sent = {account: [it.add(account) for _ in range(_BATCHES * _EACH)] for account in accounts}
    begun = asyncio.Event()

    async def send(account: str) -> None:
        adds = sent[account]
        for number in range(_BATCHES):
            batch = adds[number * _EACH : (number + 1) * _EACH]
            await it.until_answered(batch, it.line.restart_within)
            begun.set()

    async def restart() -> None:
        await begun.wait()
        await it.restart()

    await it.together(restart(), *map(send, accounts))
    for account, adds in sent.items():
        await it.until_answered(adds, it.line.restart_within)
        await it.has(account, *adds)


@trials(restarts=True, section="Undo")
async def undo_across_a_restart(it: Conversation) -> None:
    """Undos around a restart leave nothing."""
    account = it.account()
    adds = [it.add(account) for _ in range(_KEYS * _EACH)]
    undos = [it.undo(add) for add in adds]
    within = it.line.restart_within
    # Some are undone before they come, some while the participant is killed, some after that.
    early, rest = undos[: len(undos) // 3], undos[len(undos) // 3 :]
    await it.answers(early, *["nothing-to-undo"] * len(early))
    under_way = [*adds, *rest[: len(rest) // 2]]

    async def send(sent: Sent) -> None:
        await it.post([sent], log=False)

    await it.together(it.restart(), *map(send, under_way))
    await it.together(*(it.until_answered([each], within) for each in [*undos, *adds]))
    await it.answers(adds, *["already-undone"] * len(adds))
    await it.has(account)
