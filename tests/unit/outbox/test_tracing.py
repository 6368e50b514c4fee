from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind

from outbox import tracing
from outbox.contract import SagaEnded
from outbox.ids import derive
from outbox.tracing import Handling, Sending, TraceIds
from outbox.wire import traceparent
from outbox.wire.attributes import trace as readable
from outbox.wire.envelope import Envelope
from tests.support.blog.blog import envelope, new_id
from tests.support.outbox.spans import Spans

ONE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
SAGA = new_id()


def message(trace: str | None = None, saga: str | None = SAGA) -> Envelope:
    return replace(envelope(SagaEnded(SAGA, "COMPLETED"), saga=saga), trace=trace)


def record() -> logging.LogRecord:
    made = logging.LogRecord("outbox", logging.INFO, __file__, 1, "hello", (), None)
    assert TraceIds().filter(made)
    return made


def ids(of: logging.LogRecord) -> dict[str, object]:
    names = ("saga", "message_id", "type", "trace_id", "span_id")
    return {name: getattr(of, name) for name in names if hasattr(of, name)}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    made = Spans()
    made.install(monkeypatch)
    return made


def test_a_minted_trace_follows_from_the_id_and_can_be_read() -> None:
    id = "018c2f3e-4a5b-7c6d-8e9f-0123456789ab"
    made = traceparent.minted(id)
    assert made == "00-018c2f3e4a5b7c6d8e9f0123456789ab-8e9f0123456789ab-00"
    assert readable(made) == made
    assert len(made) == traceparent.LENGTH
    assert traceparent.trace_id(made) == id.replace("-", "")
    assert traceparent.span_id(made) == "8e9f0123456789ab"


def test_a_trace_of_zeros_is_none() -> None:
    assert readable(f"00-{0:032x}-{1:016x}-01") is None
    assert readable(f"00-{1:032x}-{0:016x}-01") is None


@pytest.mark.parametrize("trace", [ONE, OTHER])
def test_the_current_trace_is_what_was_put_there(trace: str) -> None:
    assert tracing.current() is None
    assert tracing.headers() == {}
    token = attach(tracing.context_of(trace))
    try:
        assert tracing.current() == trace
        assert tracing.headers() == {"traceparent": trace}
    finally:
        detach(token)
    assert tracing.current() is None


def test_while_a_message_is_handled_its_trace_is_the_current_one() -> None:
    token = attach(tracing.context_of(OTHER))
    try:
        with Handling([message(ONE)], tracing.tracer_in_use()):
            assert tracing.current() == ONE
        # One without a trace belongs to no other one's.
        with Handling([message(None)], tracing.tracer_in_use()):
            assert tracing.current() is None
        assert tracing.current() == OTHER
    finally:
        detach(token)


def test_several_messages_have_a_current_trace_only_where_they_share_it() -> None:
    with Handling([message(ONE), message(ONE)], tracing.tracer_in_use()):
        assert tracing.current() == ONE
    with Handling([message(ONE), message(OTHER)], tracing.tracer_in_use()):
        assert tracing.current() is None


def test_a_log_line_has_the_ids_of_the_message_in_hand() -> None:
    assert ids(record()) == {}
    one = message(ONE)
    with Handling([one], tracing.tracer_in_use()):
        assert ids(record()) == {
            "saga": SAGA,
            "message_id": one.id,
            "type": one.type,
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "span_id": "b7ad6b7169203331",
        }
    assert ids(record()) == {}
    with Handling([message(None, saga=None)], tracing.tracer_in_use()):
        assert ids(record()).keys() == {"message_id", "type"}
    with Handling([message(ONE), message(ONE)], tracing.tracer_in_use()):
        assert ids(record()).keys() == {"trace_id", "span_id"}
    assert tracing.fields_of(one) == _ids_within(one)


def _ids_within(of: Envelope) -> dict[str, object]:
    with Handling([of], tracing.tracer_in_use()):
        return ids(record())


def test_a_log_line_keeps_what_it_says_itself() -> None:
    made = logging.LogRecord("outbox", logging.INFO, __file__, 1, "hello", (), None)
    made.trace_id, made.saga = "theirs", "another"
    with Handling([message(ONE)], tracing.tracer_in_use()):
        TraceIds().filter(made)
    assert ids(made) == {
        "saga": "another",
        "trace_id": "theirs",
        "message_id": made.__dict__["message_id"],
        "type": "orchestrator.saga-ended.v1",
    }


def test_a_new_message_inherits_its_trace_as_it_is() -> None:
    assert tracing.of_new_message(SAGA, "a.b.v1", ONE) == ONE
    assert tracing.of_new_message(SAGA, "a.b.v1", None) is None


def test_with_an_sdk_a_new_message_names_the_span_that_made_it(spans: Spans) -> None:
    trace = tracing.of_new_message(SAGA, "a.b.v1", ONE, saga=SAGA, step="hide")
    (span,) = spans.of_kind(SpanKind.PRODUCER)
    assert trace == span.traceparent
    assert traceparent.trace_id(trace) == traceparent.trace_id(ONE)
    assert span.name == "create a.b.v1"
    assert f"{span.parent:016x}" == traceparent.span_id(ONE)
    assert span.attributes == {
        "messaging.system": "sagabox",
        "messaging.operation": "create",
        "messaging.operation.name": "create",
        "messaging.message.id": SAGA,
        "sagabox.message.type": "a.b.v1",
        "sagabox.saga.id": SAGA,
        "sagabox.saga.step": "hide",
    }


def test_with_an_sdk_a_message_is_handled_within_a_span_of_its_trace(spans: Spans) -> None:
    one = message(ONE)
    with pytest.raises(ValueError, match="no"), Handling([one], tracing.tracer_in_use()):
        current = tracing.current()
        raise ValueError("no")
    (span,) = spans.of_kind(SpanKind.CONSUMER)
    assert current == span.traceparent
    assert (span.name, f"{span.trace:032x}") == (f"process {one.type}", traceparent.trace_id(ONE))
    assert span.attributes["messaging.message.id"] == one.id
    assert span.attributes["sagabox.saga.id"] == SAGA
    assert [str(it) for it in span.errors] == ["no"]


def test_with_an_sdk_several_messages_are_one_span_with_links_to_each_trace(spans: Spans) -> None:
    with Handling(
        [message(ONE), message(OTHER), message(ONE), message(None)], tracing.tracer_in_use()
    ):
        current = tracing.current()
    (span,) = spans.of_kind(SpanKind.CONSUMER)
    assert current == span.traceparent
    assert span.parent == 0
    assert span.attributes["messaging.batch.message_count"] == 4
    linked = [f"{it.context.trace_id:032x}" for it in span.links]
    assert linked == [traceparent.trace_id(ONE), traceparent.trace_id(OTHER)]


def test_derived_ids_are_as_good_for_a_trace(spans: Spans) -> None:
    made = traceparent.minted(derive(SAGA, "x"))
    assert tracing.of_new_message(SAGA, "a.b.v1", made) == spans.all[0].traceparent
    assert spans.all[0].trace == int(traceparent.trace_id(made), 16)


# Sending


def test_without_an_sdk_a_delivery_is_no_span_and_has_no_trace() -> None:
    with Sending("comments", [message(ONE)]) as sending:
        assert tracing.current() is None
        sending.failed("nothing listens")


def test_with_an_sdk_a_delivery_is_a_span_with_links_to_each_message(spans: Spans) -> None:
    third = f"{OTHER[:-2]}01"
    with Sending("comments", [message(ONE), message(third), message(None)]):
        current = tracing.current()
    (span,) = spans.of_kind(SpanKind.CLIENT)
    assert (span.name, current, span.parent) == ("send comments", span.traceparent, 0)
    assert [it.context.trace_id for it in span.links] == [
        int(traceparent.trace_id(it), 16) for it in (ONE, third)
    ]
    assert span.attributes["messaging.destination.name"] == "comments"
    assert span.attributes["messaging.batch.message_count"] == 3
    assert tracing.current() is None


def test_the_delivery_of_messages_of_one_trace_is_within_it(spans: Spans) -> None:
    with Sending("comments", [message(ONE), message(ONE)]):
        pass
    (span,) = spans.of_kind(SpanKind.CLIENT)
    assert f"{span.trace:032x}" == traceparent.trace_id(ONE)


def test_a_delivery_of_traces_that_no_collector_has_is_no_span(spans: Spans) -> None:
    with Sending("comments", [message(OTHER), message(None)]):
        pass
    assert spans.all == []


def test_a_delivery_without_an_answer_is_an_error(spans: Spans) -> None:
    with Sending("comments", [message(ONE)]) as sending:
        sending.failed("nothing listens")
    (span,) = spans.of_kind(SpanKind.CLIENT)
    assert span.status == "nothing listens"


def test_an_exemplar_leads_to_a_trace_that_a_collector_has() -> None:
    assert tracing.exemplar(ONE) == {"trace_id": traceparent.trace_id(ONE)}
    assert tracing.exemplar(OTHER) is None
    assert tracing.exemplar(None) is None
