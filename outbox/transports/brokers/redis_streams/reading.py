"""A reading of a partition: the one whose number stands beside its stream."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from outbox.transports.brokers.broker import (
    BrokerRefused,
    Packet,
    ReadingLost,
    Taken,
    reading_answers,
)
from outbox.transports.brokers.redis_streams.link import Link
from outbox.transports.brokers.redis_streams.scripts import DONE, NEXT, OPEN

BODY, KEY, HEADER = b"body", b"key", b"header."
"""The fields of an entry; the name of a header follows the last one."""
_NEW = b">"
_AT_ONCE = 1000  # Lua takes no more than a few thousand arguments


class RedisReading:
    """The reading of one partition."""

    DONE = DONE
    """The script that acknowledges."""

    def __init__(
        self, link: Link, queue: str, stream: str, partition: int, links: set[Link]
    ) -> None:
        self._link = link
        self._partition = partition
        self._links = links
        self._group = queue
        self._stream = stream
        self._keys = (stream, f"{stream}:reader")
        self._number = 0
        self._from: bytes = b"0"
        """Whatever an earlier reader left comes first, and then what is new."""
        self._given: deque[bytes] = deque()

    async def take_over(self) -> None:
        """Become the reader, and get what the others had taken and not done."""
        self._number = await self._link.run_for_number(OPEN, self._keys, self._group)

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """The next ones. A reader that was taken over learns it at the latest after `wait`."""
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        while True:
            found, last = await self._read(most)
            left = until - clock()
            if found or left <= 0:
                return found
            await self._link.ask_one(
                *("XREAD", "COUNT", 1, "BLOCK", max(1, int(left * 1000))),
                *("STREAMS", self._stream, last),
                wait=left,
            )

    async def done(self, count: int) -> None:
        """Acknowledge them, and trim."""
        while count > 0 and self._given:
            ids = [*itertools.islice(self._given, min(count, _AT_ONCE))]
            await self._run(self.DONE, *ids)
            for _ in ids:
                self._given.popleft()
            count -= len(ids)

    async def aclose(self) -> None:
        """Close the connection."""
        self._links.discard(self._link)
        await self._link.aclose()

    async def _read(self, most: int) -> tuple[list[Taken], bytes]:
        """What there is now, and otherwise the last place of the stream that holds nothing new."""
        while True:
            answer = await self._run(NEXT, most, self._from)
            with reading_answers(self._link.name, sent=False):
                entries, self._from, *last = answer
                if entries and self._from != _NEW:
                    self._from = entries[-1][0]
                # A deleted one has no fields.
                found = [self._taken(place, fields) for place, fields in entries if fields]
            if found or not entries:
                self._given += [it.position.encode() for it in found]
                return found, last[0] if last else b"$"

    def _taken(self, place: bytes, fields: Sequence[bytes]) -> Taken:
        body, key, headers = b"", "", {}
        for name, value in zip(fields[::2], fields[1::2], strict=True):
            if name == BODY:
                body = value
            elif name == KEY:
                key = _text(value)
            elif name.startswith(HEADER):
                headers[_text(name.removeprefix(HEADER))] = _text(value)
        return Taken(Packet(self._partition, headers, body, key), place.decode())

    async def _run(self, script: str, *values: bytes | int) -> Any:
        try:
            answer = await self._link.run(
                script, self._keys, self._group, str(self._number), *values
            )
        except BrokerRefused as refused:
            if isinstance(refused.__cause__, ResponseError) and "NOGROUP" in str(refused.__cause__):
                raise ReadingLost from refused
            raise
        if answer is None:
            raise ReadingLost
        return answer


def _text(value: bytes) -> str:
    """Any bytes that another program has put there: its signature tells who sent it."""
    return value.decode("utf-8", "replace")
