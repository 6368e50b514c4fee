"""What the engine's store finds and what it changes are different methods."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.ports import EnginePorts
from orchestrator.store.outgoing import OutgoingMessage
from outbox.clock import SystemClock
from outbox.tables import outbox, outbox_dead
from tests.support.outbox.envelopes import an_envelope
from tests.support.outbox.letters import a_letter, an_id, bury


async def test_to_ask_which_messages_are_present_leaves_the_dead_letters_where_they_are(
    engine: AsyncEngine,
) -> None:
    store = EnginePorts.of(engine, Registry([], {}), SystemClock()).runs
    await bury(engine, a_letter(1), a_letter(2))
    waiting = {name: value for name, value in a_letter(3).items() if name in outbox.c}
    where = str(waiting["destination"]), int(str(waiting["bucket"]))
    messages = [OutgoingMessage(*where, an_envelope(id=an_id(it)), repeats=True) for it in (1, 3)]
    async with engine.begin() as connection:
        await connection.execute(insert(outbox), [waiting])
        assert await store.present(connection, messages, ()) == {an_id(3)}
        (seq,) = await connection.scalars(select(outbox.c.seq))
        assert await store.present(connection, messages, [seq]) == frozenset()
        assert await dead_ids(connection) == [an_id(1), an_id(2)]
        await store.forget_dead_letters(connection, messages)
        assert await dead_ids(connection) == [an_id(2)]


async def dead_ids(connection: AsyncConnection) -> list[str]:
    return sorted(await connection.scalars(select(outbox_dead.c.id)))
