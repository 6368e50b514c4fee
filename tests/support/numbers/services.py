"""The two services, each the application of a process: `uvicorn --factory`.

Both write down what they do, a line each time, in a file of their process. What is written so
stays when the process is killed; times are those of the machine's monotonic clock, which all its
processes have in common.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import outbox
from outbox import crashpoints
from outbox.clock import SystemClock
from outbox.coordination.leases import Leases
from outbox.inbox.inbox import Inbox
from outbox.lanes import Lane, bucket_of
from outbox.relay.settings import RelaySettings
from outbox.replies import Reply
from outbox.service.ways import Ways
from outbox.transports.base import Delivery, Transport
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.numbers.numbers import Counted, taken

LEASE = 2.0
PACE = RelaySettings(lease=LEASE, margin=1.0, delivery_timeout=0.8, poll=0.2, batch=20)
DATABASE, NOTES = "NUMBERS_DATABASE_URL", "NUMBERS_NOTES"
STOPS_AT = "relay: after fetch, before deliver"
"""Where a relay has messages in its hand, and has not looked yet whether it may send them."""
_CLOCK = SystemClock()


class Notes:
    """The lines of this process."""

    def __init__(self, kind: str) -> None:
        path = Path(os.environ[NOTES]) / f"{kind}-{os.getpid()}"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, line: Mapping[str, Any]) -> None:
        """A line more, in one call of the system."""
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Watch:
    """The watch over deliveries: each is written down with the leases under which it begins.

    A delivery begins when the relay looks at its leases for the last time, if nothing else ran
    between that look and the transport: a process that is stopped just there cannot know it.
    """

    def __init__(self) -> None:
        self._notes = Notes("sent")
        self._leases = Leases()
        self._looked: float | None = None
        ask = Leases.usable

        def usable(leases: Leases, now: float) -> Mapping[int, int]:
            self._leases, self._looked = leases, now
            asyncio.get_running_loop().call_soon(self._other_things_run)
            return ask(leases, now)

        setattr(Leases, "usable", usable)  # noqa: B010 - a method is replaced for this process

    def _other_things_run(self) -> None:
        self._looked = None

    def begins(self, envelopes: Sequence[Envelope]) -> None:
        """A delivery of these begins."""
        now = _CLOCK.monotonic()
        began = now if self._looked is None else self._looked
        epochs = self._leases.epochs
        buckets = {bucket_of(Lane.NORMAL, it.key) for it in envelopes}
        self._notes.write(
            {
                "at": began,
                "late": began - self._leases.until,
                "epochs": [[bucket, epochs.get(bucket, -1)] for bucket in sorted(buckets)],
                "sent": len(envelopes),
            }
        )


def stop_when_told() -> None:
    """Let this process stop itself (SIGSTOP) at `STOPS_AT`, when it comes there after SIGUSR1."""
    told: list[int] = []
    die = crashpoints.arm(None)

    def reached(name: str) -> None:
        if die is not None:
            die(name)
        if name == STOPS_AT and told:
            told.clear()
            os.kill(os.getpid(), signal.SIGSTOP)

    signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    crashpoints.arm(reached)


class WatchedTransport:
    """A transport whose deliveries are written down."""

    def __init__(self, inner: Transport, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self._watch.begins(envelopes)
        return await self._inner.deliver(envelopes)

    async def aclose(self) -> None:
        await self._inner.aclose()


def sender() -> FastAPI:
    """The service `numbers`, whose relay is one of several."""
    stop_when_told()
    watch, make = Watch(), Ways.made

    def made(self: Ways, *rest: Any) -> dict[str, Transport]:
        return {name: WatchedTransport(it, watch) for name, it in make(self, *rest).items()}

    setattr(Ways, "made", made)  # noqa: B010 - a method is replaced for this process
    engine = create_async_engine(os.environ[DATABASE])
    service = outbox.Service("numbers", engine, routes={Counted: ["ledger"]}, relay=PACE)
    app = FastAPI()
    service.attach(app)
    return app


def receiver() -> FastAPI:
    """The service `ledger`, which writes down each number."""
    notes, receive = Notes("arrived"), Inbox.receive

    async def noted(
        self: Inbox, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> list[Reply]:
        at = _CLOCK.monotonic()
        numbers = [[it.key, json.loads(it.data)["number"]] for it in envelopes]
        notes.write({"at": at, "numbers": numbers})
        return await receive(self, envelopes, settled)

    setattr(Inbox, "receive", noted)  # noqa: B010 - a method is replaced for this process
    engine = create_async_engine(os.environ[DATABASE])
    service = outbox.Service("ledger", engine, relay=PACE)

    @service.on(Counted)
    async def write_down(session: AsyncSession, event: Counted, _context: outbox.Context) -> None:
        await session.execute(taken.insert().values(name=event.name, number=event.number))

    app = FastAPI()
    service.attach(app)
    return app
