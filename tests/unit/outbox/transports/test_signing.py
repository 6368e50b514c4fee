from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from outbox.errors import InvalidKeyring, UntrustedRequest
from outbox.transports.http.signing import (
    KEY_ID_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Keyring,
    sign,
    verify,
)
from outbox.wire.envelope import to_binary
from tests.support.outbox.envelopes import a_full_envelope

NOW = datetime(2030, 1, 31, 12, 0, 0, 900_000, UTC)
OLD, NEW = b"o" * 32, b"n" * 32
KEYS = Keyring({"k1": OLD}, "k1")
HEADERS = {
    "Content-Type": "application/cloudevents-batch+json",
    "Sagabox-Settled": "0190a5d0-0000-7000-8000-000000000000;live=",
    "User-Agent": "httpx",
}


def _signed(keyring: Keyring = KEYS, now: datetime = NOW, **changes: Any) -> dict[str, Any]:
    """A signed request, as the arguments of `verify` but for the keyring and the time."""
    parts: dict[str, Any] = {
        "method": "POST",
        "target": "/messages?mode=batch",
        "headers": HEADERS,
        "body": b"[]",
    } | changes
    own = sign(keyring, **parts, now=now)
    return parts | {"headers": dict(parts["headers"]) | own}


# --- What is accepted ------------------------------------------------------------------------


def test_a_signed_request_is_accepted_and_its_key_named() -> None:
    assert verify(KEYS, **_signed(), now=NOW) == "k1"


@settings(deadline=None)
@given(
    st.sampled_from(["POST", "PUT"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n")),
    st.dictionaries(
        st.sampled_from(["content-type", "sagabox-settled", "ce-id", "ce-type", "x-other"]),
        st.text(st.characters(codec="latin-1", exclude_characters="\r\n")),
    ),
    st.binary(),
)
def test_every_signed_request_is_accepted(
    method: str, target: str, headers: dict[str, str], body: bytes
) -> None:
    request = _signed(method=method, target=target, headers=headers, body=body)
    assert verify(KEYS, **request, now=NOW) == "k1"


def test_the_case_of_names_and_blanks_around_values_do_not_matter() -> None:
    request = _signed()
    request["headers"] = {
        name.swapcase(): f" {value}\t" for name, value in request["headers"].items()
    }
    assert verify(KEYS, **request | {"method": "post"}, now=NOW) == "k1"


def test_headers_that_are_not_covered_may_change_on_the_way() -> None:
    request = _signed()
    request["headers"] |= {"User-Agent": "other", "Via": "proxy", "Host": "elsewhere"}
    assert verify(KEYS, **request, now=NOW) == "k1"


def test_an_event_in_binary_mode_is_covered_with_its_headers() -> None:
    headers, body = to_binary(a_full_envelope())
    request = _signed(headers=headers, body=body)
    assert verify(KEYS, **request, now=NOW) == "k1"
    for name in [name for name in headers if name.startswith("ce-")]:
        changed = request | {"headers": request["headers"] | {name: "changed"}}
        with pytest.raises(UntrustedRequest, match="does not fit"):
            verify(KEYS, **changed, now=NOW)
        fewer = {other: value for other, value in request["headers"].items() if other != name}
        with pytest.raises(UntrustedRequest, match="does not fit"):
            verify(KEYS, **request | {"headers": fewer}, now=NOW)


def test_the_signed_lines_are_those_that_the_documentation_lists() -> None:
    # Written out by hand: a sender in another language has nothing but this list.
    request = _signed(headers=HEADERS | {"ce-type": "t", "ce-id": "7"})
    lines = (
        "sagabox-signature-v1\nPOST\n/messages?mode=batch\n1896091200\nk1\n"
        "application/cloudevents-batch+json\n0190a5d0-0000-7000-8000-000000000000;live=\n"
        f"{hashlib.sha256(b'[]').hexdigest()}\nce-id:7\nce-type:t"
    )
    expected = hmac.new(OLD, lines.encode(), "sha256").hexdigest()
    assert request["headers"][TIMESTAMP_HEADER] == "1896091200"
    assert request["headers"][KEY_ID_HEADER] == "k1"
    assert request["headers"][SIGNATURE_HEADER] == expected


# --- What is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("method", "PUT"),
        ("target", "/messages?mode=single"),
        ("target", "/messages"),
        ("target", "/other?mode=batch"),
        ("body", b"[ ]"),
        ("body", b""),
    ],
)
def test_a_changed_part_is_refused(part: str, value: object) -> None:
    with pytest.raises(UntrustedRequest, match="does not fit"):
        verify(KEYS, **_signed() | {part: value}, now=NOW)


@pytest.mark.parametrize("name", ["Content-Type", "Sagabox-Settled", TIMESTAMP_HEADER])
def test_a_changed_header_is_refused(name: str) -> None:
    request = _signed()
    request["headers"][name] = "1896091201" if name == TIMESTAMP_HEADER else "changed"
    with pytest.raises(UntrustedRequest, match="does not fit"):
        verify(KEYS, **request, now=NOW)


@pytest.mark.parametrize("name", ["Content-Type", "Sagabox-Settled"])
def test_an_added_or_removed_header_is_refused(name: str) -> None:
    fewer = {other: value for other, value in HEADERS.items() if other != name}
    added = _signed(headers=fewer)
    added["headers"][name] = HEADERS[name]
    removed = _signed()
    del removed["headers"][name]
    for request in (added, removed):
        with pytest.raises(UntrustedRequest, match="does not fit"):
            verify(KEYS, **request, now=NOW)


def test_an_added_event_header_is_refused() -> None:
    request = _signed()
    request["headers"]["ce-undoes"] = "0190a5d0-0000-7000-8000-000000000000"
    with pytest.raises(UntrustedRequest, match="does not fit"):
        verify(KEYS, **request, now=NOW)


@settings(deadline=None)
@given(st.binary(min_size=1), st.data())
def test_no_bit_of_the_body_can_be_changed(body: bytes, data: st.DataObject) -> None:
    request = _signed(body=body)
    position = data.draw(st.integers(0, len(body) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(body)
    changed[position] ^= 1 << bit
    with pytest.raises(UntrustedRequest):
        verify(KEYS, **request | {"body": bytes(changed)}, now=NOW)


@settings(deadline=None)
@given(
    st.tuples(*[st.text("a:\t ", max_size=4)] * 3), st.tuples(*[st.text("a:\t ", max_size=4)] * 3)
)
def test_no_text_can_pass_from_one_part_into_the_next(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    def headers(parts: tuple[str, str, str]) -> dict[str, str]:
        return {"content-type": parts[0], "sagabox-settled": parts[1], "ce-a": parts[2]}

    assume([text.strip(" \t") for text in one] != [text.strip(" \t") for text in other])
    signatures = {
        _signed(headers=headers(each))["headers"][SIGNATURE_HEADER] for each in (one, other)
    }
    assert len(signatures) == 2


@pytest.mark.parametrize("missing", [KEY_ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_request_that_is_not_signed_is_refused(missing: str, how: str) -> None:
    request = _signed()
    if how == "absent":
        del request["headers"][missing]
    else:
        request["headers"][missing] = " "
    with pytest.raises(UntrustedRequest, match="not signed") as raised:
        verify(KEYS, **request, now=NOW)
    assert missing in raised.value.next_step


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (TIMESTAMP_HEADER, "now"),
        (TIMESTAMP_HEADER, "-1"),
        (TIMESTAMP_HEADER, "1e9"),
        (TIMESTAMP_HEADER, "٣"),
        (TIMESTAMP_HEADER, "9" * 5000),
        (SIGNATURE_HEADER, "abc"),
        (SIGNATURE_HEADER, "A" * 64),
        (SIGNATURE_HEADER, "é" * 64),
        (SIGNATURE_HEADER, "0" * 65),
    ],
)
def test_a_signature_of_another_form_is_refused(name: str, value: str) -> None:
    request = _signed()
    request["headers"][name] = value
    with pytest.raises(UntrustedRequest, match="not of the expected form"):
        verify(KEYS, **request, now=NOW)


def test_a_wrong_secret_and_an_unknown_key_are_told_apart() -> None:
    with pytest.raises(UntrustedRequest, match=r"does not fit .* 'k1'"):
        verify(Keyring({"k1": NEW}, "k1"), **_signed(), now=NOW)
    with pytest.raises(UntrustedRequest, match="'k1', which is not valid here"):
        verify(Keyring({"k2": OLD}, "k2"), **_signed(), now=NOW)


@pytest.mark.parametrize("break_", ["\n", "\r", "\r\n"])
def test_a_line_break_is_never_signed_nor_accepted(break_: str) -> None:
    tampered = f"a{break_}b"
    for part in (
        {"target": tampered},
        {"method": tampered},
        {"headers": HEADERS | {"ce-id": tampered}},
        {"headers": HEADERS | {f"ce-{tampered}": "7"}},
    ):
        with pytest.raises(ValueError, match="line break"):
            _signed(**part)
    request = _signed()
    for part in (
        {"target": tampered},
        {"headers": request["headers"] | {"ce-id": tampered}},
    ):
        with pytest.raises(UntrustedRequest, match="line break"):
            verify(KEYS, **request | part, now=NOW)


class _Headers(Mapping[str, str]):
    """Names may come twice, as in Starlette's headers: a look-up gives the first."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def __getitem__(self, name: str) -> str:
        return next(value for other, value in self.pairs if other == name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def items(self) -> Any:
        return list(self.pairs)


@pytest.mark.parametrize("name", ["ce-id", "Content-Type", "Sagabox-Settled", SIGNATURE_HEADER])
def test_a_covered_header_that_comes_twice_is_refused(name: str) -> None:
    request = _signed(headers=HEADERS | {"ce-id": "7"})
    doubled = _Headers(*request["headers"].items(), (name.lower(), "other"))
    with pytest.raises(UntrustedRequest, match=f"'{name.lower()}' is there twice"):
        verify(KEYS, **request | {"headers": doubled}, now=NOW)


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []

    def compare(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return False

    request = _signed()
    monkeypatch.setattr(hmac, "compare_digest", compare)
    with pytest.raises(UntrustedRequest, match="does not fit"):
        verify(KEYS, **request, now=NOW)
    signature = request["headers"][SIGNATURE_HEADER]
    assert compared == [(signature, signature)]


# --- The window ------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "fresh"), [(-301, False), (-299, True), (299, True)])
def test_a_request_is_accepted_within_the_window_only(seconds: int, fresh: bool) -> None:
    request = _signed()
    moment = NOW + timedelta(seconds=seconds)
    if fresh:
        assert verify(KEYS, **request, now=moment) == "k1"
    else:
        with pytest.raises(UntrustedRequest, match="in the future, and 300 s are allowed"):
            verify(KEYS, **request, now=moment)


def test_a_stale_request_is_refused_with_its_age() -> None:
    with pytest.raises(UntrustedRequest, match="signed 3601 s ago") as raised:
        verify(KEYS, **_signed(), now=NOW + timedelta(hours=1))
    assert "clocks" in raised.value.next_step


def test_the_window_is_the_receivers_own() -> None:
    strict = Keyring({"k1": OLD}, "k1", window=10)
    assert verify(strict, **_signed(), now=NOW + timedelta(seconds=9)) == "k1"
    with pytest.raises(UntrustedRequest, match="10 s are allowed"):
        verify(strict, **_signed(), now=NOW + timedelta(seconds=11))


# --- Keyrings --------------------------------------------------------------------------------


def test_during_a_rotation_both_keys_are_valid_and_nothing_is_refused() -> None:
    before = Keyring({"k1": OLD}, "k1")
    added = Keyring({"k1": OLD, "k2": NEW}, "k1")
    signing = Keyring({"k1": OLD, "k2": NEW}, "k2")
    after = Keyring({"k2": NEW}, "k2")
    stages = [before, added, signing, after]
    # Services are restarted one by one, so that neighbouring stages talk to each other.
    for sender, receiver in pairwise(stages):
        assert verify(receiver, **_signed(sender), now=NOW) == sender.signing
        assert verify(sender, **_signed(receiver), now=NOW) == receiver.signing
    with pytest.raises(UntrustedRequest, match="not valid here"):
        verify(after, **_signed(before), now=NOW)


def test_a_setting_lists_the_keys_and_the_first_signs() -> None:
    text = f"k2:{base64.b64encode(NEW).decode()}, k1:{base64.b64encode(OLD).decode()}"
    keyring = Keyring.from_text(text)
    assert keyring.signing == "k2"
    assert (keyring.secret_of("k1"), keyring.secret_of("k2")) == (OLD, NEW)
    assert keyring.secret_of("k3") is None
    assert keyring.window == 300


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_both_base64_alphabets_are_read_with_and_without_padding(encode: Any) -> None:
    secret = b"\xff\xfe\xfb" * 11 + b"\xff"
    text = encode(secret).decode()
    assert Keyring.from_text(f"k1:{text}").secret_of("k1") == secret
    assert Keyring.from_text(f"k1:{text.rstrip('=')}").secret_of("k1") == secret


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "key 1 .* id:base64"),
        ("k1", "key 1 .* id:base64"),
        ("k1:" + "A" * 44 + ",k2", "key 2 .* id:base64"),
        ("k1:" + "A" * 44 + ",", "key 2 .* id:base64"),
        (":" + "A" * 44, "no key id"),
        ("k 1:" + "A" * 44, "no key id"),
        ("k" * 65 + ":" + "A" * 44, "no key id"),
        ("k1:*", "not base64"),
        ("k1:", "0 bytes"),
        ("k1:" + "A" * 40, "30 bytes"),
        ("k1:" + "A" * 44 + ",k1:" + "B" * 44, "twice"),
    ],
)
def test_a_setting_that_is_no_keyring_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidKeyring, match=why) as raised:
        Keyring.from_text(text)
    assert raised.value.next_step
    assert "AAAA" not in str(raised.value)


def test_a_secret_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(InvalidKeyring, match="31 bytes"):
        Keyring({"k1": b"x" * 31}, "k1")


def test_the_signing_key_must_be_one_of_the_keys() -> None:
    with pytest.raises(InvalidKeyring, match="'k2' is not among the keys"):
        Keyring({"k1": OLD}, "k2")
    with pytest.raises(InvalidKeyring):
        Keyring({}, "")


@pytest.mark.parametrize("window", [0, -1, float("inf"), float("nan")])
def test_a_window_that_accepts_nothing_or_everything_is_refused(window: float) -> None:
    with pytest.raises(InvalidKeyring, match="window"):
        Keyring({"k1": OLD}, "k1", window)


def test_a_keyring_never_shows_its_secrets() -> None:
    assert repr(KEYS) == "Keyring(keys=['k1'], signing='k1')"


def test_changing_the_mapping_afterwards_changes_nothing() -> None:
    keys = {"k1": OLD}
    keyring = Keyring(keys, "k1")
    keys["k1"] = NEW
    assert keyring.secret_of("k1") == OLD
