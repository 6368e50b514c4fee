"""The table of routes, the limit on failures, and keys that stand in settings."""

from __future__ import annotations

import pytest

from outbox.chassis.access.caller import Credential, Shown
from outbox.chassis.access.failed_keys import Failures
from outbox.chassis.access.keys import Key, StaticKeys
from outbox.chassis.access.routes import COMMON, Access, RouteAccess
from outbox.chassis.settings import host_names
from outbox.testing import FakeClock

ROUTES = RouteAccess(
    {
        ("GET", "/things"): Access.PUBLIC,
        ("GET", "/things/{id}"): Access.PUBLIC,
        ("GET", "/things/secret"): Access.ADMIN,
        ("POST", "/{any}/open"): Access.OPEN,
        ("POST", "/things/{id}"): Access.OPERATOR,
        ("GET", "/files/{path:path}"): Access.OPEN,
    }
)


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("GET", "/livez", Access.HEALTH),
        ("POST", "/messages", Access.SIGNED),
        ("GET", "/docs/swagger-ui.css", Access.VIEWER),
        ("HEAD", "/openapi.json", Access.VIEWER),
        ("GET", "/things", Access.PUBLIC),
        ("GET", "/things/7", Access.PUBLIC),
        ("GET", "/files/a/b/../c", Access.OPEN),
        ("GET", "/files/a\nb", Access.OPEN),
        # The strictest counts where several fit.
        ("GET", "/things/secret", Access.ADMIN),
        ("POST", "/things/open", Access.OPERATOR),
        # What is not in the table.
        ("PUT", "/things", Access.ADMIN),
        ("OPTIONS", "/livez", Access.ADMIN),
        ("GET", "/things/7/8", Access.ADMIN),
        ("GET", "/things/", Access.ADMIN),
        ("GET", "/livez/", Access.ADMIN),
        ("GET", "//livez", Access.ADMIN),
        ("GET", "/Livez", Access.ADMIN),
        ("GET", "/livez\n", Access.ADMIN),
        ("GET", "", Access.ADMIN),
        ("get", "/livez", Access.ADMIN),
    ],
)
def test_what_an_address_asks_for(method: str, path: str, needs: Access) -> None:
    assert ROUTES.needed(method, path) is needs


def test_a_service_can_close_what_all_have() -> None:
    closed = RouteAccess({("GET", "/livez"): Access.VIEWER})
    assert COMMON[("GET", "/livez")] is Access.HEALTH
    assert closed.needed("GET", "/livez") is Access.VIEWER


def test_a_peer_with_too_many_failures_waits_until_the_first_one_is_a_minute_ago() -> None:
    clock = FakeClock()
    failures = Failures(clock.monotonic, allowed=3, window=60)
    for _ in range(3):
        assert failures.wait("192.0.2.1") == 0
        failures.note("192.0.2.1")
        clock.advance(10)
    assert failures.wait("192.0.2.1") == 30
    assert failures.wait("192.0.2.2") == 0
    clock.advance(29)
    assert failures.wait("192.0.2.1") == 1
    clock.advance(1)
    assert failures.wait("192.0.2.1") == 0
    failures.note("192.0.2.1")
    assert failures.wait("192.0.2.1") == 10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        (None, "", True),
    ],
)
def test_whom_failures_are_counted_for(one: str | None, other: str, same: bool) -> None:
    failures = Failures(lambda: 0.0, allowed=1)
    failures.note(one)
    assert (failures.wait(other) > 0) is same


def test_failures_take_bounded_memory() -> None:
    failures = Failures(lambda: 0.0, allowed=1, remembered=100)
    for number in range(1000):
        failures.note(f"192.0.{number // 250}.{number % 250}")
    assert len(failures) == 100
    assert failures.wait("192.0.3.249") > 0


async def test_settled_keys_open_what_they_are_for() -> None:
    first = Key("first", frozenset({Access.PUBLIC}))
    second = Key("second", frozenset({Access.VIEWER}))
    keys = StaticKeys({"one": first, "two": second})
    assert await keys.key(Credential(Shown.BEARER, "one")) == first
    assert await keys.key(Credential(Shown.BEARER, "two")) == second
    for wrong in ("", "on", "onee", "One", "three"):
        assert await keys.key(Credential(Shown.BEARER, wrong)) is None
    assert await keys.key(Credential(Shown.COOKIE, "one")) is None
    assert keys.was_right(Credential(Shown.BEARER, "one"))
    assert not keys.was_right(Credential(Shown.BEARER, "three"))


def test_host_names_are_read_as_they_are_compared() -> None:
    assert host_names(" A.example:8000, b.example.,[2001:db8::1] ,") == {
        "a.example",
        "b.example",
        "2001:db8::1",
    }
    with pytest.raises(ValueError, match=r"'http://a\.example' is no host name"):
        host_names("http://a.example")
