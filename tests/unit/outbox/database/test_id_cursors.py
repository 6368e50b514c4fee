"""Cursors of walks down the ids."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.database.pages import cursor_after, read_cursor
from outbox.errors import InvalidSelection
from outbox.ids import Ids
from outbox.testing import FakeClock

_CURSOR = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")


def test_a_cursor_leads_back_to_its_id() -> None:
    identifier = Ids(FakeClock(), os.urandom)()
    assert read_cursor(cursor_after(identifier)) == identifier


@given(st.text(max_size=40).filter(lambda text: not _CURSOR.fullmatch(text)))
def test_a_text_that_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidSelection):
        read_cursor(text)


@given(st.from_regex(_CURSOR, fullmatch=True))
def test_every_id_has_one_cursor(cursor: str) -> None:
    assert cursor_after(read_cursor(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "A" * 21, "A" * 23, "Ä" * 22, "+" * 22, "A" * 21 + "B"])
def test_each_way_to_bend_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidSelection):
        read_cursor(text)
