from __future__ import annotations

from outbox.chassis.http.input_types import canonical_id, id_in_path


def test_an_id_is_taken_in_any_form_and_kept_in_one() -> None:
    assert canonical_id("0191F000000070008000000000000001") == (
        "0191f000-0000-7000-8000-000000000001"
    )
    assert id_in_path("nonsense") is None
    assert id_in_path("\ud800") is None
