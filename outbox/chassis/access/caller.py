"""The caller of a request, as its connection and headers show it, before any of it is believed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::(\d{1,5}))?")
_ORIGIN = re.compile(r"(https?)://([^/?#@]+)")
_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,4096})", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_COOKIE = "sagabox-session"

FORWARDING = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-host",
        "true-client-ip",
        "cf-connecting-ip",
        "fastly-client-ip",
    }
)
"""The headers that proxies add, the common ones beside those with a specification; and all that
begin with x-forwarded."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Author(Enum):
    """The page that made a browser send the request, as far as the browser says."""

    UNSAID = "unsaid"
    """The caller is no browser, or one that does not say."""
    OURSELVES = "ourselves"
    """A page of this very service, or the user by the browser's address bar."""
    ANOTHER = "another"
    """A page of another site, or of another port of this one."""


class Shown(Enum):
    """The way in which a key was shown."""

    NOT = "not"
    BEARER = "bearer"
    COOKIE = "cookie"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Credential:
    """The credential of a request. `secret` is empty where the request shows no readable one."""

    shown: Shown
    secret: str = ""

    def __repr__(self) -> str:
        # Without the secret: a repr ends up in logs.
        return f"Credential({self.shown.value})"


@dataclass(frozen=True)
class Caller:
    """The caller of one request. `peer` and `local` are the addresses of the connection, None where
    it has none; `host` is the name in its Host, lower-case and without the port, None unless there
    is exactly one readable Host."""

    method: str
    peer: str | None
    local: str | None
    host: str | None
    forwarded: bool
    author: Author
    navigates: bool
    credential: Credential

    @property
    def changes(self) -> bool:
        """Whether its method may change anything."""
        return self.method not in _SAFE_METHODS

    @property
    def is_of_this_machine(self) -> bool:
        """Whether it seems to be a program of this machine: both ends and the Host are loopback,
        and no header says that the request was passed on. A proxy that adds no header looks the
        same, so only an operator can know whether this means anything."""
        return (
            _is_loopback(self.peer)
            and _is_loopback(self.local)
            and is_loopback_name(self.host)
            and not self.forwarded
        )


def caller_of(
    method: str,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    scheme: str,
    peer: str | None,
    local: str | None,
) -> Caller:
    """The caller by a request's own headers. Names are lower-case, as servers hand them on."""
    found: dict[str, list[str]] = {}
    for raw_name, raw_value in headers:
        # Programs behind this one may read an underscore as a dash.
        name = raw_name.decode("latin-1").lower().replace("_", "-")
        found.setdefault(name, []).append(raw_value.decode("latin-1").strip())
    # A repeated header becomes a value that fits nothing.
    one = {name: ", ".join(values) for name, values in found.items()}
    host, port = _host(one.get("host"))
    return Caller(
        method=method.upper(),
        peer=peer,
        local=local,
        host=host,
        forwarded=any(map(is_forwarding, found)),
        author=_author(one, scheme, host, port),
        navigates=one.get("sec-fetch-mode") == "navigate",
        credential=_credential(one.get("authorization"), found.get("cookie", ()), port),
    )


def is_forwarding(name: str) -> bool:
    """Whether a header of that name says that a proxy passed the request on."""
    plain = name.lower().replace("_", "-")
    return plain in FORWARDING or plain.startswith("x-forwarded")


def cookie_name(port: str | None) -> str:
    """The name of a session's cookie. Browsers send cookies to every port of a name, and two
    services on one machine must not take each other's."""
    return _COOKIE if port is None else f"{_COOKIE}-{port}"


def port_in(host: str | None) -> str | None:
    """The port that a Host header names."""
    return _host(host)[1]


def is_loopback_name(host: str | None) -> bool:
    """Whether that host surely is this machine."""
    return host == "localhost" or _is_loopback(host)


def host_name(text: str) -> str | None:
    """The name in a Host header as it is compared: lower-case, without port, brackets, and dot at
    the end. None where it is none."""
    return _host(text)[0]


def _host(text: str | None) -> tuple[str | None, str | None]:
    match = _HOST.fullmatch((text or "").lower())
    if match is None:
        return None, None
    return match[1].strip("[]").removesuffix(".") or None, match[2]


@lru_cache(1024)
def _is_loopback(address: str | None) -> bool:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _author(one: dict[str, str], scheme: str, host: str | None, port: str | None) -> Author:
    site, origin = one.get("sec-fetch-site"), one.get("origin")
    said = set()
    if site is not None:
        said.add(Author.OURSELVES if site in ("same-origin", "none") else Author.ANOTHER)
    if origin is not None:
        ours = _is_origin(origin.lower(), scheme, host, port)
        said.add(Author.OURSELVES if ours else Author.ANOTHER)
    if Author.ANOTHER in said:
        return Author.ANOTHER
    return Author.OURSELVES if said else Author.UNSAID


def _is_origin(origin: str, scheme: str, host: str | None, port: str | None) -> bool:
    match = _ORIGIN.fullmatch(origin)
    if match is None or host is None:
        return False
    # A proxy may speak https outside and http inside; none does the reverse.
    if scheme == "https" and match[1] != "https":
        return False
    default = _DEFAULT_PORTS[match[1]]
    name, named = _host(match[2])
    return (name, named or default) == (host, port or default)


def _credential(authorization: str | None, cookies: Iterable[str], port: str | None) -> Credential:
    if authorization is not None:
        match = _BEARER.fullmatch(authorization)
        if match is None:
            return Credential(Shown.UNREADABLE)
        return Credential(Shown.BEARER, match[1])
    pairs = (pair.partition("=") for line in cookies for pair in line.split(";"))
    values = {value.strip() for name, _, value in pairs if name.strip() == cookie_name(port)}
    match list(values):
        case []:
            return Credential(Shown.NOT)
        case [value]:
            return Credential(Shown.COOKIE, value)
        case _:
            return Credential(Shown.COOKIE)
