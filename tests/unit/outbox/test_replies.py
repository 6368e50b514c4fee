from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outbox.replies import PENDING, Done, Locked, Ongoing, Outcome, Progress, Refused, Reply
from outbox.wire import reply_json
from tests.support.outbox.envelopes import json_values

FINAL = {
    *(Outcome.DONE, Outcome.REFUSED, Outcome.ALREADY_UNDONE, Outcome.NOTHING_TO_UNDO),
    *(Outcome.EXPIRED, Outcome.TOO_OLD, Outcome.UNKNOWN),
}
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_REPLIES = st.builds(
    Reply,
    outcome=st.sampled_from(Outcome),
    value=json_values(),
    code=st.none() | _TEXTS,
    reason=st.none() | _TEXTS,
    retry_after=st.none() | st.floats(0, 1e9) | st.integers(0, 10**9),
    after_pending=st.booleans(),
)
NOW = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_last_word_is_final(outcome: Outcome) -> None:
    assert outcome.is_final is (outcome in FINAL)


def test_outcomes_keep_their_words_on_the_wire() -> None:
    # Inboxes and peers of other versions hold these.
    assert [str(outcome) for outcome in Outcome] == [
        *("done", "refused", "already-undone", "nothing-to-undo", "expired", "too-old"),
        *("unknown", "locked", "ongoing", "too-busy", "not-attempted", "failed", "rejected"),
    ]


@pytest.mark.parametrize(
    "answer", [Done(1), Refused("held", "A hold."), Locked("saga"), Ongoing(), Reply(Outcome.DONE)]
)
def test_an_answer_cannot_be_changed_afterwards(answer: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(answer, next(iter(vars(answer))), "other")


def test_answers_are_values() -> None:
    assert Done(1) == Done(1) != Done(2)
    assert Refused("a", "b") != Refused("a", "c")
    assert Ongoing() == Ongoing(1.0)


# --- As JSON ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(_REPLIES)
def test_a_reply_comes_back_from_json_as_it_was(reply: Reply) -> None:
    data = reply_json.dumps(reply)
    assert reply_json.loads(data) == reply
    assert reply_json.loads(data.decode()) == reply


def test_json_holds_only_what_is_set() -> None:
    assert reply_json.dumps(Reply(Outcome.DONE)) == b'{"outcome":"done"}'
    assert json.loads(reply_json.dumps(Reply(Outcome.TOO_BUSY, 0, "c", "r", 0))) == {
        "outcome": "too-busy",
        "value": 0,
        "code": "c",
        "reason": "r",
        "retry_after": 0,
    }


def test_unknown_fields_of_a_reply_are_ignored() -> None:
    assert reply_json.loads(b'{"outcome":"done","new":1}') == Reply(Outcome.DONE)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not valid JSON"),
        (b"[]", "object"),
        (b'"done"', "object"),
        (b"{}", "'outcome' is None, none of done, refused"),
        (b'{"outcome":"maybe"}', "'outcome' is 'maybe'"),
        (b'{"outcome":1}', "'outcome' is 1"),
        (b'{"outcome":"done","code":1}', "'code'"),
        (b'{"outcome":"done","reason":["x"]}', "'reason'"),
        (b'{"outcome":"done","reason":"\\u0000"}', "NUL"),
        (b'{"outcome":"ongoing","retry_after":"1"}', "'retry_after'"),
        (b'{"outcome":"ongoing","retry_after":-1}', "'retry_after'"),
        (b'{"outcome":"ongoing","retry_after":true}', "'retry_after'"),
        (b'{"outcome":"ongoing","retry_after":1e999}', "not valid JSON"),
    ],
)
def test_what_is_no_reply_is_refused_naming_the_field(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        reply_json.loads(data)


_ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(_ANY_TEXT, _ANY_TEXT)
@example("a\0b", "c\ud800d")
@example("\udfff", "\0")
def test_every_text_of_an_exception_can_be_stored_and_read(code: str, reason: str) -> None:
    read = reply_json.loads(reply_json.dumps(Reply(Outcome.FAILED, code=code, reason=reason)))
    for text, given_text in ((read.code, code), (read.reason, reason)):
        assert text is not None
        assert "\0" not in text
        text.encode()
        assert len(text) <= min(len(given_text), reply_json.MAX_TEXT_LENGTH)


def test_a_long_reason_is_cut() -> None:
    reply = Reply(Outcome.FAILED, reason="x" * 10_000)
    assert reply_json.loads(reply_json.dumps(reply)).reason == "x" * reply_json.MAX_TEXT_LENGTH


@pytest.mark.parametrize(
    "progress",
    [
        Progress(NOW),
        Progress(NOW, expected_at=NOW + timedelta(days=2)),
        Progress(NOW, attempt=3, holder="charger-1", until=NOW + timedelta(seconds=30)),
    ],
)
def test_a_progress_travels_in_a_reply(progress: Progress) -> None:
    value = reply_json.progress_json(progress)
    sent = reply_json.dumps(Reply(Outcome.ONGOING, value=value, code=PENDING))
    assert reply_json.progress_of(reply_json.loads(sent)) == progress


@pytest.mark.parametrize(
    "reply",
    [
        Reply(Outcome.ONGOING, value=reply_json.progress_json(Progress(NOW)), code="ongoing"),
        Reply(Outcome.ONGOING, code=PENDING),
        Reply(Outcome.ONGOING, value={"since": 7}, code=PENDING),
        Reply(Outcome.ONGOING, value={"since": "soon"}, code=PENDING),
        Reply(Outcome.ONGOING, value=["since"], code=PENDING),
    ],
)
def test_what_tells_no_progress_is_taken_for_none(reply: Reply) -> None:
    assert reply_json.progress_of(reply) is None


def test_odd_figures_of_a_progress_are_left_out() -> None:
    value = {"since": NOW.isoformat(), "attempt": -3, "holder": 5}
    assert reply_json.progress_of(Reply(Outcome.ONGOING, value=value, code=PENDING)) == Progress(
        NOW
    )
