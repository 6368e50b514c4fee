"""How messages come into a service: one door, over HTTP and over gRPC; and queues at brokers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from outbox.errors import InvalidService
from outbox.service.queues import Queues, Reads
from outbox.transports.brokers.broker import Broker
from outbox.transports.brokers.held.policy import HeldPolicy
from outbox.transports.grpc.extra import require
from outbox.transports.grpc.listen import GrpcListen
from outbox.transports.http.door import CONCURRENCY, Door

if TYPE_CHECKING:
    from outbox.transports.grpc.server import GrpcServer, Hosted

log = logging.getLogger("outbox.service")


class Entered(Reads, Protocol):
    """The service itself."""

    @property
    def database_id(self) -> str | None: ...
    def skewed(self, sender: str, seconds: float) -> None: ...


class Entrance:
    """The entrance of one service; `held` is its policy for what it cannot handle. `concurrency`
    batches are worked on at once, whichever way they come; it is to be set before the door is
    used."""

    def __init__(self, service: Entered, held: HeldPolicy | None = None) -> None:
        self._service = service
        self.concurrency = CONCURRENCY
        self.queues = Queues(service, lambda: self.concurrency, held)
        self.follow = self.queues.follow
        self._door: Door | None = None
        self._listen: GrpcListen | None = None
        self._is_part = False
        self._hosted: list[Callable[[], Hosted]] = []

    @property
    def door(self) -> Door:
        """What lets messages in. Raises InvalidService where there are no signing keys."""
        if self._door is None:
            service = self._service
            self._door = Door(
                service.inbox,
                keys=service.keys(),
                clock=service.clock,
                concurrency=self.concurrency,
                ids=service.new_id,
                skewed=service.skewed,
                database=lambda: service.database_id,
            )
        return self._door

    def listen_grpc(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        """Take messages over gRPC, too, at that port, from the start of the service to its end;
        without this call SAGABOX_GRPC_PORT says where. With a certificate chain and its key, files
        in PEM, only TLS is taken. Raises InvalidService, and ExtraMissing."""
        self._listen = GrpcListen(port, host, certificate, key)
        require(f"the gRPC port {port}")

    def listen_broker(self, broker: str | Callable[[], Broker]) -> None:
        """Read the queue of the service's name at that broker, from the start of the service to its
        end: an address such as nats://127.0.0.1:4222, or what makes a `Broker` of your own. Several
        calls are several brokers; without any, SAGABOX_BROKER says where. Raises InvalidService,
        and ExtraMissing."""
        self.queues.listen(broker)

    def leave_grpc(self) -> None:
        """Do not listen for gRPC, also if the environment says so: another service of this process
        does."""
        self._is_part = True

    def host(self, make: Callable[[], Hosted]) -> None:
        """Offer this service of gRPC beside the messages, where it listens for gRPC."""
        self._hosted.append(make)

    def forget(self) -> None:
        """Forget the door of a process from which this one was forked, and its queues."""
        self._door = None
        self.queues.forget()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen for gRPC and read queues until the block ends, if it was told to. Raises
        InvalidService where the port is taken, BrokerRefused and ExtraMissing."""
        async with self._serving_grpc(), self.queues.being_read():
            yield

    @asynccontextmanager
    async def _serving_grpc(self) -> AsyncIterator[None]:
        listen = None if self._is_part else self._listen or GrpcListen.of_environment()
        if listen is None:
            yield
            return
        require(f"the gRPC port {listen.port}")
        async with self._server(listen).serving():
            log.info("%s listens for gRPC at %s:%s", self._service.name, listen.host, listen.port)
            yield

    def _server(self, listen: GrpcListen) -> GrpcServer:
        from outbox.transports.grpc.receiver import MessagesService
        from outbox.transports.grpc.server import GrpcServer, Tls

        tls = None
        if listen.certificate is not None and listen.key is not None:
            tls = Tls(_read(listen.certificate), _read(listen.key))
        services: Sequence[Hosted] = [MessagesService(self.door), *(it() for it in self._hosted)]
        return GrpcServer(services, host=listen.host, port=listen.port, tls=tls)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidService(
            f"{path} cannot be read: {error.strerror}",
            next_step="correct SAGABOX_GRPC_CERTIFICATE and SAGABOX_GRPC_KEY, which name PEM files",
        ) from error
