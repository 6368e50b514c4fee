"""`outbox.Webhook`: where the events for one subscriber go, and how.

hook = outbox.Webhook("https://crm.example/hooks/blog", secret="env:CRM_SECRET")
service = outbox.Service("articles", engine, peers={"crm": hook}, routes={Published: ["crm"]})
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, urlsplit

from outbox.errors import InvalidWebhook
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.transports.webhooks.networks import literal_problem
from outbox.transports.webhooks.references import Reference

SCHEME = "webhook+"
"""What the text of a webhook begins with, before the subscriber's own URL."""

DAYS = 86_400.0
PAUSE_AFTER = 3 * DAYS
MOST_IN_BATCH = 1000
MOST_AT_ONCE = 16
ATTEMPTS = 24
RETRY = RetryPolicy(first=5.0, factor=5.0, ceiling=4 * 3600.0, jitter=0.5, attempts=ATTEMPTS)
"""The pauses for an event that a subscriber refuses: 1.5 to 3 days in all."""

_VISIBLE = re.compile(r"[\x21-\x7e]*")
_SECONDS = re.compile(r"([0-9]{1,9})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_YES = {"yes": True, "no": False}
_WRITE = (
    "write it as webhook+https://HOST/PATH#secret=env:NAME; docs/guide/webhooks.md has the options"
)


class Mode(StrEnum):
    """The form in which events are sent."""

    STRUCTURED = "structured"
    """One event a request: a JSON object with all attributes, so that the signature covers all."""
    BINARY = "binary"
    """One event a request: its data is the body, its attributes are `ce-*` headers."""
    BATCH = "batch"
    """Several events a request: a JSON list of structured ones."""


@dataclass(frozen=True)
class Webhook:
    """One subscriber. `url` is the only address that its events are sent to, with its query string
    if it has one; redirects are not followed.

    `secret` is a reference, or several: `env:NAME` or `file:PATH`. Each place may hold several
    secrets (`whsec_...`), with blanks between them; all of them sign. `sagabox_keys` refers to keys
    as SAGABOX_SECRETS has them, for this subscriber alone: then requests have the library's own
    signature, too.

    `mode` is structured, binary or batch; `batch` is how many events a batch holds at most;
    `at_once` how many requests may be under way side by side, for different order keys. `private`
    lets `url` lead to loopback and private addresses, and be plain http. After `pause_after`
    seconds without an answer the destination is paused. `retry` is for an event that the subscriber
    refuses, and `on_exhaustion` for one that is given up.

    Raises InvalidWebhook where one of them cannot be.
    """

    url: str
    secret: str | Sequence[str]
    mode: str = Mode.STRUCTURED
    batch: int = 100
    at_once: int = 4
    private: bool = False
    sagabox_keys: str | None = None
    pause_after: float = PAUSE_AFTER
    retry: RetryPolicy = field(default=RETRY)
    on_exhaustion: OnExhaustion = OnExhaustion.DEAD_LETTER_AND_CONTINUE

    def __post_init__(self) -> None:
        _check_url(self.url, self.private)
        for reference in self.references:
            Reference.parse(reference)
        if self.sagabox_keys is not None:
            Reference.parse(self.sagabox_keys)
        if self.mode not in tuple(Mode):
            raise self._wrong(f"mode={self.mode!r} is none of {', '.join(Mode)}", "choose one")
        for name, most in (("batch", MOST_IN_BATCH), ("at_once", MOST_AT_ONCE)):
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise self._wrong(f"{name}={value} is not 1 to {most}", "choose one of these")
        if not 60 <= self.pause_after < float("inf"):
            raise self._wrong(
                f"pause_after={self.pause_after:g} seconds", "choose 60 or more, such as 3d"
            )

    @property
    def references(self) -> tuple[str, ...]:
        """The places of the secrets. Raises InvalidWebhook where there is none."""
        given = (self.secret,) if isinstance(self.secret, str) else tuple(self.secret)
        if not given or not all(given):
            raise self._wrong(
                "it has no secret, so that the subscriber could not tell who sends",
                "add secret=env:NAME or secret=file:/PATH",
            )
        return given

    @property
    def shown(self) -> str:
        """The URL without what may be a secret in it."""
        return shown(self.url)

    @property
    def target(self) -> str:
        """The path and the query of the URL, as they go over the wire."""
        parts = urlsplit(self.url)
        return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"

    @classmethod
    def parse(cls, text: str) -> Webhook:
        """The webhook in a text such as `webhook+https://host/path#secret=env:NAME&mode=binary`.

        What stands before the # is the subscriber's URL; what stands behind it are the options by
        their names, and never leaves this process. Raises InvalidWebhook.
        """
        if not text.startswith(SCHEME):
            raise InvalidWebhook(f"{shown(text)!r} is no webhook", next_step=_WRITE)
        url, _, told = text.removeprefix(SCHEME).partition("#")
        try:
            pairs = parse_qsl(told, keep_blank_values=True, strict_parsing=bool(told))
        except ValueError:
            raise _wrong(url, "its options cannot be read", _WRITE) from None
        options: dict[str, str] = {}
        secrets: list[str] = []
        for name, value in pairs:
            if name == "secret":
                secrets.append(value)
            elif name not in _OPTIONS:
                known = ", ".join(sorted([*_OPTIONS, "secret"]))
                raise _wrong(url, f"it has no option {name!r}", f"it may have: {known}")
            elif name in options:
                raise _wrong(url, f"the option {name} is there twice", "give it once")
            else:
                options[name] = value
        read = {name: _OPTIONS[name](url, name, value) for name, value in options.items()}
        return cls(url, secrets, **read)  # type: ignore[arg-type]  # each reader gives its own type

    def _wrong(self, problem: str, next_step: str) -> InvalidWebhook:
        return _wrong(self.url, problem, next_step)


def taken_apart(text: str) -> tuple[str, dict[str, Webhook]]:
    """The peers in "name=address,..." without the webhooks, and these by name. Raises ValueError
    that names the part which is wrong."""
    others: list[str] = []
    found: dict[str, Webhook] = {}
    for part in text.split(","):
        name, _, address = (it.strip() for it in part.partition("="))
        if not address.startswith(SCHEME):
            others.append(part)
            continue
        if name in found:
            raise ValueError(f"{name} has two addresses")
        try:
            found[name] = Webhook.parse(address)
        except InvalidWebhook as error:
            raise ValueError(f"{name}: {error}") from None
    return ",".join(others), found


def shown(url: str) -> str:
    """The text without the parts of a URL that may be secrets: those before the @ and behind the ?
    or #."""
    return url.rpartition("@")[2].partition("#")[0].partition("?")[0]


def _wrong(url: str, problem: str, next_step: str) -> InvalidWebhook:
    return InvalidWebhook(f"the webhook {shown(url)}: {problem}", next_step=next_step)


def _check_url(url: str, private: bool) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _wrong(url, str(error), _WRITE) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _wrong(url, "it has no http or https address of a host", _WRITE)
    if parts.username is not None or parts.fragment:
        raise _wrong(url, "it has a user or a fragment", _WRITE)
    if not _VISIBLE.fullmatch(url):
        raise _wrong(url, "it has blanks, or characters beyond ASCII", _WRITE)
    if not private:
        _check_public(url, parts)


def _check_public(url: str, parts: SplitResult) -> None:
    if parts.scheme == "http":
        raise _wrong(
            url,
            "it is plain http, which any machine on the way can read",
            "write https; or private=yes, for a subscriber in your own network",
        )
    problem = literal_problem(parts.hostname or "")
    if problem is not None:
        raise _wrong(url, problem, "write private=yes, if the subscriber is really there")


def _text(_url: str, _name: str, value: str) -> str:
    return value


def _number(url: str, name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise _wrong(url, f"{name}={value[:20]!r} is no number", "write digits alone")
    return int(value)


def _flag(url: str, name: str, value: str) -> bool:
    if value not in _YES:
        raise _wrong(url, f"{name}={value[:20]!r} is neither yes nor no", "write one of the two")
    return _YES[value]


def _duration(url: str, name: str, value: str) -> float:
    match = _SECONDS.fullmatch(value)
    if match is None:
        raise _wrong(url, f"{name}={value[:20]!r} is no time", "write such as 90m, 12h or 3d")
    return float(int(match[1]) * _UNITS[match[2]])


def _policy(url: str, name: str, value: str) -> OnExhaustion:
    known = [it.value for it in OnExhaustion]
    if value not in known:
        raise _wrong(
            url, f"{name}={value[:20]!r} is none of {', '.join(known)}", "write one of these"
        )
    return OnExhaustion(value)


_OPTIONS = {
    "mode": _text,
    "batch": _number,
    "at_once": _number,
    "private": _flag,
    "sagabox_keys": _text,
    "pause_after": _duration,
    "on_exhaustion": _policy,
}
