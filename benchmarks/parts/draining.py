"""How fast an outbox that filled up is emptied, with the inbox of the receiver at the end."""

from __future__ import annotations

import time

from benchmarks.figures import Figures
from benchmarks.hearing import pair
from benchmarks.hearing.services import HEARER, TALKER
from benchmarks.names import DRAINING, RATE
from benchmarks.outbox_rows import fill
from benchmarks.places import Place
from benchmarks.processes import processor_seconds
from tests.support.processes.waiting import until

_DRAINED_WITHIN = 600.0


async def measure(place: Place, figures: Figures, messages: int) -> None:
    """Start the sending service with so many messages in its outbox, and wait until the other
    one, which writes a row for each, has handled all."""
    async with pair.prepared(place) as services:
        await fill(services.engines[TALKER], messages, source=TALKER, to=HEARER)
        hearer = await services.start(HEARER)
        try:
            began, before = time.monotonic(), processor_seconds(hearer.pid)
            talker = await services.start(TALKER)
            try:
                # What it takes to start is not what is measured.
                await until(services.any_heard, _DRAINED_WITHIN, what="the first were heard")
                began = time.monotonic()
                first = len(await services.heard())
                await services.until_heard(messages, _DRAINED_WITHIN)
                seconds = time.monotonic() - began
                used = processor_seconds(talker.pid)
            finally:
                await talker.stop()
            received = processor_seconds(hearer.pid) - before
        finally:
            await hearer.stop()
    values = {
        RATE: (messages - first) / seconds,
        "processor ms each, sender": used / messages * 1000,
        "processor ms each, receiver": received / messages * 1000,
    }
    figures.add((place.name, DRAINING, f"{messages:,} messages, inbox at the end"), values)
