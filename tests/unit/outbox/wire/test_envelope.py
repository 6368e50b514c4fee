from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.errors import MalformedEnvelope
from outbox.ids import compose, is_id
from outbox.replies import Outcome, Reply
from outbox.wire import attributes
from outbox.wire.envelope import (
    REPLY_TYPE,
    Envelope,
    from_batch,
    from_binary,
    from_row,
    from_structured,
    headers_json,
    replies_from_batch,
    replies_to_batch,
    to_batch,
    to_binary,
    to_structured,
)
from tests.support.outbox.envelopes import (
    A_TIME,
    A_TRACE,
    AN_ID,
    ANOTHER_ID,
    a_full_envelope,
    an_envelope,
    envelopes,
    json_texts,
    json_values,
)

unhurried = settings(deadline=None)


# --- Round trips -----------------------------------------------------------------------------


@unhurried
@given(envelopes())
def test_what_goes_out_structured_comes_back(envelope: Envelope) -> None:
    assert from_structured(to_structured(envelope)) == envelope


@unhurried
@given(st.lists(envelopes(), max_size=4))
def test_a_batch_comes_back_in_its_order(batch: list[Envelope]) -> None:
    assert from_batch(to_batch(batch)) == batch


@unhurried
@given(envelopes(data=json_texts()))
def test_what_goes_out_in_binary_mode_comes_back_byte_for_byte(envelope: Envelope) -> None:
    assert from_binary(*to_binary(envelope)) == envelope


@unhurried
@given(envelopes(data=json_texts()))
def test_a_row_of_the_outbox_gives_the_envelope_back_byte_for_byte(envelope: Envelope) -> None:
    read = from_row(
        envelope.id,
        envelope.type,
        envelope.key,
        envelope.time,
        envelope.data.decode(),
        headers_json(envelope),
    )
    assert read == replace(envelope, expires_in=None), "that is known only when it is sent"


@unhurried
@given(json_texts())
def test_data_is_embedded_byte_for_byte(data: bytes) -> None:
    envelope = an_envelope(data=data)
    assert to_structured(envelope).endswith(b'"data":' + data + b"}")
    assert to_batch([envelope, envelope]).count(b'"data":' + data + b"}") == 2


@unhurried
@given(json_values())
def test_data_read_from_a_batch_is_equal_json(value: Any) -> None:
    data = json.dumps(value, indent=2).encode()
    (read,) = from_batch(to_batch([an_envelope(data=data)]))
    assert json.dumps(json.loads(read.data)) == json.dumps(value)


# --- What stands on the wire -----------------------------------------------------------------


def test_every_field_has_its_attribute() -> None:
    envelope = a_full_envelope()
    assert json.loads(to_structured(envelope)) == {
        "specversion": "1.0",
        "id": AN_ID,
        "source": "articles",
        "type": "comments.reopen-thread.v1",
        "time": "2030-01-31T12:00:00.123456Z",
        "partitionkey": "article-7",
        "correlationid": envelope.correlation,
        "causationid": envelope.causation,
        "traceparent": A_TRACE,
        "replyto": "orchestrator",
        "undoes": f"{AN_ID} {ANOTHER_ID}",
        "expirytime": "2030-02-01T00:00:00Z",
        "expiresin": "90000",
        "datacontenttype": "application/json",
        "data": {"title": "Tides"},
    }


def test_an_absent_field_has_no_attribute() -> None:
    assert set(json.loads(to_structured(an_envelope()))) == {
        *("specversion", "id", "source", "type", "time", "partitionkey"),
        *("datacontenttype", "data"),
    }


def test_binary_mode_percent_encodes_what_a_header_cannot_hold() -> None:
    headers, body = to_binary(a_full_envelope(key='a "b" 100% Ärger\u2028'))
    assert headers["ce-partitionkey"] == "a%20%22b%22%20100%25%20%C3%84rger%E2%80%A8"
    assert headers["ce-time"] == "2030-01-31T12:00:00.123456Z"
    assert headers["ce-undoes"] == f"{AN_ID}%20{ANOTHER_ID}"
    assert headers["content-type"] == "application/json"
    assert body == b'{"title":"Tides"}'


def test_the_headers_column_holds_what_has_no_column_of_its_own() -> None:
    assert headers_json(an_envelope()) == '{"source":"articles"}'
    assert set(json.loads(headers_json(a_full_envelope()))) == {
        *("source", "correlationid", "causationid", "traceparent"),
        *("replyto", "undoes", "expirytime"),
    }


def test_times_leave_in_utc_with_z_and_keep_their_microseconds() -> None:
    eastward = timezone(timedelta(hours=2))
    envelope = an_envelope(time=datetime(2030, 1, 31, 14, 0, 0, 1, eastward))
    assert json.loads(to_structured(envelope))["time"] == "2030-01-31T12:00:00.000001Z"
    assert to_binary(envelope)[0]["ce-time"] == "2030-01-31T12:00:00.000001Z"


@pytest.mark.parametrize("field", ["time", "expires"])
@pytest.mark.parametrize("write", [to_structured, to_binary, lambda envelope: to_batch([envelope])])
def test_a_time_without_a_zone_never_leaves(field: str, write: Any) -> None:
    envelope = a_full_envelope(**{field: datetime(2030, 1, 31)})  # noqa: DTZ001 - the point
    with pytest.raises(ValueError, match="no time zone"):
        write(envelope)


# --- What is taken in ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31t12:00:00z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T12:00:00.5Z", datetime(2030, 1, 31, 12, 0, 0, 500_000, UTC)),
        ("2030-01-31T12:00:00.123456789Z", datetime(2030, 1, 31, 12, 0, 0, 123456, UTC)),
        ("2030-01-31T14:00:00+02:00", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T06:30:00-05:30", datetime(2030, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_any_rfc_3339_time_is_read_as_utc(text: str, moment: datetime) -> None:
    envelope = from_structured(_event(time=text, expirytime=text))
    assert (envelope.time, envelope.expires) == (moment, moment)
    assert envelope.time.tzinfo is UTC


def test_unknown_attributes_are_ignored() -> None:
    event = _event(subject="x", dataschema="urn:x", comexampleother=5)
    assert from_structured(event) == an_envelope()


@pytest.mark.parametrize(
    "trace", ["", "abc", A_TRACE.upper(), "ff" + A_TRACE[2:], A_TRACE + "\n", 7, None]
)
def test_a_trace_that_cannot_be_read_is_as_good_as_none(trace: object) -> None:
    assert from_structured(_event(traceparent=trace)).trace is None


def test_an_absent_content_type_means_json() -> None:
    assert from_structured(_event(datacontenttype=None)) == an_envelope()
    assert from_structured(_event(datacontenttype="Application/JSON; charset=utf-8")).data


def test_the_case_of_header_names_does_not_matter() -> None:
    headers, body = to_binary(a_full_envelope())
    shouting = {name.upper(): value for name, value in headers.items()}
    assert from_binary(shouting, body) == a_full_envelope()


def test_a_quoted_string_in_a_header_is_unquoted() -> None:
    headers, body = to_binary(an_envelope())
    headers["ce-partitionkey"] = r'"a \"b\" \\ c%20d"'
    assert from_binary(headers, body).key == r'a "b" \ c d'


_WRONG: list[tuple[str, object]] = [
    ("specversion", "0.3"),
    ("specversion", None),
    ("id", None),
    ("id", ""),
    ("id", "7"),
    ("id", 7),
    ("id", AN_ID.upper()),
    ("id", "3c7e9a52-7d0e-4cf5-9f43-4d1d6c5b1d0e"),
    ("source", None),
    ("source", ""),
    ("source", "s" * 101),
    ("type", None),
    ("type", "t" * 101),
    ("type", ["articles.article-published.v1"]),
    ("partitionkey", None),
    ("partitionkey", ""),
    ("partitionkey", "k" * 201),
    ("partitionkey", "two\nlines"),
    ("partitionkey", "next\x85line"),
    ("partitionkey", 5),
    ("time", None),
    ("time", "yesterday"),
    ("time", "2030-01-31"),
    ("time", "2030-01-31T12:00:00"),
    ("time", "2030-01-31 12:00:00Z"),
    ("time", "20300131T120000Z"),
    ("time", "2030-W05-4T12:00:00Z"),
    ("time", "2030-02-31T12:00:00Z"),
    ("time", "0001-01-01T00:00:00+10:00"),
    ("time", "٢٠٣٠-01-31T12:00:00Z"),
    ("time", 1_900_000_000),
    ("correlationid", "saga 7"),
    ("causationid", "7"),
    ("replyto", ""),
    ("replyto", "r" * 101),
    ("undoes", ""),
    ("undoes", f"{AN_ID}  {ANOTHER_ID}"),
    ("undoes", f"{AN_ID},{ANOTHER_ID}"),
    ("undoes", [AN_ID]),
    ("expirytime", "soon"),
    ("expirytime", 60),
    ("expiresin", 60),
    ("expiresin", "soon"),
    ("expiresin", "1.5"),
    ("expiresin", "9" * 16),
    ("datacontenttype", "text/xml"),
    ("datacontenttype", 5),
]


@pytest.mark.parametrize(("name", "value"), _WRONG)
def test_a_wrong_attribute_is_named(name: str, value: object) -> None:
    with pytest.raises(MalformedEnvelope, match=f"^the attribute '{name}' ") as raised:
        from_structured(_event(**{name: value}))
    assert raised.value.next_step


@pytest.mark.parametrize(("name", "value"), _WRONG)
def test_a_wrong_attribute_in_a_batch_is_named_with_its_position(name: str, value: object) -> None:
    body = b"[" + to_structured(an_envelope()) + b"," + _event(**{name: value}) + b"]"
    with pytest.raises(MalformedEnvelope, match=f"'{name}' of event 1 of the batch"):
        from_batch(body)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value in _WRONG if isinstance(value, str)]
)
def test_a_wrong_header_is_named(name: str, value: str) -> None:
    headers, body = to_binary(an_envelope())
    header = "content-type" if name == "datacontenttype" else f"ce-{name}"
    headers[header] = value if name == "datacontenttype" else attributes.quoted(value)
    with pytest.raises(MalformedEnvelope, match=f"^the attribute '{name}' "):
        from_binary(headers, body)


def test_half_a_surrogate_pair_is_no_text_wherever_it_comes_from() -> None:
    with pytest.raises(MalformedEnvelope, match="'partitionkey'"):
        attributes.text("partitionkey", "a\ud800", 100, None)


@pytest.mark.parametrize("value", ["caf\xe9", "%FF", "%C3%28", "%ED%A0%80"])
def test_a_header_that_is_not_percent_encoded_utf_8_is_refused(value: str) -> None:
    headers, body = to_binary(an_envelope())
    headers["ce-partitionkey"] = value
    with pytest.raises(MalformedEnvelope, match="'ce-partitionkey'"):
        from_binary(headers, body)


def test_a_long_wrong_value_is_cut_in_the_error() -> None:
    with pytest.raises(MalformedEnvelope) as raised:
        from_structured(_event(id="x" * 100_000))
    assert len(str(raised.value)) < 300


def test_missing_and_binary_data_are_refused() -> None:
    with pytest.raises(MalformedEnvelope, match="'data' is missing"):
        from_structured(_event(data=None))
    with pytest.raises(MalformedEnvelope, match="'data_base64'"):
        from_structured(_event(data_base64="AAAA"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'"\\u0000"', "NUL"),
        (b'{"\\u0000":1}', "NUL"),
        (b'"\\ud800"', "surrogate"),
        (b"NaN", "not valid JSON"),
        (b"18446744073709551616", "64 bits"),
        (b"-9223372036854775809", "64 bits"),
        (b"[" * 300 + b"]" * 300, "[Rr]ecursion"),
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_data_that_a_database_or_a_reader_would_not_take_is_refused(data: bytes, why: str) -> None:
    headers, _ = to_binary(an_envelope())
    with pytest.raises(MalformedEnvelope, match=f"'data' .*{why}"):
        from_binary(headers, data)
    with pytest.raises(MalformedEnvelope, match=why):
        from_batch(to_batch([an_envelope(data=data)]))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"null", b"7", b"[]", b'"x"'])
def test_a_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        from_structured(body)


@pytest.mark.parametrize("body", [b"", b"[", b"null", b"{}", b"7", b"[7]", b"[[]]"])
def test_a_body_that_is_no_batch_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        from_batch(body)


def test_an_empty_batch_holds_no_envelopes() -> None:
    assert from_batch(b"[]") == []


@pytest.mark.parametrize(
    "headers", ["", "{", "null", "7", "[]", "{}", '{"source":"a","undoes":5}', '{"source":"a"']
)
def test_a_row_that_other_code_changed_is_refused_by_its_id(headers: str) -> None:
    with pytest.raises(MalformedEnvelope, match=AN_ID):
        from_row(AN_ID, "a.b.v1", "k", A_TIME, "{}", headers)


# --- Replies ---------------------------------------------------------------------------------

_REPLIES = [
    Reply(Outcome.DONE, value={"comments": 3}),
    Reply(Outcome.REFUSED, code="held", reason="A legal hold is on it."),
    Reply(Outcome.TOO_BUSY, retry_after=1.5),
    Reply(Outcome.DONE),
]


def test_replies_come_back_in_the_order_of_the_messages() -> None:
    asked, body = _answered(_REPLIES)
    ids = [each.id for each in asked]
    assert replies_from_batch(body, ids) == _REPLIES
    assert replies_from_batch(body, ids[::-1]) == _REPLIES[::-1]


def test_a_reply_names_its_command_and_carries_its_saga_and_trace() -> None:
    saga = compose(5, 5)
    asked, body = _answered([Reply(Outcome.DONE)], correlation=saga, trace=A_TRACE)
    (event,) = from_batch(body)
    assert (event.type, event.source, event.time) == (REPLY_TYPE, "comments", A_TIME)
    assert (event.causation, event.correlation, event.trace) == (asked[0].id, saga, A_TRACE)
    assert is_id(event.id)
    assert event.id != asked[0].id


def test_a_missing_reply_is_an_error_and_a_surplus_one_is_not() -> None:
    asked, body = _answered(_REPLIES)
    assert replies_from_batch(body, [asked[2].id]) == [_REPLIES[2]]
    with pytest.raises(MalformedEnvelope, match=f"1 of 2 messages got no reply.*{ANOTHER_ID}"):
        replies_from_batch(body, [asked[0].id, ANOTHER_ID])


def test_there_is_one_reply_for_each_envelope() -> None:
    with pytest.raises(ValueError, match="shorter"):
        replies_to_batch("comments", [an_envelope()], [], _numbered(), A_TIME)


def test_other_events_are_no_replies() -> None:
    with pytest.raises(MalformedEnvelope, match="'type' of event 0"):
        replies_from_batch(to_batch([an_envelope()]), [AN_ID])


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"outcome":"maybe"}'])
def test_a_reply_without_a_known_outcome_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEnvelope, match="'data' of event 0 of the batch is no reply"):
        replies_from_batch(to_batch([an_envelope(type=REPLY_TYPE, data=data)]), [AN_ID])


def test_the_text_of_an_exception_cannot_spoil_the_replies_of_a_batch() -> None:
    asked, body = _answered([Reply(Outcome.FAILED, reason="\0 \ud800 {}" * 9999), _REPLIES[0]])
    failed, done = replies_from_batch(body, [each.id for each in asked])
    assert done == _REPLIES[0]
    assert failed.reason is not None
    assert failed.reason.startswith(" ? {} ? {}")
    assert len(failed.reason) <= 2000


def _answered(replies: list[Reply], **fields: Any) -> tuple[list[Envelope], bytes]:
    asked = [an_envelope(id=compose(9, n), **fields) for n in range(len(replies))]
    return asked, replies_to_batch("comments", asked, replies, _numbered(), A_TIME)


def _numbered() -> Any:
    numbers = iter(range(1000, 2000))
    return lambda: compose(1, next(numbers))


def _event(**changes: object) -> bytes:
    """The plain envelope's event with these attributes in place of its own; None removes one."""
    event = json.loads(to_structured(an_envelope())) | changes
    return orjson.dumps({name: value for name, value in event.items() if value is not None})


def test_the_helper_changes_one_attribute_only() -> None:
    assert from_structured(_event()) == an_envelope()
    assert from_structured(_event(source="x")) == replace(an_envelope(), source="x")
