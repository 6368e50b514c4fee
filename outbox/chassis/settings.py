"""What a service is told from outside: environment variables, each with its meaning.

A service's own settings extend `ServiceSettings`. `documented()` lists a model's variables, for
`--help` and for the documentation, so that neither can drift from what is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from outbox.capture.log_reader import readers_in
from outbox.chassis.access.caller import host_name
from outbox.chassis.access.routes import EVERYTHING, NOTHING, Opens
from outbox.chassis.database_settings import PREFIX, DatabaseSettings
from outbox.database.address.urls import database_url
from outbox.errors import ExtraMissing, InvalidKeyring, OutboxError
from outbox.inbox.limits import InboxLimits
from outbox.relay.settings import DestinationSettings, RelaySettings
from outbox.retry import OnExhaustion
from outbox.transports.addresses.address import Address, shown
from outbox.transports.addresses.destination import Destination, Source
from outbox.transports.addresses.registration import Registration
from outbox.transports.brokers.address import addresses_in
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.topics.topic import topics_in
from outbox.transports.grpc.listen import GrpcListen
from outbox.transports.http.peers import address_in, agreed, peers_in
from outbox.transports.http.signing import DEFAULT_WINDOW, Keyring
from outbox.transports.webhooks.webhook import taken_apart

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
# Databases, selectors and dates take no time of any length; none of these need be longer.
_DAY = 86_400.0
_MONTH = 30 * _DAY


class InvalidSettings(OutboxError):
    """The environment lacks a setting, or has one that cannot be."""


def host_names(text: str) -> frozenset[str]:
    """The names in "one.example,two.example:8000" as they are compared: lower-case, without ports.

    Raises ValueError that names the part which is none.
    """
    found = set()
    for part in filter(None, map(str.strip, text.split(","))):
        name = host_name(part)
        if name is None:
            raise ValueError(f"{part!r} is no host name")
        found.add(name)
    return frozenset(found)


def _host_names_checked(text: str) -> str:
    host_names(text)
    return text


def prefix_of_paths(text: str) -> str:
    """The text, which is empty or such as /shop. Raises ValueError that says what is wrong."""
    if text and not _PREFIX.fullmatch(text):
        raise ValueError(f"{text!r} is no prefix of paths; write it as /shop, with no slash behind")
    return text


def _peers_checked(text: str) -> str:
    _services_in(text)
    return text


def _brokers_checked(text: str) -> str:
    try:
        for address in addresses_in(text):
            broker_at(address)
    except ExtraMissing as error:
        raise ValueError(str(error)) from None
    except OutboxError as error:
        raise ValueError(error.problem) from None
    return text


def _registry_checked(text: str) -> str:
    if text and _destination(text).source is not Source.CONSUL:
        raise ValueError(f"{shown(text)!r} is no http+consul://HOST:8500/NAME")
    return text


def _own_address_checked(text: str) -> str:
    if text and not _destination(text).is_one_address:
        raise ValueError(f"{shown(text)!r} is not one address")
    return text


def _destination(text: str) -> Destination:
    try:
        return Destination.parse(text)
    except OutboxError as error:
        raise ValueError(error.problem) from None


def _services_in(text: str) -> Mapping[str, str]:
    # The list may be the same for all services, and have the webhooks, topics and log readers of
    # some.
    return peers_in(taken_apart(readers_in(topics_in(text)[0])[0])[0])


DatabaseUrl = Annotated[str, AfterValidator(database_url)]
PeerList = Annotated[str, AfterValidator(_peers_checked)]
"""The addresses of peers, as "name=address,..."."""
PeerUrl = Annotated[str, AfterValidator(address_in)]
"""The address of one peer, kept without a slash at its end."""


class ServiceSettings(DatabaseSettings):
    """What every service is told. A service adds `database_url`."""

    secrets: str = Field(
        repr=False,
        description="The secrets that the services share to sign their messages, as "
        "id:base64 with commas between them, 32 bytes or more each. During a rotation there "
        "are two",
    )
    signing_key: str | None = Field(
        default=None,
        description="The id of the secret that this service signs with. Unless set, the first",
    )
    signature_window: float = Field(
        default=DEFAULT_WINDOW,
        gt=0,
        le=_MONTH,
        description="How many seconds a signature's time may be away from this machine's clock",
    )
    peers: PeerList = Field(
        default="",
        # The address of a broker may have a password.
        repr=False,
        description="The services that this one sends to, as name=address with commas between "
        "them. A name may have several addresses, or one that finds them by DNS or Consul: "
        "docs/operate/addresses.md; or that of a broker: docs/operate/brokers.md. It may be the "
        "same for all services",
    )
    broker: Annotated[str, AfterValidator(_brokers_checked)] = Field(
        default="",
        repr=False,
        description="The broker at which the service reads the queue of its name, such as "
        "nats://host:4222, or several with commas between them: docs/operate/brokers.md. Unless "
        "set, it reads none",
    )
    pool_size: int = Field(
        default=20, ge=1, le=200, description="Database connections that are kept open"
    )
    pool_overflow: int = Field(
        default=0, ge=0, le=200, description="Database connections opened on top when it is busy"
    )
    poll_interval: float = Field(
        default=RelaySettings.poll,
        gt=0,
        le=_DAY,
        description="After how many seconds the relay looks for messages that it was not told of",
    )
    relay_batch: int = Field(
        default=RelaySettings.batch,
        ge=1,
        le=1000,
        description="Messages that the relay sends in one request",
    )
    block_keys: str = Field(
        default="",
        description="The destinations, with commas between them, for which a message that is given "
        "up blocks its key until an operator decides, in place of becoming a dead letter. Messages "
        "of sagas never do",
    )
    delivery_timeout: float = Field(
        default=RelaySettings.delivery_timeout,
        ge=0.5,
        le=_DAY,
        description="Seconds that a destination has to answer one request; give every service the "
        "same",
    )
    lease: float = Field(
        default=RelaySettings.lease,
        gt=0,
        le=_DAY,
        description="Seconds after which others take over what a process that fell silent was "
        "sending or running. Where it is less than 2.4 times SAGABOX_DELIVERY_TIMEOUT plus 1.2, "
        "that counts instead. Give every process of a service the same",
    )
    receive_concurrency: int = Field(
        default=8, ge=1, le=200, description="Batches of messages that are worked on at once"
    )
    grpc_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="The port at which the service takes messages over gRPC, too. Without it, it "
        "takes none so",
    )
    grpc_host: str = Field(
        default="127.0.0.1", description="The address at which it listens for gRPC"
    )
    grpc_certificate: Path | None = Field(
        default=None,
        description="A file with the certificate chain, PEM: then gRPC takes only TLS",
    )
    grpc_key: Path | None = Field(
        default=None, description="A file with the private key of that certificate, PEM"
    )
    handler_timeout: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="Seconds that a handler may take that was registered without a timeout of its "
        "own: 30, and on SQLite half a second less than its busy timeout of 5",
    )
    purge_interval: float = Field(
        default=60.0,
        gt=0,
        le=_MONTH,
        description="Seconds between two removals of inbox rows that no sender asks for any more",
    )
    drain_seconds: float = Field(
        default=8.0,
        gt=0,
        le=10,
        description="Seconds that a service which is told to stop gives the work in hand",
    )

    allowed_hosts: Annotated[str, AfterValidator(_host_names_checked)] = Field(
        default="",
        description="The names by which the service may be called from elsewhere, with commas "
        "between them. A request with another Host is refused, loopback and the address of the "
        "connection excepted",
    )
    root_path: Annotated[str, AfterValidator(prefix_of_paths)] = Field(
        default="",
        description="The prefix below which a proxy serves this service, such as /shop, whether it "
        "takes the prefix off the path or not",
    )
    rate_limit: float = Field(
        default=100.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Requests a second that one caller from elsewhere may send for long, and twice "
        "as many at once: with a right token one token, else one address. 0 is no limit",
    )

    register_at: Annotated[str, AfterValidator(_registry_checked)] = Field(
        default="",
        description="The agent of Consul at which the service registers itself while it runs, as "
        "http+consul://127.0.0.1:8500/NAME; docs/operate/addresses.md has the options. Unless set, "
        "nowhere",
    )
    register_as: Annotated[str, AfterValidator(_own_address_checked)] = Field(
        default="",
        description="The address of this process that it registers, such as http://10.0.0.7:8002",
    )
    trust_loopback: bool = Field(
        default=False,
        description="Lets callers on this machine in without a key, as administrators. Never where "
        "a proxy on the same machine passes on what others send: that one is a caller on this "
        "machine, too",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """As pydantic's. Arguments go by the names of fields; outside, each field has the one
        variable that is documented, and not also one that is named like the field."""
        outside = (env_settings, dotenv_settings, file_secret_settings)
        for source in outside:
            source.config = {**source.config, "populate_by_name": False}
        return init_settings, *outside

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable that is read for this field."""
        return _variable(field, cls.model_fields[field])

    @model_validator(mode="after")
    def _one_address_each(self) -> Self:
        self.peer_addresses()
        return self

    @model_validator(mode="after")
    def _registers_whole(self) -> Self:
        if bool(self.register_at) != bool(self.register_as):
            raise ValueError(
                f"{self.variable('register_at')} and {self.variable('register_as')} go together"
            )
        return self

    def registration(self) -> Registration | None:
        """The registration of this process at Consul; None where it registers nowhere."""
        if not self.register_at:
            return None
        return Registration(Destination.parse(self.register_at), Address.parse(self.register_as))

    def peer_addresses(self) -> Mapping[str, str]:
        """The address of each peer, by its name."""
        return agreed({self.variable("peers"): _services_in(self.peers), **self.peer_aliases()})

    def peer_aliases(self) -> Mapping[str, Mapping[str, str]]:
        """What other variables say of peers, by variable, and then by name."""
        return {}

    def host_names(self) -> frozenset[str]:
        """The names in `allowed_hosts`."""
        return host_names(self.allowed_hosts)

    def at_home(self) -> Opens:
        """What a caller on this machine may do without a key."""
        return EVERYTHING if self.trust_loopback else NOTHING

    def keyring(self) -> Keyring:
        """The secrets, ready to sign and verify. Raises InvalidSettings that names the variable."""
        parts = self.secrets.split(",")
        if self.signing_key is not None:
            # The first key is the one that signs.
            parts.sort(key=lambda part: part.strip().partition(":")[0] != self.signing_key)
        try:
            keys = Keyring.from_text(",".join(parts), self.signature_window)
        except InvalidKeyring as error:
            problem = f"SAGABOX_SECRETS: {error.problem}"
            raise InvalidSettings(problem, next_step=error.next_step) from None
        if self.signing_key not in (None, keys.signing):
            raise InvalidSettings(
                f"SAGABOX_SIGNING_KEY is {self.signing_key!r}, and SAGABOX_SECRETS has no such key",
                next_step="name one of the keys, or leave it out: then the first one signs",
            )
        return keys

    def grpc_listen(self) -> GrpcListen | None:
        """Where it listens for gRPC; None where it does not. Raises InvalidService."""
        if self.grpc_port is None:
            return None
        return GrpcListen(self.grpc_port, self.grpc_host, self.grpc_certificate, self.grpc_key)

    def brokers(self) -> Sequence[str]:
        """The addresses of the brokers at which it reads its queue."""
        return addresses_in(self.broker)

    def relay_settings(self) -> RelaySettings:
        """How the relay paces itself."""
        # A lease must outlast the slowest delivery, with room for the renewal.
        margin = self.delivery_timeout + 0.5
        return RelaySettings(
            poll=self.poll_interval,
            batch=self.relay_batch,
            delivery_timeout=self.delivery_timeout,
            margin=margin,
            lease=max(self.lease, margin * 2.4),
            destinations={
                name.strip(): DestinationSettings(on_exhaustion=OnExhaustion.BLOCK_KEY)
                for name in self.block_keys.split(",")
                if name.strip()
            },
        )

    def inbox_limits(self) -> InboxLimits:
        """Limits that let the inbox answer before its senders give up."""
        patience = self.delivery_timeout
        return InboxLimits(
            handler=self.handler_timeout,
            transaction=patience / 4.5,
            lock=patience / 9,
            answer_within=patience * 0.9,
        )


S = TypeVar("S", bound=BaseSettings)


def load(model: type[S], **given: Any) -> S:
    """Read the environment, for the fields that are not given. Raises InvalidSettings, which names
    each variable that is wrong."""
    try:
        return model(**given)
    except ValidationError as error:
        wrong = [
            ": ".join(filter(None, (_variable_at(model, found["loc"]), _in_words(found))))
            for found in error.errors()
        ]
        raise InvalidSettings(
            "the environment lacks what this service needs (" + "; ".join(wrong) + ")",
            next_step="set what is named; `sagabox serve SERVICE --help` says what each one means",
        ) from None


@dataclass(frozen=True)
class Setting:
    """One environment variable. `default` is its text, None where it must be set."""

    variable: str
    meaning: str
    default: str | None


def documented(model: type[ServiceSettings]) -> list[Setting]:
    """Every variable that the model reads, in the order of its fields."""
    return [
        Setting(
            variable=_variable(name, field),
            meaning=field.description or "",
            default=None if field.is_required() else _text(field.default),
        )
        for name, field in model.model_fields.items()
    ]


def _variable(name: str, field: FieldInfo) -> str:
    if isinstance(field.validation_alias, str):
        return field.validation_alias
    return f"{PREFIX}{name}".upper()


def _variable_at(model: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    place = str(location[0]) if location else ""
    field = model.model_fields.get(place)
    return place if field is None else _variable(place, field)


def _in_words(found: Any) -> str:
    return "it is not set" if found["type"] == "missing" else str(found["msg"])


def _text(default: object) -> str:
    return "" if default is None else str(default)
