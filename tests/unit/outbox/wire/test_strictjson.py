from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from outbox.wire import strict_json
from tests.support.outbox.envelopes import json_values

_OBJECT_DEPTH = b'{"a":' * 254 + b"1" + b"}" * 254


@settings(deadline=None)
@given(json_values())
def test_strict_json_is_read_as_it_was_written(value: Any) -> None:
    for text in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()):
        read = strict_json.check(text)
        assert json.dumps(read) == json.dumps(value)
        assert json.dumps(strict_json.loads(strict_json.dumps(read))) == json.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        b'"\\u0000"',
        b'{"\\u0000":1}',
        b'[[{"a":["b\\u0000"]}]]',
        b'"\\\\u0000 \\u0000"',
        b'"\\\\\\u0000"',
    ],
)
def test_nul_is_refused_wherever_it_stands(text: bytes) -> None:
    with pytest.raises(ValueError, match="NUL"):
        strict_json.loads(text)


def test_a_nul_deeper_than_the_stack_of_python_is_found() -> None:
    with pytest.raises(ValueError, match="NUL"):
        strict_json.loads(b"[" * 1000 + b'"\\u0000"' + b"]" * 1000)


def test_text_that_only_looks_like_an_escaped_nul_is_taken() -> None:
    assert strict_json.loads(b'"\\\\u0000"') == "\\u0000"


@pytest.mark.parametrize(
    "text", [b'"\\ud800"', b'"\\udfff"', b'"\\ud800\\ud800"', b'"\xed\xa0\x80"']
)
def test_half_a_surrogate_pair_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not valid JSON"):
        strict_json.loads(text)


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"9" * 400])
def test_what_is_no_number_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not valid JSON"):
        strict_json.loads(text)


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, 0, -(2**63)])
def test_integers_of_64_bits_are_exact(number: int) -> None:
    assert strict_json.loads(b'{"a":[%d]}' % number) == {"a": [number]}


@pytest.mark.parametrize(
    "digits",
    ["18446744073709551616", "-9223372036854775809", "20000000000000000000", "9" * 300],
    ids=["2^64", "-2^63-1", "2e19", "300 digits"],
)
def test_integers_beyond_64_bits_are_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="beyond 64 bits") as raised:
        strict_json.loads(b'{"a":[' + digits.encode() + b"]}")
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize(
    "text",
    [b'"18446744073709551616"', b"18446744073709551616.0", b"1e19", b'{"18446744073709551616":1}'],
)
def test_long_runs_of_digits_that_are_no_integers_are_taken(text: bytes) -> None:
    strict_json.loads(text)


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_the_integers_that_databases_hold_are_taken(number: int) -> None:
    assert strict_json.check(b"[%d]" % number) == [number]


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_an_integer_that_needs_the_bit_of_the_sign_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} is beyond 64 bits"):
        strict_json.check(b"[%d]" % number)


@pytest.mark.parametrize("text", [b"[" * 254 + b"]" * 254, _OBJECT_DEPTH])
def test_the_deepest_value_can_be_written_again(text: bytes) -> None:
    assert strict_json.dumps(strict_json.check(text)) == text


@pytest.mark.parametrize("text", [b"[" * 255 + b"]" * 255, b"[" + _OBJECT_DEPTH + b"]"])
def test_a_deeper_one_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        strict_json.check(text)


def test_a_large_integer_below_the_stack_of_python_is_refused_all_the_same() -> None:
    with pytest.raises(ValueError, match=r"too deep|64 bits"):
        strict_json.loads(b"[" * 1023 + b"9" * 30 + b"]" * 1023)


def test_many_shallow_values_are_not_deep() -> None:
    assert len(strict_json.check(b"[" + b",".join([b"[]"] * 1000) + b"]")) == 1000


def test_keys_are_sorted_at_every_level_where_asked() -> None:
    value = {"b": [{"d": 1, "c": 2}], "a": 3}
    assert strict_json.dumps(value, sort_keys=True) == b'{"a":3,"b":[{"c":2,"d":1}]}'
    assert strict_json.dumps(value) == b'{"b":[{"d":1,"c":2}],"a":3}'


@pytest.mark.parametrize(
    "text",
    [
        b'{"amount":1,"amount":2}',
        b'{"amount":1,"amount":1}',
        b'{"amount" :1, "amount"\n:2}',
        b'{"amount":1,"amoun\\u0074":2}',
        b'[1,{"b":[{"c":{"amount":{},"d":":","amount":[]}}]}]',
        b'{"a":"\\":","amount":"x:y","amount":0}',
    ],
)
def test_two_members_of_one_name_are_refused_by_their_name(text: bytes) -> None:
    with pytest.raises(ValueError, match="two members 'amount'"):
        strict_json.loads(text)


def test_the_name_of_two_members_is_cut_to_a_readable_length() -> None:
    name = b"n" * 10_000
    with pytest.raises(ValueError, match="two members 'nnn") as raised:
        strict_json.loads(b'{"' + name + b'":1,"' + name + b'":2}')
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"a":1},"b":[{"a":1},{"a":2}]}',
        b'{"a":"\\":\\":","b":"{\\"b\\":1,\\"b\\":2}"}',
        b'{"":"::","a:":":"}',
        b'["a","a"]',
    ],
)
def test_names_that_only_look_alike_are_taken(text: bytes) -> None:
    assert strict_json.loads(text) == json.loads(text)


def test_two_members_of_one_name_deeper_than_the_stack_of_python_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two members|too deep"):
        strict_json.loads(b"[" * 1000 + b'{"a":1,"a":2}' + b"]" * 1000)
