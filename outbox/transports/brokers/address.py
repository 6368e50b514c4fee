"""Addresses of brokers, as settings write them. They need none of the brokers' own libraries.

nats://127.0.0.1:4222?partitions=16
amqp://user:secret@rabbit:5672/vhost
rediss://redis:6380/0?prefix=shop
kafka://kafka-1:9092,kafka-2:9092
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from outbox.errors import InvalidService
from outbox.transports.brokers.broker import PREFIX

if TYPE_CHECKING:
    from ssl import SSLContext

DEFAULT_PARTITIONS = 16
MOST_PARTITIONS = 32
"""No lease has a larger number; and each partition is a queue of its own at some brokers."""

_PORTS: Mapping[str, int] = {
    "amqp": 5672,
    "amqps": 5671,
    "kafka": 9092,
    "kafka+tls": 9093,
    "nats": 4222,
    "nats+tls": 4222,
    "redis": 6379,
    "rediss": 6379,
}
KINDS: Mapping[str, str] = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "kafka": "kafka",
    "kafka+tls": "kafka",
    "nats": "nats",
    "nats+tls": "nats",
    "redis": "redis",
    "rediss": "redis",
}
"""From the scheme of an address to the extra that its adapter needs, which is also its name."""

_WRITE = (
    "write it as nats://host:4222 or nats://one:4222,two:4222, as "
    "amqp://user:secret@host:5672/vhost, redis://host:6379/0 or kafka://host:9092; "
    "docs/operate/brokers.md has the options"
)
_TLS = frozenset({"amqps", "kafka+tls", "nats+tls", "rediss"})
_OWN_OPTIONS = frozenset({"partitions", "prefix"})
_FILES = ("ca", "cert", "key")


@dataclass(frozen=True)
class BrokerAddress:
    """Where a broker is, and how its queues are named and divided. `options` are those that only
    its adapter understands."""

    kind: str
    servers: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    """What follows the server, without its slash: a virtual host, or the number of a database."""
    tls: bool = False
    partitions: int = DEFAULT_PARTITIONS
    prefix: str = PREFIX
    options: Mapping[str, str] = field(default_factory=dict)
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """The names of all options that stand in its text."""

    @classmethod
    def parse(cls, text: str) -> BrokerAddress:
        """Raises InvalidService where it is no address of a broker, or has an option that has no
        effect there."""
        scheme, separator, rest = text.strip().partition("://")
        scheme = scheme.lower()
        if not separator or ":" in scheme:  # which may belong to a secret
            _refuse(f"{_without_secret(text)!r} is no address of a broker")
        if scheme not in KINDS:
            _refuse(
                f"{_without_secret(text)!r} is no address of a broker: its scheme {scheme[:20]!r} "
                f"is none of {', '.join(KINDS)}"
            )
        place, _, query = rest.partition("?")
        access, _, hosts = place.rpartition("@")
        if "://" in hosts:
            _refuse(f"{_without_secret(text)!r} names its scheme twice, and has several servers")
        hosts, _, path = hosts.partition("/")
        servers = tuple(_server(each, scheme) for each in hosts.split(","))
        user, _, password = access.partition(":")
        options = options_in(query)
        found = cls(
            kind=KINDS[scheme],
            servers=servers,
            user=unquote(user) or None,
            password=unquote(password) or None,
            path=unquote(path),
            tls=scheme in _TLS,
            partitions=_partitions(options.get("partitions", str(DEFAULT_PARTITIONS))),
            prefix=_prefix(options.get("prefix", PREFIX)),
            options={name: it for name, it in options.items() if name not in _OWN_OPTIONS},
            given=frozenset(options),
        )
        found._require_files_count(scheme)
        return found

    def __str__(self) -> str:
        """The address without its secret, for logs and for errors."""
        servers = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.servers)
        return f"{self.kind} at {servers}{f'/{self.path}' if self.path else ''}"

    @property
    def url(self) -> str:
        """It as a URL of its first server, without its secret, for a person."""
        host, port = self.servers[0]
        scheme = next(it for it, kind in KINDS.items() if kind == self.kind)
        return f"{scheme}://{_bracketed(host)}:{port}"

    def trusting(self) -> SSLContext:
        """The certificates that its options name. Raises InvalidService where a file cannot be
        read."""
        import ssl

        given = self.options
        try:
            context = ssl.create_default_context(cafile=given.get("ca"))
            if "cert" in given:
                context.load_cert_chain(given["cert"], given.get("key"))
        except OSError as error:
            raise InvalidService(
                f"the certificates of {self} cannot be read: {error}",
                next_step="let ca, cert and key of the address be paths of PEM files",
            ) from error
        return context

    def _require_files_count(self, scheme: str) -> None:
        file = next((it for it in _FILES if it in self.given), None)
        # A NATS may ask for TLS by itself, under any scheme.
        if file is not None and not self.tls and self.kind != "nats":
            secure = next(it for it in sorted(_TLS) if KINDS[it] == self.kind)
            _refuse(
                f"the address of {self} has the option {file!r}, which has no effect without TLS",
                f"write {secure}:// in place of {scheme}://, or leave the option out",
            )
        if "key" in self.given and "cert" not in self.given:
            _refuse(
                f"the address of {self} has the option 'key', which has no effect without cert",
                "name the certificate of that key with cert=, or leave the key out",
            )

    def require_options(self, known: frozenset[str]) -> None:
        """Raises InvalidService where there is an option that the adapter does not know."""
        for name in self.options:
            if name not in known:
                _refuse(
                    f"the address of {self} has the option {name!r}, which it does not know; it "
                    f"knows {', '.join(sorted(known | _OWN_OPTIONS))}"
                )


def options_in(query: str) -> dict[str, str]:
    """The options behind the ? of an address. Raises InvalidService where one stands twice."""
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if any("@" in name or "/" in name for name in options):
        # What is behind a ? of a password must not be shown.
        _refuse("an address has a ? before its server; write one in a password as %3F")
    if len(options) < len(pairs):
        twice = next(it for it, _ in pairs if sum(it == name for name, _ in pairs) > 1)
        _refuse(f"an address has the option {twice!r} twice", "leave one of them out")
    return options


def is_broker(text: str) -> bool:
    """Whether that is the address of a broker, as its scheme says."""
    scheme, separator, _ = text.strip().partition("://")
    return bool(separator) and scheme.lower() in KINDS


def addresses_in(text: str) -> list[str]:
    """The addresses of brokers in a list with commas between them; a part without a scheme is a
    further server of the address before it. Raises InvalidService where one is none."""
    found: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if found and "://" not in part.partition("?")[0]:
            found[-1] += f",{part}"
        else:
            found.append(part)
    for address in found:
        BrokerAddress.parse(address)
    return found


def _server(text: str, scheme: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        # It may be a user and a secret, before a server that was forgotten.
        _refuse("a server of an address is not host:port")
    if not host:
        _refuse("an address of a broker names no server")
    return host, _PORTS[scheme] if port is None else port


def _partitions(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= MOST_PARTITIONS):
        _refuse(f"partitions={text[:50]} is not a number from 1 to {MOST_PARTITIONS}")
    return int(text)


def _prefix(text: str) -> str:
    if not text or len(text) > 50 or not text.replace("-", "").replace("_", "").isalnum():
        _refuse(f"prefix={text[:60]!r} is not 1 to 50 letters, digits, - and _")
    return text


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _without_secret(text: str) -> str:
    return text.rpartition("@")[2][:100]


def _refuse(problem: str, next_step: str = _WRITE) -> NoReturn:
    raise InvalidService(problem, next_step=next_step)
