"""The column `document` of a run: what is written, and what is read of it."""

from __future__ import annotations

import orjson

from orchestrator.machine.machine import start
from orchestrator.store import records
from orchestrator.store.records import record_of
from tests.support.orchestrator.stored_runs import row_of
from tests.support.orchestrator.story import BEGIN, RUN_ID
from tests.support.orchestrator.trips import BOOKING, Trip

RUN = start(BOOKING, RUN_ID, Trip("t1"), BEGIN).instance


def test_a_field_that_has_its_default_is_not_stored_and_comes_back() -> None:
    row = row_of(RUN, BOOKING)
    stored = orjson.loads(row.document)
    assert stored["steps"]["charge"] == {}
    assert set(stored) == {"steps", "direction"}
    assert record_of(row, BOOKING).instance == RUN


def test_a_document_of_older_code_with_every_field_says_the_same() -> None:
    row = row_of(RUN, BOOKING)
    whole = records._Document(dict(RUN.steps), RUN.direction)
    row.document = records._DOCUMENT.write(whole).decode()
    assert '"undo_ids":[]' in row.document
    assert record_of(row, BOOKING).instance == RUN
