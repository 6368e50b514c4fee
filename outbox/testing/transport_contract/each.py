"""What every transport promises, whichever way the messages take."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from outbox.replies import Outcome
from outbox.testing.transport_contract.bench import (
    SHORT,
    BrokenPromise,
    bench,
    demand,
    plain,
    some,
    under_way,
    with_every_field,
)
from outbox.testing.transport_contract.line import Confirms, Connect, Features, Order
from outbox.transports.base import Answered, Unreachable
from outbox.wire.settled import EndedSagas

_MANY = 50
_USUAL_SIZE = 256 * 1024

_IN_TIME_TO_STOP = 2.0
"""Seconds: less than the transport's own timeout in that test, so that this does not end it."""

_CANNOT_TRAVEL: tuple[dict[str, Any], ...] = (
    {"data": b'{"half":'},
    {"data": b'{"a":1,"a":2}'},
    {"data": b'"a \\u0000"'},
    {"key": ""},
    {"key": "two\nlines"},
    {"id": "no-uuid"},
    {"source": "s" * 101},
)


async def every_message_arrives_whole(features: Features, connect: Connect) -> None:
    """Each of many arrives, none of them twice, with every field as it was given."""
    whole = with_every_field(_MANY)
    if not features.carries_commands:
        whole = replace(whole, reply_to=None, undoes=())
    sent = [whole, *some(_MANY)]
    async with bench(features, connect) as it:
        await it.confirmed(sent)
        await it.confirmed(some(1, first=200))
        known = {each.id: each for each in sent}
        first = [each for each in it.end.arrived if each.id in known]
        demand(len(first) == len(sent), f"{len(sent)} messages arrived as {len(first)}")
        for each in first:
            expected = known[each.id]
            demand(each == expected, f"{expected} arrived as {each}")


async def a_command_is_rejected_and_nothing_of_it_leaves(
    features: Features, connect: Connect
) -> None:
    """Where no receiver answers, a command is no event: it is told so, and the events beside it
    go."""
    async with bench(features, connect) as it:
        batch = [plain(0), plain(1, reply_to="orchestrator"), plain(2)]
        delivery = await it.deliver(batch)
        if not isinstance(delivery, Answered):
            raise BrokenPromise(f"beside a command it said {delivery!r} in place of Answered")
        outcomes = [reply.outcome for reply in delivery.replies]
        expected = [Outcome.DONE, Outcome.REJECTED, Outcome.DONE]
        demand(outcomes == expected, f"an event, a command and an event were {outcomes}")
        came = {each.id for each in it.end.arrived}
        demand(came == {plain(0).id, plain(2).id}, "a command left, or an event did not")


async def the_order_is_kept(features: Features, connect: Connect) -> None:
    """What was given first arrives first: within a batch, and from one batch to the next."""
    sent = [plain(number, key=f"room-{number % 3}") for number in range(3 * _MANY)]
    async with bench(features, connect) as it:
        for first in range(0, len(sent), _MANY):
            await it.confirmed(sent[first : first + _MANY])
        arrived = it.end.arrived
        for key in {each.key for each in sent}:
            given = [each.id for each in sent if each.key == key]
            came = [each.id for each in arrived if each.key == key]
            demand(came == given, f"messages of the key {key} came as {came}, given as {given}")
        if features.order is Order.OF_ALL:
            demand(arrived == sent, "messages of different keys overtook each other")


async def what_is_sent_again_arrives_again(features: Features, connect: Connect) -> None:
    """The same message in a later delivery is delivered too: it may be asked for anew, after
    *locked* or a lost answer. Who wants it once has an inbox."""
    again = some(2)
    async with bench(features, connect) as it:
        await it.confirmed(again)
        await it.confirmed(again)
        # It comes behind the copy that is counted, since it has its key.
        await it.confirmed(some(1, first=200, key=again[0].key))
        came = sum(each.id == again[0].id for each in it.end.arrived)
        demand(came == 2, f"a message that was sent twice arrived {came} times")


async def an_empty_batch_is_confirmed_without_asking(features: Features, connect: Connect) -> None:
    """Nothing to deliver is nothing to go wrong, also where the other side is gone."""
    async with bench(features, connect) as it:
        await it.line.cut()
        delivery = await it.deliver([])
        demand(not isinstance(delivery, Unreachable), f"an empty batch was {delivery!r}")
        demand(not it.end.statements, "an empty batch was given to the handling end")


async def what_cannot_travel_is_unacceptable(features: Features, connect: Connect) -> None:
    """A message that no receiver could read is refused with its batch, and nothing arrives."""
    good, other = some(2)
    async with bench(features, connect) as it:
        for broken in _CANNOT_TRAVEL:
            batch = [good, plain(2, **broken), other]
            await it.unacceptable(batch, f"a message with {broken}")
        await it.confirmed([plain(3)])
        came = [each.id for each in it.end.arrived]
        demand(came == [plain(3).id], "of a batch that was refused something arrived")


async def a_large_message_arrives_whole(features: Features, connect: Connect) -> None:
    """The declared size is no boast."""
    size = features.largest or _USUAL_SIZE
    large = plain(0, data=b'"' + b"x" * (size - 2) + b'"')
    async with bench(features, connect) as it:
        await it.confirmed([large])
        demand(it.end.arrived == [large], f"a message of {size} bytes arrived as another one")


async def what_is_too_large_is_unacceptable(features: Features, connect: Connect) -> None:
    """Above the declared size the message is refused, so that it is buried and not lost."""
    assert features.largest is not None, "only where a limit is declared"
    large = plain(0, data=b'"' + b"x" * (2 * features.largest) + b'"')
    async with bench(features, connect) as it:
        await it.unacceptable([large], f"a message of {len(large.data)} bytes")
        await it.confirmed([plain(1)])
        demand(len(it.end.arrived) == 1, "a message that was refused arrived")


async def silence_ends_with_the_timeout(features: Features, connect: Connect) -> None:
    """Without an answer the delivery ends by itself, as one that may have arrived; the next one
    to a side that speaks again is confirmed."""
    async with bench(features, connect, timeout=SHORT) as it:
        await it.line.silence()
        delivery = await it.unreachable([plain(0)])
        demand(delivery.sent, "a message that was taken in silence is said not to have left")
        await it.line.restore()
        await it.confirmed_again([plain(1)])


async def a_destination_that_is_gone_is_unreachable(features: Features, connect: Connect) -> None:
    """It is the destination's trouble, and over when it is back."""
    async with bench(features, connect) as it:
        await it.confirmed([plain(0)])
        await it.line.cut()
        # What goes out on a connection that was still open may have arrived; the next time not.
        await it.unreachable([plain(1)])
        delivery = await it.unreachable([plain(2)])
        tells = features.tells_when_nothing_left
        demand(
            delivery.sent is not tells,
            f"it said sent={delivery.sent}, and declares tells_when_nothing_left={tells}",
        )
        await it.line.restore()
        await it.confirmed([plain(3)])


async def what_did_not_leave_never_arrives(features: Features, connect: Connect) -> None:
    """No buffer of a client sends by itself what was said not to have left: it would come beside
    what the relay sends, in another order."""
    async with bench(features, connect) as it:
        await it.line.cut()
        tries = [await it.unreachable([plain(number)]) for number in range(3)]
        unsent = {plain(number).id for number, told in enumerate(tries) if not told.sent}
        await it.line.restore()
        await it.confirmed([plain(3)])
        late = unsent & {each.id for each in it.end.arrived}
        demand(not late, f"{min(late, default='')} arrived, and was said not to have left")


async def a_cancelled_delivery_stops_and_does_not_disturb_the_next(
    features: Features, connect: Connect
) -> None:
    """Cancellation comes through to the caller, soon, and leaves nothing behind."""
    async with bench(features, connect) as it:
        await it.line.silence()
        async with under_way(it.line.transport.deliver([plain(0)])) as delivering:
            await asyncio.wait([delivering], timeout=SHORT)
            demand(not delivering.done(), "a delivery ended before its timeout, without an answer")
            delivering.cancel()
            await asyncio.wait([delivering], timeout=_IN_TIME_TO_STOP)
            ended = delivering.done()
            demand(ended, f"a cancelled delivery goes on after {_IN_TIME_TO_STOP:g} s")
            swallowed = not delivering.cancelled()
            demand(not swallowed, "a cancelled delivery returned, and swallowed that")
        await it.line.restore()
        await it.confirmed(some(2, first=1))


async def what_is_said_of_sagas_arrives_with_each_batch(
    features: Features, connect: Connect
) -> None:
    """`settled` is asked at each delivery, and what it says travels with the batch."""
    live, before = plain(0).id, plain(9).id
    said = [None, EndedSagas(before, frozenset({live})), EndedSagas(before)]
    coming = iter(said)
    async with bench(features, connect, settled=lambda: next(coming)) as it:
        for number, _ in enumerate(said):
            await it.confirmed([plain(number)])
        demand(it.end.statements == said, f"{said} arrived as {it.end.statements}")


async def a_closed_transport_delivers_nothing(features: Features, connect: Connect) -> None:
    """After aclose(), which may come twice, a delivery is unreachable, and did not leave."""
    async with bench(features, connect) as it:
        await it.confirmed([plain(0)])
        await it.line.transport.aclose()
        await it.line.transport.aclose()
        delivery = await it.unreachable([plain(1)])
        demand(not delivery.sent, "a closed transport says that something has left")
        demand(len(it.end.arrived) == 1, "a closed transport delivered")


async def a_slow_handling_end_holds_only_its_own_batch(
    features: Features, connect: Connect
) -> None:
    """Deliveries of one transport run side by side where their keys differ; and one that is
    accepted does not wait for its consumer at all."""
    async with bench(features, connect) as it:
        begun = it.end.hang()
        async with under_way(it.deliver([plain(0)])) as first:
            await begun.wait()
            it.end.answer()
            if features.confirms is Confirms.BY_ACCEPTING:
                it.is_confirmed([plain(0)], await first)
                it.is_confirmed([plain(1)], await it.deliver([plain(1)]))
            else:
                await it.confirmed([plain(1)])
                demand(not first.done(), "the slow one was answered without its handling end")
