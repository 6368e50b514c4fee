"""What a transport promises that says `Accepted`: what was taken arrives."""

from __future__ import annotations

from collections.abc import Sequence

from outbox.replies import Outcome, Reply
from outbox.testing.transport_contract.bench import an_id, bench, demand, plain, some
from outbox.testing.transport_contract.line import Connect, Features
from outbox.wire.envelope import Envelope


async def what_was_accepted_survives_the_way_dying(features: Features, connect: Connect) -> None:
    """Accepted means durable: the way may die before the consumer saw anything of it."""

    async def busy(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        raise ConnectionError("the consumer is away, as the test wants it")

    async with bench(features, connect) as it:
        it.end.answer(busy)
        batch = some(3)
        it.is_confirmed(batch, await it.deliver(batch))
        await it.line.cut()
        it.end.answer()
        await it.line.restore()
        await it.end.until([each.id for each in batch])


async def what_the_consumer_could_not_take_comes_again_in_its_order(
    features: Features, connect: Connect
) -> None:
    """After a consumer that died, and after an answer that says so, the same message comes again,
    before all later ones of its key."""
    batch = some(4, key="room-1")
    troubles: list[Outcome | None] = [None, Outcome.FAILED, Outcome.TOO_BUSY, Outcome.NOT_ATTEMPTED]
    seen: list[str] = []

    async def troubled(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        if troubles:
            trouble = troubles.pop(0)
            if trouble is None:
                raise ConnectionError("the consumer died, as the test wants it")
            return [Reply(trouble, code="later")] * len(envelopes)
        seen.extend(each.id for each in envelopes)
        return [Reply(Outcome.DONE) for _ in envelopes]

    async with bench(features, connect) as it:
        it.end.answer(troubled)
        it.is_confirmed(batch, await it.deliver(batch))
        last = plain(9, key="room-1")
        it.is_confirmed([last], await it.deliver([last]))
        await it.end.until([last.id], among=seen)
        given = [each.id for each in [*batch, last]]
        demand(seen == given, f"after a consumer in trouble {given} were handled as {seen}")


async def a_definite_answer_takes_the_message_away(features: Features, connect: Connect) -> None:
    """A command that was refused, rejected, locked or ongoing does not come again by itself: the
    answer is a message of its own, and who wants to ask again does so."""
    outcomes = [Outcome.REFUSED, Outcome.REJECTED, Outcome.LOCKED, Outcome.ONGOING, Outcome.DONE]
    coming = iter(outcomes)

    async def answer(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        return [Reply(next(coming), code="because") for _ in envelopes]

    async with bench(features, connect) as it:
        it.end.answer(answer)
        batch = some(len(outcomes), key="room-1", reply_to="orchestrator", correlation=an_id(9001))
        it.is_confirmed(batch, await it.deliver(batch))
        await it.end.until([each.id for each in batch])
        came = [each.id for each in it.end.arrived]
        demand(came == [each.id for each in batch], f"messages that were answered came as {came}")


async def what_nobody_asks_for_again_comes_by_itself(features: Features, connect: Connect) -> None:
    """A message whose sender awaits no answer comes again after *locked* and *ongoing*, before all
    later ones of its key: no sender would send it again."""
    batch = some(3, key="room-1")
    troubles = [Outcome.LOCKED, Outcome.ONGOING]
    seen: list[str] = []

    async def troubled(envelopes: Sequence[Envelope], _: object) -> Sequence[Reply]:
        if troubles:
            first = Reply(troubles.pop(0), code="later")
            behind = Reply(Outcome.NOT_ATTEMPTED, code="not-attempted")
            return [first, *[behind] * (len(envelopes) - 1)]
        seen.extend(each.id for each in envelopes)
        return [Reply(Outcome.DONE) for _ in envelopes]

    async with bench(features, connect) as it:
        it.end.answer(troubled)
        it.is_confirmed(batch, await it.deliver(batch))
        last = plain(9, key="room-1")
        it.is_confirmed([last], await it.deliver([last]))
        await it.end.until([last.id], among=seen)
        given = [each.id for each in [*batch, last]]
        demand(seen == given, f"after *locked* and *ongoing* {given} were handled as {seen}")
