"""A transport of one's own, over a Unix socket, and the contract that holds it to its promises."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from outbox.errors import MalformedEnvelope
from outbox.ids import derive
from outbox.testing.transport_contract import (
    Confirms,
    ContractTest,
    Features,
    Line,
    Receive,
    Settled,
    contract_tests,
)
from outbox.transports import Answered, Delivery, Unacceptable, Unreachable
from outbox.wire.envelope import (
    Envelope,
    from_batch,
    replies_from_batch,
    replies_to_batch,
    to_batch,
)

LENGTH = 4  # bytes before each body


class PipeTransport:
    """A connection for each batch: the batch goes, the replies come."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._closed = False

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        if not envelopes:
            return Answered(())
        if self._closed:
            return Unreachable("the transport is closed", sent=False)
        try:
            body = to_batch(envelopes)
            from_batch(body)
        except (MalformedEnvelope, ValueError, TypeError) as error:
            return Unacceptable(str(error))
        sent = False
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_unix_connection(self._path)
                sent = True
                try:
                    await write(writer, body)
                    answer = await read(reader)
                finally:
                    writer.close()
            return Answered(replies_from_batch(answer, [each.id for each in envelopes]))
        except TimeoutError:
            return Unreachable(f"no answer within {self._timeout:g} s", sent=sent)
        except (OSError, EOFError, MalformedEnvelope) as error:
            return Unreachable(f"{type(error).__name__}: {error}", sent=sent)

    async def aclose(self) -> None:
        self._closed = True


class Server:
    """The other side: hands each batch to `receive`, and sends the replies."""

    def __init__(self, receive: Receive) -> None:
        self.path = Path(tempfile.mkdtemp()) / "pipe"
        self._receive = receive
        self._silent = False
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self.path.unlink(missing_ok=True)
        self.path.parent.rmdir()

    async def restore(self) -> None:
        await self.stop()
        await self.start()

    async def start(self) -> None:
        self._silent = False
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def silence(self) -> None:
        self._silent = True

    async def stop(self) -> None:
        self._server.close()
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            asked = from_batch(await read(reader))
            if self._silent:
                await asyncio.Event().wait()
            replies = await self._receive(asked, None)
            ids = (derive(each.id, "reply") for each in asked)
            source, now = asked[0].source, asked[0].time
            await write(writer, replies_to_batch(source, asked, replies, lambda: next(ids), now))
        except Exception:
            pass  # a closed connection is the answer: the sender does not know what happened
        except asyncio.CancelledError:
            pass  # the server stops
        finally:
            self._connections.discard(task)
            writer.close()


async def write(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(len(body).to_bytes(LENGTH, "big") + body)
    await writer.drain()


async def read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(LENGTH), "big"))


KEPT = Features(
    confirms=Confirms.BY_REPLIES,
    tells_when_nothing_left=True,
    carries_statements=False,
)


@asynccontextmanager
async def connect(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    async with Server(receive) as server:
        transport = PipeTransport(server.path, timeout=timeout)
        yield Line(
            transport=transport, cut=server.stop, silence=server.silence, restore=server.restore
        )
        await transport.aclose()


@pytest.mark.parametrize("test", contract_tests(KEPT), ids=str)
async def test_the_pipe_keeps_the_contract(test: ContractTest) -> None:
    await test.run(connect)
