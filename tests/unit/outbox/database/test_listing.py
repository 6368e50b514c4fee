"""Cursors of lists that several columns order."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from outbox.database.pages import after
from outbox.errors import InvalidSelection
from outbox.ids import compose
from outbox.tables import outbox_dead, outbox_held

AN_ID = compose(1_900_000_000_000, 1)
DEAD = (outbox_dead.c.died_at, outbox_dead.c.id, outbox_dead.c.destination)
HELD = (outbox_held.c.destination, outbox_held.c.bucket, outbox_held.c.aggregateid)


def a_cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def sql(cursor: str, order: Any, *, descending: bool) -> str:
    condition = after(cursor, order, descending=descending)
    compiled = condition.compile(dialect=sqlite.dialect(paramstyle="named"))
    return str(compiled).replace("outbox_held.", "").replace("\n", "")


def test_the_rows_after_a_cursor_are_those_beyond_all_its_values() -> None:
    cursor = a_cursor(["comments", 3, "k"])
    assert sql(cursor, HELD, descending=False) == (
        "destination > :destination_1"
        " OR destination = :destination_2 AND bucket > :bucket_1"
        " OR destination = :destination_3 AND bucket = :bucket_2 AND aggregateid > :aggregateid_1"
    )
    assert sql(cursor, HELD, descending=True).count("<") == 3


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"a": 1},
        7,
        ["2030-01-01T00:00:00Z", AN_ID],
        ["2030-01-01T00:00:00Z", AN_ID, "search", "more"],
        ["2030-01-01T00:00:00", AN_ID, "search"],
        ["9999-12-31T23:59:59-23:00", AN_ID, "search"],
        ["soon", AN_ID, "search"],
        [1893456000, AN_ID, "search"],
        ["2030-01-01T00:00:00Z", "no-id", "search"],
        ["2030-01-01T00:00:00Z", AN_ID, None],
        ["2030-01-01T00:00:00Z", AN_ID, "a\0b"],
    ],
    ids=str,
)
def test_a_cursor_of_something_else_is_refused(value: Any) -> None:
    with pytest.raises(InvalidSelection, match=r"is not a cursor of this list; take next_cursor"):
        after(a_cursor(value), DEAD, descending=True)


@pytest.mark.parametrize("bucket", [-1, 70_000, 1e3, True, "17", None])
def test_a_forged_number_does_not_reach_the_database(bucket: Any) -> None:
    with pytest.raises(InvalidSelection):
        after(a_cursor(["comments", bucket, "k"]), HELD, descending=False)


@pytest.mark.parametrize("cursor", ["", "x", "gibberish!", "\xfc", "W10", "====", "_-" * 500])
def test_a_text_that_is_no_cursor_is_refused_and_not_repeated_at_length(cursor: str) -> None:
    with pytest.raises(InvalidSelection) as refused:
        after(cursor, DEAD, descending=True)
    assert len(str(refused.value)) < 250
