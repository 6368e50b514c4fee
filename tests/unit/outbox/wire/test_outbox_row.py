from __future__ import annotations

import pytest

from outbox.tables import outbox, outbox_dead, outbox_parked, outbox_scheduled
from outbox.wire.envelope import Envelope, from_row
from outbox.wire.outbox_row import to_row
from tests.support.outbox.envelopes import a_full_envelope, an_envelope

GIVEN_BY_THE_DATABASE = {"xid", "seq"}
OF_OTHERS = {"due_at", "reason", "attempts", "died_at"}


@pytest.mark.parametrize("envelope", [an_envelope(), a_full_envelope(expires_in=None)])
def test_a_row_leads_back_to_its_envelope(envelope: Envelope) -> None:
    row = to_row(envelope, "comments", 17)
    assert (row["destination"], row["bucket"]) == ("comments", 17)
    assert row["aggregatetype"] == envelope.type.split(".")[0]
    assert envelope == from_row(
        id=row["id"],
        type=row["type"],
        key=row["aggregateid"],
        time=row["occurred_at"],
        payload=row["payload"],
        headers=row["headers"],
    )


def test_a_row_has_every_column_that_tables_with_whole_messages_share() -> None:
    row = to_row(an_envelope(), "comments", 17)
    assert row.keys() == set(outbox.c.keys()) - GIVEN_BY_THE_DATABASE
    for table in (outbox_parked, outbox_scheduled, outbox_dead):
        assert row.keys() == set(table.c.keys()) - GIVEN_BY_THE_DATABASE - OF_OTHERS, table.name
