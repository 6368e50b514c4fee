"""Retention on the virtual tables, of what hardly a random history has: dead letters of runs that
ended, and tombstones that are old."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from orchestrator.machine.machine import advance, start
from orchestrator.machine.signals import Terminate
from orchestrator.store.records import Record
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.chances import Chances
from orchestrator.testing.virtual.database import Database, Engine, Message
from orchestrator.testing.virtual.process import BEGIN, ProcessClock
from orchestrator.testing.virtual.removal import (
    VirtualRetention,
    archive_in_memory,
    check_removed,
)
from orchestrator.testing.virtual.timeline import Timeline
from outbox.ids import Ids, first_at
from outbox.wire.envelope import Envelope
from tests.support.orchestrator.trips import CHARGE, Trip, trip

SAGA = trip(CHARGE)
AGE = timedelta(seconds=10)
NOW = BEGIN + timedelta(minutes=1)


async def rest(_: float) -> None:
    """Go on at once."""


class Kept:
    """Virtual tables, and a process that removes what is old in them."""

    def __init__(self) -> None:
        database = Database(Chances(0))
        clock = ProcessClock(Timeline())
        clock.skew = (NOW - BEGIN).total_seconds()
        self.tables = database.tables
        self.archive = archive_in_memory()
        self._ids = Ids(clock, Chances(1).entropy)
        self._retention = VirtualRetention(
            *(Engine(database), self.archive, AGE, clock),
            now=clock.now,
            ids=self._ids,
            sleep=rest,
            owner="one",
        )

    def run(self, *, ended: bool) -> str:
        """A run that goes on, or ended just now."""
        id = self._ids()
        run = start(SAGA, id, Trip("t1"), BEGIN).instance
        if ended:
            run = advance(SAGA, run, Terminate("ada", "enough"), BEGIN).instance
            self.tables.ended[id] = NOW
        self.tables.runs[id] = Record(run)
        return id

    def letter(self, run: str | None, age: timedelta = 2 * AGE) -> str:
        """A command of that run, or else an event, that was given up so long ago."""
        id = self._ids()
        envelope = Envelope(
            *(id, "orchestrator", "charge.v1", "t1", BEGIN, b"{}"),
            correlation=run,
            reply_to=run and "orchestrator",
        )
        self.tables.dead[id] = Message(1, "bank", 0, envelope)
        self.tables.died[id] = NOW - age
        return id

    async def round(self) -> None:
        """One round of the removal."""
        assert await self._retention.whole_round(rest) is not None

    @property
    def archived(self) -> set[str]:
        """What is in the files."""
        files = (self.archive.whole(it.row.path) for it in self.tables.files.values())
        return {item for manifest in files if manifest is not None for item in manifest.items}


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    check_removed(made.tables, made.archive)


async def test_dead_letters_go_to_the_archive_but_for_young_ones_and_those_of_runs_that_go_on(
    kept: Kept,
) -> None:
    old, event = kept.letter(kept.run(ended=True)), kept.letter(None)
    young, living = kept.letter(None, AGE / 2), kept.letter(kept.run(ended=False))
    await kept.round()
    assert kept.tables.dead.keys() == {young, living}
    assert kept.archived == {f"{old} bank", f"{event} bank"}


async def test_one_that_is_given_up_again_is_removed_again(kept: Kept) -> None:
    letter = kept.letter(None)
    again = kept.tables.dead[letter]
    await kept.round()
    kept.tables.dead[letter] = again
    await kept.round()
    assert kept.tables.gone_letters == {f"{letter} bank": 2}


async def test_a_letter_that_goes_while_its_run_goes_on_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept()
    kept.letter(kept.run(ended=False))
    monkeypatch.setattr("orchestrator.retention.rounds.dead_letters.saga_of", lambda _: None)
    await kept.round()
    with pytest.raises(Broken, match="its run went on"):
        check_removed(kept.tables, kept.archive)


async def test_a_tombstone_goes_when_its_id_is_old_and_the_mark_covers_it(kept: Kept) -> None:
    young, old = first_at(NOW - timedelta(days=1)), first_at(NOW - timedelta(days=3))
    kept.tables.aliases |= {it: {"saga_id": it, "ended": "COMPLETED"} for it in (young, old)}
    await kept.round()
    assert kept.tables.aliases.keys() == {young}
    below = kept.tables.remover[0].below
    assert below is not None
    assert old < below < young
