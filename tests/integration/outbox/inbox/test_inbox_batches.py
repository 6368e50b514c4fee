"""A batch is only faster: it gives what its messages would give one after the other."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from outbox.inbox.batches import holds_key, order_key
from outbox.inbox.handlers import Context, Handlers
from outbox.replies import Locked, Ongoing, Outcome, Refused, Reply
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.outbox.inboxes import (
    START,
    Bench,
    Book,
    Listed,
    Names,
    Noted,
    Unbook,
    altered,
    envelope,
    handling,
)

_KEYS = "abc"


def _by_its_entry(command: Book, _: Context) -> Any:
    match command.entry:
        case "refused":
            return Refused("no", "it says so")
        case "locked":
            return Locked("another handler")
        case "ongoing":
            return Ongoing()
        case "failed":
            raise ValueError("it says so")
        case _:
            return None


def _handlers() -> Handlers:
    return handling(_by_its_entry)


def _a_batch(random: Random, calm: bool) -> list[Envelope]:
    """Messages of all kinds, with copies, forgeries, and undos before and after their actions."""
    names = Names()
    actions = [names() for _ in range(6)]
    batch: list[Envelope] = []
    for number in range(random.randint(1, 24)):
        key = random.choice(_KEYS)
        entry = f"entry {number}"
        match random.randrange(8):
            case 0 | 1:
                ends = ["fine"] if calm else ["refused", "locked", "ongoing", "failed", "fine"]
                batch.append(envelope(random.choice(actions), Book(key, random.choice(ends))))
            case 2:
                undoes = tuple(random.sample(actions, random.randint(1, 3)))
                batch.append(envelope(names(), Unbook(key), undoes=undoes))
            case 3:
                batch.append(envelope(names(), Listed(key, entry)))
            case 4:
                batch.append(envelope(names(), Noted(key), type="press.noted.v9"))
            case 5 if batch:
                batch.append(random.choice(batch))
            case 6 if batch:
                batch.append(altered(random.choice(batch), Book(key, "forged")))
            case _:
                expires = START if random.random() < 0.2 else None
                batch.append(replace(envelope(names(), Noted(key, entry)), expires=expires))
    return batch


async def _one_by_one(bench: Bench, batch: list[Envelope]) -> list[Reply]:
    waiting: set[tuple[bool, str]] = set()
    replies: list[Reply] = []
    for each in batch:
        if order_key(each) in waiting:
            replies.append(Reply(Outcome.NOT_ATTEMPTED))
            continue
        replies.append(await bench.receive_one(each))
        if holds_key(replies[-1]):
            waiting.add(order_key(each))
    return replies


async def test_a_batch_gives_what_its_messages_give_one_by_one(
    database_factory: DatabaseFactory, database_schema: Schema, make_engine: MakeEngine
) -> None:
    together, apart = (
        Bench(make_engine(database_factory(database_schema)), _handlers()) for _ in range(2)
    )
    for seed in range(24):
        for bench in (together, apart):
            await bench.clear()
        random = Random(seed)
        batch = _a_batch(random, calm=seed % 2 == 0)
        expected = await _one_by_one(apart, batch)
        replies = await together.receive(*batch)
        said = [_said(reply) for reply in _without_second_answers(batch, replies)]
        wanted = [_said(reply) for reply in _without_second_answers(batch, expected)]
        assert said == wanted, seed
        assert await together.states() == await apart.states(), seed
        # Between keys a list handler may come earlier, so only the order of each key is promised.
        assert sorted(await together.entries()) == sorted(await apart.entries()), seed


def _without_second_answers(batch: list[Envelope], replies: list[Reply]) -> list[Reply]:
    """Copies of a message that comes again get its answer, or must wait like the rest of its key;
    either is right, and depends on where the batch was split."""
    again: set[str] = set()
    told: list[Reply] = []
    for each, reply in zip(batch, replies, strict=True):
        told.append(Reply(Outcome.NOT_ATTEMPTED) if each.id in again else reply)
        if holds_key(reply):
            again.add(each.id)
    return told


def _said(reply: Reply) -> tuple[Any, ...]:
    return reply.outcome, reply.value, reply.code if reply.outcome is Outcome.REJECTED else None
