"""Who comes in: the decisions alone, on requests as they stand on the wire."""

from __future__ import annotations

import pytest

from outbox.chassis.access.caller import Caller, Shown, caller_of
from outbox.chassis.access.policy import AccessPolicy, Refusal, before_the_key, with_the_key
from outbox.chassis.access.routes import EVERYTHING, Access, Opens, Role

POLICY = AccessPolicy(frozenset({"sagas.example"}), EVERYTHING)
HOME = ("127.0.0.1", "127.0.0.1")
AWAY = ("192.0.2.7", "198.51.100.1")
GUARDED = (Access.PUBLIC, Access.VIEWER, Access.OPERATOR, Access.ADMIN)
Headers = dict[str, str]


def caller(
    headers: Headers | None = None,
    *,
    method: str = "GET",
    ends: tuple[str | None, str | None] = HOME,
    scheme: str = "http",
) -> Caller:
    wire = {"host": "127.0.0.1:8000", **(headers or {})}
    return caller_of(
        method,
        [(name.encode(), value.encode()) for name, value in wire.items()],
        scheme=scheme,
        peer=ends[0],
        local=ends[1],
    )


def decided(
    seen: Caller, needs: Access, *, opened: Opens | None = None, policy: AccessPolicy = POLICY
) -> Refusal | None:
    return before_the_key(seen, needs, policy) or with_the_key(seen, needs, policy, opened)


@pytest.mark.parametrize("needs", GUARDED)
@pytest.mark.parametrize(
    ("host", "peer", "local"),
    [
        ("127.0.0.1:8000", "127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1", "127.0.0.1"),
        ("LocalHost.:9100", "127.0.0.1", "127.0.0.1"),
        ("127.9.9.9", "127.0.0.1", "127.9.9.9"),
        ("[::1]:8000", "::1", "::1"),
        ("localhost:8000", "::ffff:127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
def test_this_machine_comes_in_without_a_key(
    needs: Access, host: str, peer: str, local: str
) -> None:
    assert decided(caller({"host": host}, ends=(peer, local), method="POST"), needs) is None


@pytest.mark.parametrize("needs", GUARDED)
@pytest.mark.parametrize(
    "ends",
    [
        ("192.0.2.7", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.7"),
        AWAY,
        (None, "127.0.0.1"),
        ("127.0.0.1", None),
        ("", "127.0.0.1"),
        ("testclient", "127.0.0.1"),
        ("::ffff:192.0.2.7", "::1"),
        ("127.0.0.1.example", "127.0.0.1"),
    ],
)
def test_from_elsewhere_no_caller_comes_in_without_a_key(
    needs: Access, ends: tuple[str | None, str | None]
) -> None:
    assert decided(caller(ends=ends), needs) is Refusal.NO_CREDENTIALS


@pytest.mark.parametrize(
    "name",
    [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded",
        "x-real-ip",
        "via",
        "cf-connecting-ip",
        "X-Forwarded-For",
        "x_forwarded_for",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
def test_what_was_passed_on_counts_as_from_elsewhere(name: str, value: str) -> None:
    assert decided(caller({name: value}), Access.VIEWER) is Refusal.NO_CREDENTIALS


@pytest.mark.parametrize("needs", [*GUARDED, Access.OPEN])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "sagas.example.evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1:8000, evil.example",
        "127.0.0.1@evil.example",
        "192.0.2.99",
        "2130706433",
        "",
        "[::1",
    ],
)
def test_an_unknown_host_is_refused_with_every_key(needs: Access, host: str) -> None:
    shown = caller({"host": host, "authorization": "Bearer right"})
    assert decided(shown, needs, opened=EVERYTHING) is Refusal.UNKNOWN_HOST


@pytest.mark.parametrize("host", ["sagas.example", "SAGAS.example:443", "198.51.100.1:8000"])
def test_a_known_host_is_no_replacement_for_a_key(host: str) -> None:
    own = "198.51.100.1"
    assert decided(caller({"host": host}, ends=(own, own)), Access.VIEWER) is Refusal.NO_CREDENTIALS
    shown = caller({"host": host, "authorization": "Bearer right"}, ends=AWAY)
    assert decided(shown, Access.VIEWER, opened=Role.VIEWER.opens) is None


@pytest.mark.parametrize("needs", [Access.HEALTH, Access.SIGNED])
def test_health_and_signed_messages_ask_for_nothing(needs: Access) -> None:
    strange = caller({"host": "evil.example", "origin": "http://x"}, ends=AWAY, method="POST")
    assert decided(strange, needs) is None


def test_an_open_route_asks_for_no_key() -> None:
    assert decided(caller({"host": "sagas.example"}, ends=AWAY), Access.OPEN) is None


@pytest.mark.parametrize("ends", [HOME, AWAY])
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
        {"authorization": ""},
        {"authorization": "Bearer wrong", "cookie": "sagabox-session-8000=stale"},
    ],
)
def test_a_wrong_token_is_refused_also_on_this_machine(
    headers: Headers, ends: tuple[str, str]
) -> None:
    assert decided(caller(headers, ends=ends), Access.VIEWER) is Refusal.WRONG_CREDENTIALS


STALE: list[Headers] = [
    {"cookie": "sagabox-session-8000=stale"},
    {"cookie": "sagabox-session-8000="},
    {"cookie": "sagabox-session-8000=one; sagabox-session-8000=two"},
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("needs", GUARDED)
@pytest.mark.parametrize("cookie", STALE)
def test_a_wrong_cookie_is_as_good_as_none_on_this_machine_and_nowhere_else(
    cookie: Headers, needs: Access, method: str
) -> None:
    assert decided(caller(cookie, method=method), needs) is None
    wrong = Refusal.WRONG_CREDENTIALS
    assert decided(caller(cookie, method=method, ends=AWAY), needs) is wrong
    passed_on = cookie | {"x-forwarded-for": "127.0.0.1"}
    assert decided(caller(passed_on, method=method), needs) is wrong
    kept_closed = AccessPolicy(frozenset(), EVERYTHING - {needs})
    assert decided(caller(cookie, method=method), needs, policy=kept_closed) is wrong


def test_a_right_cookie_opens_no_more_than_its_role_on_this_machine_too() -> None:
    right = caller({"cookie": "sagabox-session-8000=right", "sec-fetch-site": "same-origin"})
    assert decided(right, Access.ADMIN, opened=Role.VIEWER.opens) is Refusal.FORBIDDEN


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("ends", [HOME, AWAY])
def test_a_role_opens_what_is_its_own_and_no_more(role: Role, ends: tuple[str, str]) -> None:
    shown = caller({"authorization": "bearer right"}, ends=ends)
    roles = list(Role)
    for needs in roles:
        enough = roles.index(role) >= roles.index(needs)
        refusal = decided(shown, Access(needs.value), opened=role.opens)
        assert refusal is (None if enough else Refusal.FORBIDDEN)
    assert decided(shown, Access.PUBLIC, opened=role.opens) is Refusal.FORBIDDEN


def test_where_the_public_routes_have_a_token_this_machine_needs_it_too() -> None:
    policy = AccessPolicy(frozenset(), EVERYTHING - {Access.PUBLIC})
    assert decided(caller(), Access.PUBLIC, policy=policy) is Refusal.NO_CREDENTIALS
    assert decided(caller(), Access.VIEWER, policy=policy) is None


ELSEWHERE: list[Headers] = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:3000"},
    {"origin": "http://localhost:8000"},
    {"origin": "http://127.0.0.1:8000.evil.example"},
    {"origin": "http://evil.example, http://127.0.0.1:8000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8000"},
    {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
]
KEYS: list[Headers] = [
    {},
    {"authorization": "Bearer right"},
    {"cookie": "sagabox-session-8000=right"},
]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "STRANGE"])
@pytest.mark.parametrize("needs", [*GUARDED, Access.OPEN])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("author", ELSEWHERE)
def test_another_site_changes_nothing(
    author: Headers, key: Headers, needs: Access, method: str
) -> None:
    seen = caller(author | key | {"sec-fetch-mode": "navigate"}, method=method)
    assert decided(seen, needs, opened=EVERYTHING) is Refusal.CROSS_SITE
    # Nor where the key is wrong, and would not be needed here.
    assert decided(seen, needs) is Refusal.CROSS_SITE


@pytest.mark.parametrize("key", [KEYS[0], KEYS[2]])
@pytest.mark.parametrize("author", ELSEWHERE)
def test_another_site_loads_nothing_with_our_trust_but_may_link_here(
    author: Headers, key: Headers
) -> None:
    assert decided(caller(author | key), Access.VIEWER, opened=EVERYTHING) is Refusal.CROSS_SITE
    assert decided(caller(author | key), Access.VIEWER) is Refusal.CROSS_SITE
    followed = caller(author | key | {"sec-fetch-mode": "navigate"})
    assert decided(followed, Access.VIEWER, opened=EVERYTHING) is None


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ({"origin": "http://127.0.0.1:8000"}, "http"),
        ({"sec-fetch-site": "same-origin"}, "http"),
        ({"sec-fetch-site": "none"}, "http"),
        ({"host": "sagas.example", "origin": "https://sagas.example"}, "http"),
        ({"host": "sagas.example:443", "origin": "https://sagas.example"}, "https"),
        ({"host": "sagas.example", "origin": "https://sagas.example:443"}, "https"),
    ],
)
def test_our_own_pages_change_things_with_the_cookie(headers: Headers, scheme: str) -> None:
    port = headers.get("host", ":8000").partition(":")[2]
    cookie = {"cookie": f"a=b; sagabox-session{'-' if port else ''}{port}=right"}
    seen = caller(headers | cookie, method="POST", scheme=scheme)
    assert seen.credential.shown is Shown.COOKIE
    assert decided(seen, Access.OPERATOR, opened=Role.OPERATOR.opens) is None


def test_a_page_without_tls_is_another_site_where_we_have_it() -> None:
    headers = {"host": "sagas.example", "origin": "http://sagas.example"}
    seen = caller(headers, method="POST", scheme="https")
    assert decided(seen, Access.OPEN) is Refusal.CROSS_SITE


def test_a_cookie_of_a_change_needs_to_hear_that_our_own_page_asks() -> None:
    cookie = {"cookie": "sagabox-session-8000=right"}
    silent = caller(cookie, method="POST")
    assert decided(silent, Access.OPERATOR, opened=EVERYTHING) is Refusal.CROSS_SITE
    assert decided(caller(cookie), Access.VIEWER, opened=EVERYTHING) is None


def test_a_token_counts_before_a_cookie() -> None:
    both = caller({"authorization": "Bearer one", "cookie": "sagabox-session-8000=two"})
    assert (both.credential.shown, both.credential.secret) == (Shown.BEARER, "one")


def test_two_cookies_of_one_name_are_none() -> None:
    name = "sagabox-session-8000"
    assert caller({"cookie": f"{name}=a; {name}=b"}).credential.secret == ""
    assert caller({"cookie": f"{name}=a; {name}=a"}).credential.secret == "a"
    assert caller({"cookie": "sagabox-session-9000=a"}).credential.shown is Shown.NOT


def test_headers_that_stand_there_twice_fit_nothing() -> None:
    twice = [(b"host", b"127.0.0.1"), (b"host", b"127.0.0.1")]
    seen = caller_of("GET", twice, scheme="http", peer=HOME[0], local=HOME[1])
    assert decided(seen, Access.VIEWER) is Refusal.UNKNOWN_HOST
    twice = [(b"host", b"127.0.0.1"), *[(b"authorization", b"Bearer right")] * 2]
    seen = caller_of("GET", twice, scheme="http", peer=HOME[0], local=HOME[1])
    assert decided(seen, Access.VIEWER) is Refusal.WRONG_CREDENTIALS


def test_a_secret_is_in_no_repr() -> None:
    assert "right" not in repr(caller({"authorization": "Bearer right"}))
