"""The ways of a service to its peers: over HTTP, gRPC or a broker, by transports that were given,
and within the process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from outbox.clock import Clock
from outbox.errors import InvalidService
from outbox.service.shared_broker import SharedBroker
from outbox.transports.addresses.overview import HasAddresses, Overview
from outbox.transports.base import Transport
from outbox.transports.brokers.address import is_broker
from outbox.transports.brokers.broker import Broker
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.topics.clients import client_of
from outbox.transports.brokers.topics.topic import Topic
from outbox.transports.brokers.topics.transport import TopicTransport
from outbox.transports.brokers.transport import BrokerTransport
from outbox.transports.grpc.addresses import is_grpc
from outbox.transports.http.signing import Keyring
from outbox.transports.http.transport import HttpTransport
from outbox.transports.in_process import InProcessTransport, Neighbour
from outbox.transports.webhooks.transport import WebhookTransport
from outbox.transports.webhooks.webhook import Webhook
from outbox.wire.settled import EndedSagas

if TYPE_CHECKING:
    from outbox.transports.grpc.transport import GrpcTransport


class Sender(Protocol):
    """The service itself."""

    @property
    def name(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    def keys(self) -> Keyring: ...


class Ways:
    """The ways of one service. `peers` has addresses by name; `given` replaces what sends to
    them. `webhooks` are the subscribers outside, `topics` the topics of others, and `readers` those
    who are sent nothing, since they read the log of the database."""

    def __init__(
        self,
        peers: Mapping[str, str],
        given: Mapping[str, Transport] | None,
        webhooks: Mapping[str, Webhook],
        readers: Collection[str] = (),
        topics: Mapping[str, Topic] | None = None,
    ) -> None:
        for name in readers:
            if given is not None and name in given:
                raise InvalidService(
                    f"{name} reads the log of the database, and has a transport: it would get each "
                    "message twice",
                    next_step=f"take {name} out of transports=, or out of peers=",
                )
        self._peers = peers
        self._given = given
        self._webhooks = webhooks
        self._topics = topics or {}
        self._neighbours: dict[str, Neighbour] = {}
        self.names: set[str] = {
            *(peers if given is None else given),
            *webhooks,
            *readers,
            *self._topics,
        }
        """The names that it has a way to; one that is added later is among them."""
        self._made: Mapping[str, Transport] = {}

    @property
    def overviews(self) -> Mapping[str, Overview]:
        """The addresses of each name that has any, as they stand now; none before `made`."""
        ways = self._made.items()
        return {name: way.overview() for name, way in ways if isinstance(way, HasAddresses)}

    def begin(self) -> None:
        """Let the transports find the addresses of their names, before there is anything to
        send."""
        for way in self._made.values():
            if isinstance(way, HasAddresses):
                way.begin()

    def add(self, neighbour: Neighbour) -> None:
        """Lead to this service within the process, and not to its address. Raises InvalidService
        where another one has the name."""
        if neighbour.name in self._neighbours:
            raise InvalidService(
                f"two services of this process have the name {neighbour.name}, and one would get "
                "what is for the other",
                next_step="give each its own, such as orchestrator.attach(..., name=...)",
            )
        self._neighbours[neighbour.name] = neighbour
        self.names.add(neighbour.name)

    def made(
        self, sender: Sender, timeout: float, settled: Callable[[], EndedSagas | None] | None
    ) -> dict[str, Transport]:
        """A transport for each name, which gives up after `timeout` seconds. The sender's keys are
        only asked for where one leaves the process."""
        self._made = self._make(sender, timeout, settled)
        return dict(self._made)

    def _make(
        self, sender: Sender, timeout: float, settled: Callable[[], EndedSagas | None] | None
    ) -> dict[str, Transport]:
        found: dict[str, Transport] = {
            name: InProcessTransport(neighbour, settled=settled, timeout=timeout)
            for name, neighbour in self._neighbours.items()
        }
        found |= {
            name: WebhookTransport(hook, source=sender.name, clock=sender.clock, timeout=timeout)
            for name, hook in self._webhooks.items()
            if self._given is None or name not in self._given
        }
        found |= {
            name: TopicTransport(client_of(topic), topic, timeout=timeout)
            for name, topic in self._topics.items()
            if self._given is None or name not in self._given
        }
        if self._given is not None:
            return {**self._given, **found}
        addresses = {name: it for name, it in self._peers.items() if name not in found}
        if addresses:
            options: dict[str, Any] = {
                "source": sender.name,
                "keys": sender.keys(),
                "clock": sender.clock,
                "settled": settled,
                "timeout": timeout,
            }
            brokers: dict[str, SharedBroker] = {}
            for name, address in addresses.items():
                if not is_broker(address):
                    found[name] = transport_to(address, to=name, **options)
                    continue
                # Peers at one broker share the connections to it.
                if address not in brokers:
                    brokers[address] = SharedBroker(broker_at(address))
                found[name] = _through(brokers[address].share(), to=name, **options)
        return found


def _through(broker: Broker, *, source: str, **options: Any) -> BrokerTransport:
    # Who sent a message is told by the message itself.
    return BrokerTransport(broker, **options)


def transport_to(address: str, **options: Any) -> HttpTransport | GrpcTransport:
    """The transport that the address asks for, over HTTP or gRPC."""
    if not is_grpc(address):
        return HttpTransport(address, **options)
    from outbox.transports.grpc.transport import GrpcTransport

    return GrpcTransport(address, **options)
