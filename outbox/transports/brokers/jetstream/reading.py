"""A reading of a partition: a consumer of JetStream that no other reader has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg

from outbox.transports.brokers.broker import BrokerAway, BrokerRefused, Packet, ReadingLost, Taken
from outbox.transports.brokers.jetstream.connection import (
    OWN,
    ApiError,
    Connection,
    is_unheard,
    status,
)
from outbox.transports.brokers.jetstream.streams import Stream, as_told

MOST_IN_HAND = 10_000
"""Packets of a partition that were given and are not done."""
_LATE = 5.0
"""Seconds for which the end of a pull may be overdue."""
_NS = 1_000_000_000
_ACK_WAIT = 24 * 3600 * _NS
"""JetStream gives a packet again after that. It never helps: a reader that starts over makes a
consumer of its own. What comes again is known by its number."""
_ATTEMPTS = 10
_OURS = re.compile(r"p\d+-[0-9a-f]{16}")
_NOT_UNIQUE = (10099, 10100)
_NO_CONSUMER = 10014
_END_OF_PULL = ("404", "408")


@dataclass(frozen=True)
class _Place:
    """Where a message stands: its number in the stream, that of its delivery by the consumer, and
    how many wait behind it."""

    in_stream: int
    delivery: int
    behind: int

    @classmethod
    def of(cls, reply: str) -> _Place:
        # $JS.ACK.<stream>.<consumer>.<times>.<in stream>.<delivery>.<time>.<behind>; newer servers
        # have the domain and the account before the stream, and may have more at the end.
        parts = reply.split(".")
        first = 2 if len(parts) == 9 else 4
        return cls(int(parts[first + 3]), int(parts[first + 4]), int(parts[first + 6]))


@dataclass(frozen=True)
class _Held:
    place: _Place
    reply: str


class NatsReading:
    """One partition; `take_over` makes it.

    A stream of work has at most one consumer for each subject. Taking over deletes the one that is
    there and makes another with a name of its own, so that the requests of the reader before find
    no consumer.
    """

    def __init__(self, connection: Connection, stream: Stream, partition: int) -> None:
        self._connection = connection
        self._stream = stream.names.stream
        self._subject = stream.names.subject(partition)
        self._partition = partition
        self._name = f"p{partition}-{secrets.token_hex(8)}"
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        self._inbox = ""
        self._end: Callable[[], Awaitable[None]] | None = None
        self._changed = asyncio.Event()
        self._waiting: deque[Msg] = deque()
        self._given: deque[_Held] = deque()
        self._pulled = 0
        """Messages that the last pull may still bring."""
        self._last = _Place(0, 0, 0)
        self._trouble: Exception | None = None

    @classmethod
    async def take_over(cls, connection: Connection, stream: Stream, partition: int) -> NatsReading:
        """Read that partition from its first message. Raises BrokerAway and BrokerRefused."""
        self = cls(connection, stream, partition)
        try:
            await self._make()
        except ApiError as error:
            raise as_told(error, f"a consumer of {self._subject}") from error
        self._inbox, self._end = await connection.listen(self._take)
        connection.when_ended(self._next, self._fail)
        return self

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """What follows, as soon as there is something."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not self._is_ready(most):
            left = until - loop.time()
            if not self._pulled:
                if self._waiting or left <= 0:
                    break
                room = max(MOST_IN_HAND - len(self._given), 1)
                await self._pull(min(most, room), left)
            self._changed.clear()
            try:
                async with asyncio.timeout(max(left, 0) + _LATE):
                    await self._changed.wait()
            except TimeoutError:
                self._fail(BrokerAway("NATS does not end a request in its time", sent=False))
        return [self._give() for _ in range(min(most, len(self._waiting)))]

    async def done(self, count: int) -> None:
        """Acknowledge them, in their order; the answer to the last one speaks for all."""
        self._require()
        done = [self._given[it] for it in range(count)]
        if not done:
            return
        for held in done[:-1]:
            await self._connection.tell(held.reply, b"+ACK")
        if is_unheard(await self._connection.answered(done[-1].reply, b"+ACK")):
            self._fail(ReadingLost())
            self._require()
        for _ in done:
            self._given.popleft()

    async def aclose(self) -> None:
        """Leave it, and take the consumer away where that is possible."""
        self._leave()
        if self._end is None:
            return
        end, self._end = self._end, None
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await end()
                await self._connection.api(f"CONSUMER.DELETE.{self._stream}.{self._name}")

    def _leave(self) -> None:
        self._fail(BrokerAway("the reading is closed", sent=False))
        self._connection.forget(self._next)

    def _config(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "durable_name": self._name,
            "ack_policy": "explicit",
            "ack_wait": _ACK_WAIT,
            "max_deliver": -1,
            "filter_subject": self._subject,
            "replay_policy": "instant",
            "max_ack_pending": MOST_IN_HAND,
        }

    async def _make(self) -> None:
        config = self._config() | {"deliver_policy": "all", "mem_storage": True}
        request = {"stream_name": self._stream, "config": config, "action": "create"}
        for _ in range(_ATTEMPTS):
            try:
                await self._connection.api(
                    f"CONSUMER.CREATE.{self._stream}.{self._name}.{self._subject}", request
                )
            except ApiError as error:
                if error.number not in _NOT_UNIQUE:
                    raise
                await self._remove_others()
            else:
                return
        raise BrokerAway(f"others take {self._subject} over again and again", sent=False)

    async def _remove_others(self) -> None:
        names = await self._consumers()
        others = [it for it in names if it.startswith(f"p{self._partition}-")]
        foreign = [it for it in names if not _OURS.fullmatch(it)]
        if foreign and not others:
            raise BrokerRefused(
                f"another client reads the stream {self._stream}: {', '.join(foreign[:5])}",
                next_step=f"take that consumer away (nats consumer rm {self._stream} "
                f"{foreign[0]}): a message of a queue is for one reader",
            )
        for other in others:
            try:
                await self._connection.api(f"CONSUMER.DELETE.{self._stream}.{other}")
            except ApiError as error:
                if error.number != _NO_CONSUMER:
                    raise

    async def _consumers(self) -> list[str]:
        """The names of those of the whole stream."""
        found: list[str] = []
        while True:
            told = await self._connection.api(
                f"CONSUMER.NAMES.{self._stream}", {"offset": len(found)}
            )
            page = told.get("consumers") or []
            found += page
            if not page or len(found) >= int(told["total"]):
                return found

    async def _pull(self, most: int, wait: float) -> None:
        self._require()
        self._pulled = most
        request = {"batch": most, "expires": max(int(wait * _NS), _NS // 100)}
        await self._connection.tell(self._next, json.dumps(request).encode(), self._inbox)

    def _is_ready(self, most: int) -> bool:
        """Whether `next` need not wait: what is there is enough, or nothing more is on its way."""
        self._require()
        if not self._waiting:
            return False
        if len(self._waiting) >= most or not self._pulled:
            return True
        return _Place.of(self._waiting[-1].reply).behind == 0

    def _give(self) -> Taken:
        message = self._waiting.popleft()
        place = _Place.of(message.reply)
        self._given.append(_Held(place, message.reply))
        return Taken(self._packet(message), str(place.in_stream))

    def _packet(self, message: Msg) -> Packet:
        headers = {
            name.lower(): it
            for name, it in (message.headers or {}).items()
            if not name.startswith(OWN)
        }
        return Packet(self._partition, headers, message.data)

    def _take(self, message: Msg) -> None:
        if message.reply:
            self._pulled = max(self._pulled - 1, 0)
            self._put(message)
        else:
            self._hear(message)
        self._changed.set()

    def _put(self, message: Msg) -> None:
        place = _Place.of(message.reply)
        if place.delivery != self._last.delivery + 1:
            self._fail(BrokerAway(f"a message of {self._subject} did not arrive", sent=False))
        elif place.in_stream <= self._last.in_stream:
            # Given before: its acknowledgement was late, or went missing.
            self._last = _Place(self._last.in_stream, place.delivery, place.behind)
        else:
            self._last = place
            self._waiting.append(message)

    def _hear(self, message: Msg) -> None:
        """What the server says about a pull."""
        number = status(message)
        told = (message.headers or {}).get("Description", "")
        self._pulled = 0
        if number in _END_OF_PULL:
            return
        if number == "503" or (number == "409" and "consumer deleted" in told.lower()):
            self._fail(ReadingLost())
        else:
            self._fail(BrokerAway(f"NATS ended a request: {number} {told}", sent=False))

    def _fail(self, trouble: Exception) -> None:
        self._trouble = self._trouble or trouble
        self._changed.set()

    def _require(self) -> None:
        if self._trouble is not None:
            raise self._trouble
