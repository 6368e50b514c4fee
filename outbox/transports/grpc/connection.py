"""One connection to one address, of which it is known whether it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from outbox.safe_text import fit
from outbox.transports.addresses.address import Address

Options = Sequence[tuple[str, int | str]]

_READY = grpc.ChannelConnectivity.READY
_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)

MOST_CONNECTIONS = 32
"""Connections that are kept to the addresses of one destination."""
_WHY_WITHIN = 0.2
_GIVEN_UP = "the connection was given up meanwhile"
_ENDS_WITHIN = 5.0
"""Seconds that calls on a connection which is given up may still take."""


class NotConnected(Exception):
    """There is no connection, so that nothing can have left on it."""


class Connections:
    """The connections to the addresses of one destination, of which those that were used last are
    kept. `roots` (PEM) are the certificates that are trusted."""

    def __init__(self, roots: bytes | None, options: Options) -> None:
        self._roots = roots
        self._options = options
        self._open: dict[Address, Connection] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def to(self, address: Address) -> Connection:
        """The connection to that address. Raises NotConnected after `aclose`."""
        if self._is_closed:
            raise NotConnected("this transport was closed")
        found = self._open.pop(address, None) or Connection(address, self._roots, self._options)
        self._open[address] = found
        if len(self._open) > MOST_CONNECTIONS:
            oldest = self._open.pop(next(iter(self._open)))
            ending = asyncio.create_task(oldest.aclose(_ENDS_WITHIN))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return found

    async def aclose(self) -> None:
        """Close all of them. Calling it twice is fine."""
        self._is_closed = True
        connections, self._open = list(self._open.values()), {}
        await asyncio.gather(*(each.aclose() for each in connections), *self._ending)


class Connection:
    """The connection to `address`: made at its first use, and anew after it failed.

    gRPC would wait longer from one attempt to the next; here each caller who has something to send
    makes one, as the pauses are those of its breaker.
    """

    def __init__(self, address: Address, roots: bytes | None, options: Options) -> None:
        self._address = address
        self._roots = roots
        self._options = (
            # A destination is only where its address says: no proxies of the environment, and no
            # settings out of its DNS.
            ("grpc.enable_http_proxy", 0),
            ("grpc.service_config_disable_resolution", 1),
            # What is sent again is the relay's decision.
            ("grpc.enable_retries", 0),
            # A new channel must not find the pause of the last one.
            ("grpc.use_local_subchannel_pool", 1),
            *options,
        )
        self._channel: grpc.aio.Channel | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def ready(self) -> grpc.aio.Channel:
        """The channel, once it is connected. Raises NotConnected as soon as an attempt fails."""
        if self._channel is not None and self._channel.get_state() in _FAILED:
            self.leave(self._channel)
        channel = self._channel = self._channel or self._opened()
        try:
            state = channel.get_state(try_to_connect=True)
            while state is not _READY:
                if state in _FAILED:
                    raise NotConnected(await _why(channel))
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
        except (grpc.aio.UsageError, AssertionError, RuntimeError) as error:
            # So gRPC says, one version like this and another like that, that the channel was closed
            # meanwhile.
            raise NotConnected(_GIVEN_UP) from error
        return channel

    def leave(self, channel: grpc.aio.Channel) -> None:
        """Begin nothing more on this channel; calls that are under way may end."""
        if self._channel is channel:
            self._channel = None
            ending = asyncio.create_task(channel.close(_ENDS_WITHIN))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def aclose(self, within: float | None = None) -> None:
        """Close it; calls that are under way have so many seconds. Calling it twice is fine."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(within)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _opened(self) -> grpc.aio.Channel:
        address, options = self._address, list(self._options)
        bracketed = f"[{address.host}]" if ":" in address.host else address.host
        target = f"{bracketed}:{address.port}"
        if address.name is not None:
            options.append(("grpc.default_authority", address.authority))
        if address.scheme != "grpcs":
            return grpc.aio.insecure_channel(target, options=options)
        if address.name is not None:
            # The certificate is to be for the name by which the host was found.
            options.append(("grpc.ssl_target_name_override", address.name))
        trust = grpc.ssl_channel_credentials(self._roots)
        return grpc.aio.secure_channel(target, trust, options=options)


async def _why(channel: grpc.aio.Channel) -> str:
    """Why it is not connected, as only a call is told; one that means nothing."""
    check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        await check(b"", timeout=_WHY_WITHIN)
    except grpc.aio.AioRpcError as error:
        return fit(error.details() or error.code().name)
    except asyncio.CancelledError:
        # So ends the call where the channel is closed meanwhile.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _GIVEN_UP
    return "the connection was lost"
