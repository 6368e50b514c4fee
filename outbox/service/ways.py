"""The ways of a service to its peers: over HTTP, by transports that were given, and within the
process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from outbox.clock import Clock
from outbox.errors import InvalidService
from outbox.transports.base import Transport
from outbox.transports.http.signing import Keyring
from outbox.transports.http.transport import HttpTransport
from outbox.transports.in_process import InProcessTransport, Neighbour
from outbox.wire.settled import EndedSagas


class Sender(Protocol):
    """The service itself."""

    @property
    def name(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    def keys(self) -> Keyring: ...


class Ways:
    """The ways of one service. `peers` has addresses by name; `given` replaces what sends to
    them."""

    def __init__(self, peers: Mapping[str, str], given: Mapping[str, Transport] | None) -> None:
        self._peers = peers
        self._given = given
        self._neighbours: dict[str, Neighbour] = {}
        self.names: set[str] = set(peers if given is None else given)
        """The names that it has a way to; one that is added later is among them."""

    def add(self, neighbour: Neighbour) -> None:
        """Lead to this service within the process, whatever its address is. Raises InvalidService
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
        only asked for where one goes over HTTP."""
        found: dict[str, Transport] = {
            name: InProcessTransport(neighbour, settled=settled, timeout=timeout)
            for name, neighbour in self._neighbours.items()
        }
        if self._given is not None:
            return {**self._given, **found}
        addresses = {name: it for name, it in self._peers.items() if name not in found}
        if addresses:
            over_http = partial(
                HttpTransport,
                source=sender.name,
                keys=sender.keys(),
                clock=sender.clock,
                settled=settled,
                timeout=timeout,
            )
            found |= {name: over_http(address, to=name) for name, address in addresses.items()}
        return found
