"""Hands an operator's signal to the node that owns the run, through the database."""

from __future__ import annotations

import asyncio

from orchestrator.engine.ports import EnginePorts
from orchestrator.errors import Unavailable, UnknownRun
from orchestrator.machine.signals import OperatorSignal
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from outbox.database.opening import Database

_PAUSE = 0.05


async def ask_owner(
    database: Database,
    ports: EnginePorts,
    saga_id: str,
    signal: OperatorSignal,
    patience: float,
) -> None:
    """Leave the signal for the owner of the run, and wait for what becomes of it.

    Raises UnknownRun, what the owner's machine raised, and Unavailable where the owner does not
    answer within `patience` seconds; the signal is withdrawn then, if it was not applied.
    """
    kind, payload = signal_rows.dump(signal)
    async with database.engine.begin() as connection:
        if not await ports.runs.exists(connection, saga_id):
            raise UnknownRun(saga_id)
        seq = await ports.signals.ask(connection, saga_id, shard_of(saga_id), kind, payload)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while True:
        async with database.reading.connect() as connection:
            answer = await ports.signals.answer_to(connection, seq)
        if answer is not None:
            break
        if loop.time() > deadline:
            async with database.engine.begin() as connection:
                if await ports.signals.withdraw(connection, seq):
                    raise Unavailable("the node that owns this run does not answer")
        await asyncio.sleep(_PAUSE)
    async with database.engine.begin() as connection:
        await ports.signals.remove(connection, [seq])
    error = signal_rows.load_answer(answer, saga_id)
    if error is not None:
        raise error
