"""The Standard Webhooks signature, held to a published example and to its own words."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from outbox.errors import InvalidWebhook
from outbox.transports.webhooks.signing import secrets_in, sign
from tests.support.outbox.subscribers import KEY, SECRET, is_signed

NOW = datetime(2030, 1, 31, 12, 0, 0, 900_000, UTC)


def _written(secret: bytes) -> str:
    return "whsec_" + base64.b64encode(secret).decode()


def test_the_example_of_the_standards_libraries_has_their_signature() -> None:
    secrets = secrets_in("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "the example")
    moment = datetime.fromtimestamp(1_614_265_330, UTC)
    body = b'{"test": 2432232314}'
    assert sign(secrets, id="msg_p5jXN8AQM9LWM0D4loKWxJek", body=body, now=moment) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_of_several_secrets_signs_so_that_one_can_be_changed() -> None:
    new = b"n" * 32
    headers = sign(secrets_in(f"{SECRET}\n{_written(new)}", "x"), id="i", body=b"{}", now=NOW)
    assert headers["webhook-signature"].count("v1,") == 2
    assert is_signed(headers, b"{}", KEY)
    assert is_signed(headers, b"{}", new)
    assert not is_signed(headers, b"{}", b"another key of many bytes")
    assert not is_signed(headers, b"{ }", KEY)
    assert headers["webhook-timestamp"] == str(int(NOW.timestamp()))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no secret"),
        ("c2VjcmV0", "does not begin with whsec_"),
        ("whsec_***", "is not base64"),
        (_written(b"short"), "has 5 bytes, and 24 to 64"),
        (_written(b"l" * 65), "has 65 bytes"),
        (f"{SECRET} whsec_***", "secret 2 of env:A is not base64"),
    ],
)
def test_a_secret_that_cannot_be_is_refused_without_being_shown(text: str, problem: str) -> None:
    with pytest.raises(InvalidWebhook, match=problem) as error:
        secrets_in(text, "env:A")
    assert "token_bytes(32)" in error.value.next_step
    assert not text or text.removeprefix("whsec_") not in str(error.value)
