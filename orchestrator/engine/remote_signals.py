"""Hands an operator's signal, or a start, to the node that owns the run, through the database."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.engine.commits.items import Started
from orchestrator.engine.ports import EnginePorts
from orchestrator.errors import Unavailable, UnknownRun
from orchestrator.machine.signals import OperatorSignal
from orchestrator.store import signal_rows
from orchestrator.store.records import state_json
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import AskedStart
from outbox import tracing
from outbox.coordination.bell import Bell
from outbox.database.opening import Database
from outbox.wire import strict_json

_PAUSE = 0.05


async def ask_owner(
    database: Database,
    ports: EnginePorts,
    bell: Bell,
    saga_id: str,
    signal: OperatorSignal,
    patience: float,
) -> None:
    """Leave the signal for the owner of the run, and wait for what becomes of it.

    Raises UnknownRun, what the owner's machine raised, and Unavailable where the owner does not
    answer within `patience` seconds; the signal is withdrawn then, if it was not applied.
    `bell` is the one of this node.
    """
    async with database.reading.connect() as connection:
        if not await ports.runs.exists(connection, saga_id):
            raise UnknownRun(saga_id)
    kind, payload = signal_rows.dump(signal)
    answer = await _ask(database, ports, bell, saga_id, kind, payload, patience)
    error = signal_rows.load_answer(answer, saga_id)
    if error is not None:
        raise error


def asked_start(saga: Saga[Any], state: Any, begin_at: datetime | None) -> AskedStart:
    """The start of that saga with this input, without an idempotency key."""
    input = strict_json.loads(state_json(saga, state).encode())
    return AskedStart(saga.name, input, tracing.current(), begin_at)


async def ask_to_begin(
    database: Database,
    ports: EnginePorts,
    bell: Bell,
    saga_id: str,
    start: AskedStart,
    key: str,
    patience: float,
) -> Started:
    """Leave the start for the owner of the run's shard, and wait for what becomes of it; `key` is
    the saga key.

    Raises ActiveAlready, KeyReused, InvalidInput, and Unavailable where the owner does not answer
    within `patience` seconds; the start is withdrawn then, if it was not carried out.
    """
    kind, payload = signal_rows.dump_asked(start)
    answer = await _ask(database, ports, bell, saga_id, kind, payload, patience)
    return Started(*signal_rows.load_started(answer, start.name, key))


async def _ask(
    database: Database,
    ports: EnginePorts,
    bell: Bell,
    saga_id: str,
    kind: str,
    payload: str,
    patience: float,
) -> str:
    async with database.engine.begin() as connection:
        seq = await ports.signals.ask(connection, saga_id, shard_of(saga_id), kind, payload)
    # After the commit, which wakes the owner.
    bell.ring()
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
    return answer
