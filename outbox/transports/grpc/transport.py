"""The gRPC transport: a signed call of `sagabox.v1.Messages/Deliver`, answered by replies.

transport = GrpcTransport("grpc://127.0.0.1:9002", source="articles", keys=keys, clock=clock)

A destination may have several addresses: `outbox.transports.addresses` says which one is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import grpc

from outbox import tracing
from outbox.clock import Clock
from outbox.errors import MalformedEnvelope
from outbox.ids import is_id
from outbox.safe_text import fit
from outbox.transports.addresses.address import Address
from outbox.transports.addresses.overview import Overview
from outbox.transports.addresses.pool import Told
from outbox.transports.addresses.resolvers import pool_of
from outbox.transports.base import DEFAULT_TIMEOUT, Answered, Delivery, Unacceptable, Unreachable
from outbox.transports.grpc.addresses import grpc_destination
from outbox.transports.grpc.connection import Connection, Connections, NotConnected
from outbox.transports.grpc.envelopes import replies_in, request_of
from outbox.transports.grpc.statuses import CODE, read_status, texts_in
from outbox.transports.http.door import MAX_BODY_BYTES
from outbox.transports.http.posting import DEFAULT_MAX_ANSWER
from outbox.transports.http.problems import ANOTHER_DATABASE, TOO_BUSY
from outbox.transports.http.signing import DATABASE_HEADER, MEANT_HEADER, TO_HEADER, Keyring, sign
from outbox.wire import attributes
from outbox.wire.envelope import Envelope
from outbox.wire.settled import SETTLED_HEADER, EndedSagas

DELIVER = "/sagabox.v1.Messages/Deliver"

_log = logging.getLogger(__name__)


class GrpcTransport:
    """The transport to the gRPC server at `address`, such as `grpc://127.0.0.1:9002`, or
    `grpcs://...` with TLS; to several, as a setting writes them (`grpc://a:9002,grpc://b:9002`,
    `grpc+dns://comments:9002`).

    `source`, `to`, `settled` and `timeout` are as for `HttpTransport`. A batch of more than
    `max_request` bytes is not sent, since no receiver takes it. `roots` (PEM) replaces the trusted
    certificates that gRPC brings along.

    Raises OutboxError where `address` is none.
    """

    def __init__(
        self,
        address: str,
        *,
        source: str,
        to: str | None = None,
        keys: Keyring,
        clock: Clock,
        settled: Callable[[], EndedSagas | None] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_request: int = MAX_BODY_BYTES,
        max_answer: int = DEFAULT_MAX_ANSWER,
        roots: bytes | None = None,
    ) -> None:
        self._pool = pool_of(grpc_destination(address), clock.monotonic)
        self._connections = Connections(
            roots,
            (
                ("grpc.max_receive_message_length", max_answer),
                ("grpc.max_send_message_length", -1),
                # For so long it makes one connection; its own limit would be 20 s.
                ("grpc.min_reconnect_backoff_ms", max(1, int(timeout * 1000))),
                ("grpc.primary_user_agent", f"sagabox ({attributes.quoted(source)})"),
            ),
        )
        self._keys = keys
        self._clock = clock
        self._settled = settled
        self._timeout = timeout
        self._max_request = max_request
        self._to = {} if to is None else {TO_HEADER: attributes.quoted(to)}

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Deliver the batch in one call, and wait for the answer."""
        if not envelopes:
            return Answered(())
        return await self._pool.deliver(envelopes, self._attempt, self._timeout)

    def overview(self) -> Overview:
        """The addresses of the destination, as they stand now."""
        return self._pool.overview()

    def begin(self) -> None:
        """Find the addresses, and get to know them, before there is anything to send."""
        self._pool.begin(self._attempt)

    async def ask(self, address: Address, within: float) -> Told:
        """What the receiver at that address says where it gets no message."""
        return await self._attempt((), address, None, within=within, connect_within=within)

    async def aclose(self) -> None:
        """Release connections. Calling it twice is fine."""
        await self._pool.aclose()
        await self._connections.aclose()

    async def _attempt(
        self,
        envelopes: Sequence[Envelope],
        address: Address,
        database: str | None,
        *,
        within: float,
        connect_within: float,
    ) -> Told:
        try:
            body = request_of(envelopes)
        except (ValueError, TypeError) as error:
            return Told(Unacceptable(fit(f"the batch cannot be written: {error}")), database)
        if len(body) > self._max_request:
            reason = f"the batch has {len(body)} bytes, and {self._max_request} are allowed"
            return Told(Unacceptable(reason), database)
        call = _Call(address, within)
        try:
            connection = self._connections.to(address)
            async with asyncio.timeout(connect_within):
                channel = await connection.ready()
        except (NotConnected, TimeoutError) as error:
            why = str(error) or f"no connection within {connect_within:g} s"
            return Told(Unreachable(fit(f"{address} cannot be reached: {why}"), sent=False))
        meant = {} if database is None else {MEANT_HEADER: database}
        return await call.told_by(
            connection, channel, body, self._metadata(body, meant), [each.id for each in envelopes]
        )

    def _metadata(self, body: bytes, meant: Mapping[str, str]) -> Sequence[tuple[str, str]]:
        """What goes with this body, signed."""
        said = {**self._to, **meant, **self._statement(), **tracing.headers()}
        said |= sign(
            self._keys,
            method="POST",
            target=DELIVER,
            headers=said,
            body=body,
            now=self._clock.now(),
        )
        return [(name.lower(), value) for name, value in said.items()]

    def _statement(self) -> dict[str, str]:
        settled = self._settled() if self._settled is not None else None
        if settled is None:
            return {}
        try:
            return settled.to_headers()
        except ValueError as error:
            # Without it the receiver only remembers for longer.
            _log.error("%s is left out: %s; choose a smaller id", SETTLED_HEADER, error)
            return {}


class _Call:
    """One call, which ends within so many seconds from now."""

    def __init__(self, address: Address, within: float) -> None:
        self._address = address
        self._within = within
        self._ends = asyncio.get_running_loop().time() + within

    async def told_by(
        self,
        connection: Connection,
        channel: grpc.aio.Channel,
        body: bytes,
        metadata: Sequence[tuple[str, str]],
        ids: Sequence[str],
    ) -> Told:
        """The answer on that channel to the messages `ids`; from here on they may be taken."""
        left = max(0.0, self._ends - asyncio.get_running_loop().time())
        try:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(DELIVER)
            call = method(body, metadata=tuple(metadata), timeout=left)
            answer = await call
            trailers = texts_in(await call.trailing_metadata())
            return Told(self._read(answer, ids), _database_in(trailers))
        except grpc.aio.AioRpcError as error:
            trailers = texts_in(error.trailing_metadata())
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and CODE not in trailers:
                # A connection whose other end is gone without a word looks like this.
                connection.leave(channel)
                reason = f"{self._address} did not answer within {self._within:g} s"
                return Told(Unreachable(reason, sent=True))
            code = trailers.get(CODE)
            return Told(
                read_status(error.code(), error.details() or "", trailers),
                database=_database_in(trailers),
                is_busy=code == TOO_BUSY,
                is_stranger=code == ANOTHER_DATABASE,
            )
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Told(Unreachable("the transport was closed meanwhile", sent=True))
        except (grpc.aio.UsageError, RuntimeError):
            return Told(Unreachable("the connection was given up meanwhile", sent=True))

    def _read(self, answer: bytes, ids: Sequence[str]) -> Delivery:
        try:
            return Answered(replies_in(answer, ids))
        except MalformedEnvelope as error:
            # The messages may have taken effect; only the replies are lost.
            return Unreachable(fit(str(error)), sent=True)


def _database_in(trailers: Mapping[str, str]) -> str | None:
    told = trailers.get(DATABASE_HEADER.lower())
    return told if is_id(told) else None
