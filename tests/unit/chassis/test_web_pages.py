from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.chassis.http.input_types import canonical_id, id_in_path
from outbox.chassis.http.pages import cursor_after, read_cursor
from outbox.chassis.http.problems import HttpProblem
from outbox.ids import Ids
from outbox.testing import FakeClock

_CURSOR = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")


def test_a_cursor_leads_back_to_its_id() -> None:
    identifier = Ids(FakeClock(), os.urandom)()
    assert read_cursor(cursor_after(identifier)) == identifier


@given(st.text(max_size=40).filter(lambda text: not _CURSOR.fullmatch(text)))
def test_a_text_that_is_no_cursor_is_a_422(text: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        read_cursor(text)
    assert (caught.value.status, caught.value.code) == (422, "invalid-cursor")


@given(st.from_regex(_CURSOR, fullmatch=True))
def test_every_id_has_one_cursor(cursor: str) -> None:
    assert cursor_after(read_cursor(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "A" * 21, "A" * 23, "Ä" * 22, "+" * 22, "A" * 21 + "B"])
def test_each_way_to_bend_a_cursor_is_refused(text: str) -> None:
    with pytest.raises(HttpProblem):
        read_cursor(text)


def test_an_id_is_taken_in_any_form_and_kept_in_one() -> None:
    assert canonical_id("0191F000000070008000000000000001") == (
        "0191f000-0000-7000-8000-000000000001"
    )
    assert id_in_path("nonsense") is None
    assert id_in_path("\ud800") is None
