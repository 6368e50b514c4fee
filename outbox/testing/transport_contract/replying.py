"""What a transport promises whose other side answers: each message gets the reply to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outbox.replies import Outcome, Reply
from outbox.testing.transport_contract.bench import bench, demand, plain, some, under_way
from outbox.testing.transport_contract.line import Connect, Features
from outbox.transports.base import Answered
from outbox.wire.envelope import Envelope


async def every_reply_comes_back_whole(features: Features, connect: Connect) -> None:
    """Every outcome, with all that a reply can say."""
    replies = [
        Reply(outcome, code="a-code", reason="Gründe, 100 %", retry_after=2.5)
        for outcome in Outcome
    ]
    replies.append(Reply(Outcome.DONE, value={"list": [1, None, "ü"], "deep": {"x": False}}))

    async def answer(*_: object) -> Sequence[Reply]:
        return replies

    async with bench(features, connect) as it:
        it.end.answer(answer)
        delivery = await it.deliver(some(len(replies)))
        demand(delivery == Answered(replies), f"{replies} came back as {delivery!r}")


async def each_message_gets_its_own_reply(features: Features, connect: Connect) -> None:
    """Replies are for the ids that were asked for, also where several batches are under way."""
    count, all_there = 5, asyncio.Event()
    batches = [some(number + 1, first=10 * number) for number in range(count)]

    async with bench(features, connect) as it:

        async def answer(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
            if len(it.end.statements) == count:
                all_there.set()
            await all_there.wait()
            return [Reply(Outcome.DONE, value=each.id) for each in envelopes]

        it.end.answer(answer)
        deliveries = await asyncio.gather(*map(it.deliver, batches))
        for batch, delivery in zip(batches, deliveries, strict=True):
            it.is_confirmed(batch, delivery)


async def a_handling_end_that_fails_leaves_it_open_what_happened(
    features: Features, connect: Connect
) -> None:
    """An inbox raises where it does not know itself what was committed."""

    async def fail(*_: object) -> Sequence[Reply]:
        raise RuntimeError("the handling end is out of order, as the test wants it")

    async with bench(features, connect) as it:
        it.end.answer(fail)
        delivery = await it.unreachable(some(2))
        demand(delivery.sent, "messages that arrived are said not to have left")
        it.end.answer()
        await it.confirmed(some(1, first=2))


async def a_wrong_number_of_replies_leaves_it_open_what_happened(
    features: Features, connect: Connect
) -> None:
    """Which reply belongs to which message cannot be told then."""
    async with bench(features, connect) as it:
        for count in (1, 3):

            async def answer(*_: object, count: int = count) -> Sequence[Reply]:
                return [Reply(Outcome.DONE)] * count

            it.end.answer(answer)
            delivery = await it.unreachable(some(2))
            demand(delivery.sent, f"{count} replies to 2 messages are said to be none")


async def a_handling_end_that_hangs_is_given_up(features: Features, connect: Connect) -> None:
    """A cancelled delivery is over while its handling end still hangs, and the next one is
    answered with its own reply."""
    async with bench(features, connect) as it:
        begun = it.end.hang()
        async with under_way(it.deliver([plain(0)])) as delivering:
            await begun.wait()
            delivering.cancel()
            await asyncio.wait([delivering])
            demand(delivering.cancelled(), "a cancelled delivery did not end as one")
        it.end.answer()
        await it.confirmed([plain(1)])
