"""What each status of a subscriber means for the events of its request."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from outbox.transports.base import Unreachable
from outbox.transports.webhooks.answers import LONGEST_WAIT, Declined, Status, Taken, meaning
from outbox.transports.webhooks.networks import is_public

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_every_2xx_takes_the_event(code: int) -> None:
    assert meaning(Status(code, told=b"thanks"), NOW) == Taken()


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_refused_and_says_that_the_url_is_wrong(code: int) -> None:
    found = meaning(Status(code), NOW)
    assert isinstance(found, Declined)
    assert "correct the URL" in found.reason


@pytest.mark.parametrize(
    ("code", "is_of_one"),
    [(400, True), (413, True), (422, True), (401, False), (404, False), (409, False)],
)
def test_a_4xx_is_the_failure_of_its_events(code: int, is_of_one: bool) -> None:
    found = meaning(Status(code, told=b'{ "detail":\n "no" }'), NOW)
    assert isinstance(found, Declined)
    assert found.is_of_one is is_of_one
    assert found.reason.endswith(': { "detail": "no" }')


def test_410_says_that_the_subscriber_is_gone() -> None:
    found = meaning(Status(410), NOW)
    assert isinstance(found, Unreachable)
    assert (found.gone, found.sent) == (True, False)


@pytest.mark.parametrize(
    ("code", "retry_after", "wait", "sent"),
    [
        (429, None, None, False),
        (429, "7", 7.0, False),
        (503, "7", 7.0, False),
        (503, "Thu, 31 Jan 2030 12:01:00 GMT", 60.0, False),
        (503, "Thu, 31 Jan 2030 11:00:00 GMT", 0.0, False),
        (503, "99999999", LONGEST_WAIT, False),
        (503, "soon", None, True),
        (503, f"Thu, 31 Jan 2030 12:01:00 +{'9' * 20}", None, True),
        (503, None, None, True),
        (500, None, None, True),
        (599, None, None, True),
    ],
)
def test_429_and_5xx_are_the_destinations_trouble(
    code: int, retry_after: str | None, wait: float | None, sent: bool
) -> None:
    found = meaning(Status(code, retry_after), NOW)
    assert isinstance(found, Unreachable)
    assert (found.retry_after, found.sent, found.gone) == (wait, sent, False)


def test_what_a_subscriber_says_is_cut() -> None:
    found = meaning(Status(400, told=b"x" * 100_000), NOW)
    assert isinstance(found, Declined)
    assert len(found.reason) < 300


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),
    ],
)
def test_only_addresses_of_the_public_network_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public
