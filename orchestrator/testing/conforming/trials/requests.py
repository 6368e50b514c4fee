"""Trials of requests and envelopes: what is taken, and what is turned away whole."""

from __future__ import annotations

import gzip
from typing import Any

from orchestrator.testing.conforming.conversation import Conversation
from orchestrator.testing.conforming.messages import SOURCE, batch
from orchestrator.testing.conforming.trial import Broken, Trials
from outbox.replies import Outcome
from outbox.wire.codec import MAX_MESSAGE_BYTES

trials = Trials("The request")

MOST_MESSAGES = 500
MOST_BYTES = 1024 * 1024
_BEYOND_FLOATS = 2**53 + 1  # the first integer that a float cannot hold


@trials()
async def takes_a_batch(it: Conversation) -> None:
    """A batch takes effect, and each message gets its reply."""
    one, other = it.account(), it.account()
    messages = [it.add(one, 5), it.add(other, 2), it.add(one, 3)]
    replies = await it.answers(messages, "done", "done", "done")
    balances = [reply.value for reply in replies]
    if balances != [{"balance": 5}, {"balance": 2}, {"balance": 8}]:
        raise Broken(f"the values {balances}", "the balances 5, 2 and 8")
    await it.has(one, messages[0], messages[2])
    await it.has(other, messages[1])
    await it.answers([], told="(an empty batch)")
    # A run's command has a key of its step, which is not the entity, and asks for an answer.
    step = it.add(it.account(), 4)
    keyed = step.but("of a step", partitionkey=f"{it.saga}/book", replyto=SOURCE)
    await it.answers([keyed], "done")
    await it.has(step.account, step)


@trials(section="The envelope")
async def malformed_events(it: Conversation) -> None:
    """A batch with an event that cannot be read is turned away whole."""
    account = it.account()
    good = it.add(account)
    wrong: dict[str, dict[str, Any]] = {
        "whose id is no UUIDv7": {"id": "1"},
        "without an id": {"id": None},
        "without a source": {"source": None},
        "without a type": {"type": None},
        "without a key": {"partitionkey": None},
        "whose key is longer than 200": {"partitionkey": "k" * 201},
        "without a time": {"time": None},
        "whose time has no zone": {"time": "2030-01-31T12:00:00"},
        "of CloudEvents 0.3": {"specversion": "0.3"},
        "without data": {"data": None},
        "whose undoes is no list of ids": {"undoes": "everything"},
        "whose correlationid is no UUIDv7": {"correlationid": "saga-7"},
    }
    for what, attributes in wrong.items():
        event = it.add(account).but(what, **attributes)
        it.status(await it.post([good, event]), 400)
    await it.has(account)


@trials(section="The envelope")
async def no_batch(it: Conversation) -> None:
    """What is no JSON, or no batch, is turned away."""
    whole = batch([it.add(it.account())])
    for body, told in (
        (b"", "an empty body"),
        (b"[{", "half a JSON text"),
        (b'"text"', "a JSON text"),
        (whole[1:-1], "an event without a list"),
        (whole.replace(b"trial-", b"trial-\xff"), "bytes that are no UTF-8"),
    ):
        it.status(await it.post_body(body, told), 400)


@trials()
async def other_content_types(it: Conversation) -> None:
    """Another content type, or a content encoding, is turned away."""
    add = it.add(it.account())
    it.status(await it.post([add], "as text/plain", content_type="text/plain"), 415)
    zipped = gzip.compress(batch([add]))
    answer = await it.post_body(
        zipped, f"[{add.name}] with gzip", more={"content-encoding": "gzip"}
    )
    it.status(answer, 415)
    await it.has(add.account)


@trials(section="Sizes")
async def large_bodies(it: Conversation) -> None:
    """A body above 1 MiB is turned away, and one of nearly 1 MiB is taken."""
    account = it.account()
    filler = "x" * (200 * 1024)
    fits = [it.add(account).with_data("of 200 KiB", filler=filler) for _ in range(5)]
    await it.answers(fits, *["done"] * 5)
    above = it.add(account)
    body = batch([above])
    larger = body + b" " * (MOST_BYTES + 1 - len(body))
    told = f"[{above.name}] with {len(larger)} bytes"
    it.status(await it.post_body(larger, told), 413, closed=True)
    huge = body + b" " * (64 * MOST_BYTES)
    it.status(await it.post_body(huge, f"[{above.name}] with 64 MiB"), 413, closed=True)
    await it.until_there()
    await it.has(account, *fits)


@trials(section="Sizes")
async def many_messages(it: Conversation) -> None:
    """500 messages are taken, and 501 are turned away."""
    account = it.account()
    messages = [it.command("read", account) for _ in range(MOST_MESSAGES + 1)]
    it.status(await it.post(messages, "(501)"), 413)
    await it.until_answered(messages[:-1])


@trials(section="Sizes")
async def large_messages(it: Conversation) -> None:
    """Data above 256 KiB is rejected, and the rest of its batch is done."""
    account, other = it.account(), it.account()
    large = it.add(account).with_data("above 256 KiB", filler="x" * MAX_MESSAGE_BYTES)
    after, beside = it.add(account), it.add(other)
    await it.answers([large, after, beside], "rejected/too-large", "done", "done")
    await it.has(account, after)
    await it.has(other, beside)


@trials(section="Versions")
async def unknown_parts(it: Conversation) -> None:
    """What a newer sender adds is ignored."""
    account = it.account()
    add = it.add(account).with_data("with an unknown field", since_v2={"a": [1, None]})
    add = add.but("and attribute", newattribute="new", subject="s", traceparent="no trace")
    (first,) = await it.answers([add], "done", more={"Sagabox-New": "new"})
    it.same(first, (await it.answers([add], "done"))[0])
    await it.has(account, add)


@trials(section="Versions")
async def unknown_types(it: Conversation) -> None:
    """An unknown type is rejected as such, and holds its key."""
    account, other = it.account(), it.account()
    before, after, beside = it.add(account), it.add(account), it.add(other)
    unknown = it.command("unheard-of", account)
    expected = "done", "rejected/unknown-type", "not-attempted", "done"
    await it.answers([before, unknown, after, beside], *expected)
    newer = it.add(it.account()).but("in version 2", type="conform.add.v2")
    await it.answers([newer], "rejected/unknown-type")
    await it.has(account, before)
    await it.answers([after], "done")
    await it.has(account, before, after)


@trials(section="Versions")
async def wrong_data(it: Conversation) -> None:
    """Wrong data is rejected, and holds nothing."""
    account = it.account()
    missing = it.add(account).with_data("without its amount", amount=None)
    text = it.add(account).with_data("with a text as amount", amount="1")
    alone = it.add(account).but("whose data is a list", data=[])
    after = it.add(account)
    expected = "rejected/invalid", "rejected/invalid", "rejected/invalid", "done"
    await it.answers([missing, text, alone, after], *expected)
    stranger = it.add(account).but("for another's reply", replyto="someone-else")
    await it.answers([stranger], "rejected/invalid")
    await it.has(account, after)


@trials(section="The envelope")
async def odd_json(it: Conversation) -> None:
    """Large numbers arrive as they are or not at all, and deep nesting does no harm."""
    account = it.account()
    large = it.add(account, _BEYOND_FLOATS)
    (reply,) = await it.answers([large], "done or rejected/invalid")
    is_done = reply.outcome is Outcome.DONE
    if is_done and reply.value != {"balance": _BEYOND_FLOATS}:
        raise Broken(f"the value {reply.value}", f"the balance {_BEYOND_FLOATS}")
    await it.has(account, *([large] if is_done else []))
    deep = it.add(account)
    whole = batch([deep.with_data("nested deep", filler="x")])
    for depth in (200, 400_000):
        body = whole.replace(b'"x"', b"[" * depth + b"]" * depth)
        answer = await it.post_body(body, f"[{deep.name}] nested {depth:,} deep")
        it.status(answer, 200, 400, 413)
    await it.until_there()


@trials(section="Ended runs and purging")
async def statements(it: Conversation) -> None:
    """What is said of ended runs disturbs nothing."""
    account = it.account()
    add = it.add(account)
    more = {"Sagabox-Settled": f"{it.new_id()};live={it.saga}"}
    (first,) = await it.answers([add], "done", more=more)
    ended = {"Sagabox-Settled": it.new_id()}
    # Its run has ended; but its row is younger than any retention.
    (again,) = await it.answers([add], "done", more=ended, told="after the end of its run")
    it.same(first, again)
    other = it.add(account)
    odd = {"Sagabox-Settled": "everything"}
    await it.answers([other], "done", more=odd, told="with an unreadable statement")
    await it.has(account, add, other)
