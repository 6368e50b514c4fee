from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.wire.envelope import (
    Envelope,
    fingerprint,
    from_batch,
    from_binary,
    from_structured,
    to_batch,
    to_binary,
    to_structured,
)
from tests.support.outbox.envelopes import (
    AN_ID,
    ANOTHER_ID,
    a_full_envelope,
    an_envelope,
    envelopes,
    json_texts,
    json_values,
)

unhurried = settings(deadline=None)

# Few and awkward, so that what could be confused is often drawn: values that Python holds to be
# equal, and texts that look like the frame around them.
_CLOSE = st.recursive(
    st.sampled_from([None, False, True, 0, 1, 0.0, -0.0, 1.0, "", "0", "1", "a", '"', "]", "[]"])
    | st.sampled_from([2**53, 2**53 + 1, float(2**53), 2**63, 2**64 - 1, float(2**64), 0.1 + 0.2]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["", "a", "b", "a,b", '"']), inner, max_size=2)
    ),
    max_leaves=4,
)
_WORDS = st.text('a"[],', min_size=1, max_size=3)
_UNDOES = st.sampled_from([(), (AN_ID,), (ANOTHER_ID,), (AN_ID, ANOTHER_ID), (ANOTHER_ID, AN_ID)])
_CLOSE_ENVELOPES = st.builds(
    lambda type, key, undoes, value: an_envelope(
        type=type, key=key, undoes=undoes, data=orjson.dumps(value)
    ),
    _WORDS,
    _WORDS,
    _UNDOES,
    _CLOSE,
)


@settings(deadline=None, max_examples=500)
@given(_CLOSE_ENVELOPES, _CLOSE_ENVELOPES)
def test_two_messages_share_a_fingerprint_only_if_they_ask_for_the_same(
    one: Envelope, other: Envelope
) -> None:
    assert (fingerprint(one) == fingerprint(other)) is (_meaning(one) == _meaning(other))


@settings(deadline=None, max_examples=500)
@given(st.lists(_CLOSE, min_size=2, max_size=6))
def test_different_payloads_never_share_a_fingerprint(values: list[Any]) -> None:
    prints = {fingerprint(an_envelope(data=orjson.dumps(value))) for value in values}
    assert len(prints) == len({json.dumps(value, sort_keys=True) for value in values})


@unhurried
@given(json_values(), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, random: Any) -> None:
    def shuffled(item: Any) -> Any:
        if isinstance(item, dict):
            members = [(key, shuffled(each)) for key, each in item.items()]
            random.shuffle(members)
            return dict(members)
        return [shuffled(each) for each in item] if isinstance(item, list) else item

    one = an_envelope(data=orjson.dumps(value))
    other = an_envelope(data=json.dumps(shuffled(value), indent=3).encode())
    assert fingerprint(one) == fingerprint(other)


def test_the_order_of_the_undone_ids_does_not_matter() -> None:
    one, other = (
        a_full_envelope(undoes=(AN_ID, ANOTHER_ID)),
        a_full_envelope(undoes=(ANOTHER_ID, AN_ID)),
    )
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(a_full_envelope(undoes=(AN_ID,)))


def test_the_order_of_a_list_matters() -> None:
    assert fingerprint(an_envelope(data=b"[1,2]")) != fingerprint(an_envelope(data=b"[2,1]"))


@unhurried
@given(envelopes(data=json_texts()))
def test_every_transport_gives_the_same_fingerprint(envelope: Envelope) -> None:
    expected = fingerprint(envelope)
    assert fingerprint(from_structured(to_structured(envelope))) == expected
    assert fingerprint(from_batch(to_batch([envelope]))[0]) == expected
    assert fingerprint(from_binary(*to_binary(envelope))) == expected
    relayed = from_batch(to_batch(from_batch(to_batch([envelope]))))[0]
    assert fingerprint(relayed) == expected


@unhurried
@given(envelopes())
def test_how_a_message_travelled_is_no_part_of_its_fingerprint(envelope: Envelope) -> None:
    otherwise = a_full_envelope(
        type=envelope.type, key=envelope.key, undoes=envelope.undoes, data=envelope.data
    )
    assert fingerprint(envelope) == fingerprint(otherwise)


def test_numbers_that_a_parser_would_merge_are_refused_rather_than_merged() -> None:
    for number in (b"18446744073709551616", b"18446744073709551617"):
        with pytest.raises(ValueError, match="beyond 64 bits"):
            fingerprint(an_envelope(data=number))


def test_a_fingerprint_never_changes_between_versions_of_the_code() -> None:
    # Inboxes store it: another value would make every redelivery after a deploy an error.
    assert fingerprint(a_full_envelope()).hex() == (
        "52c56e1cd77e6d469821f39e2575ff2c60c5f040279b23753f18fb39cfe105ed"
    )


def _meaning(envelope: Envelope) -> tuple[str, str, list[str], str]:
    data = json.dumps(json.loads(envelope.data), sort_keys=True)
    return envelope.type, envelope.key, sorted(envelope.undoes), data
