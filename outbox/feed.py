"""Messages that reach a courier from memory, without a way through the table.

Whoever commits messages to buckets that are its alone may hand them over right after the commit.
That is only right for a bucket whose older messages are all gone from the table, so each bucket is
read to its end first; and whatever goes wrong with one leads back to the table, which has all of
them.

Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from enum import Enum, auto

from outbox.deliveries import Pending


class _Way(Enum):
    CATCHING_UP = auto()
    """It is being read, perhaps to its end; what is offered meanwhile is kept."""
    MEMORY = auto()
    """The table has nothing of it but what was offered."""


class Feed:
    """The messages in memory for one destination, at most about `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        # Buckets that are not here are read from the table.
        self._ways: dict[int, _Way] = {}
        self._offered: dict[int, deque[Pending]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def waiting(self) -> frozenset[int]:
        """The buckets of which there is something to take."""
        ways = self._ways
        return frozenset(b for b, it in self._offered.items() if it and ways[b] is _Way.MEMORY)

    def unread(self, buckets: Iterable[int]) -> list[int]:
        """Those of the buckets that are to be read from the table."""
        ways = self._ways
        return [bucket for bucket in buckets if ways.get(bucket) is not _Way.MEMORY]

    def distrust(self, buckets: Iterable[int]) -> None:
        """Read these from the table again, and forget what was offered of them."""
        for bucket in list(buckets):
            self._forget(bucket)

    def distrust_all(self) -> None:
        """The same for every bucket."""
        self.distrust(list(self._ways))

    def begin(self, buckets: Iterable[int]) -> None:
        """These are about to be read."""
        for bucket in buckets:
            self._forget(bucket)
            self._ways[bucket] = _Way.CATCHING_UP
            self._offered[bucket] = deque()

    def read(self, to_the_end: Collection[int], seqs: Collection[int]) -> None:
        """They were read, some of them to their end; `seqs` are the messages that were found."""
        for bucket, way in list(self._ways.items()):
            if way is _Way.MEMORY:
                continue
            if bucket not in to_the_end:
                self._forget(bucket)
                continue
            offered = self._offered[bucket]
            if offered:
                kept = deque(message for message in offered if message.seq not in seqs)
                self._count -= len(offered) - len(kept)
                self._offered[bucket] = kept
            self._ways[bucket] = _Way.MEMORY

    def offer(self, messages: Iterable[Pending]) -> None:
        """These were committed, in this order."""
        for message in messages:
            offered = self._offered.get(message.bucket)
            if offered is not None:
                offered.append(message)
                self._count += 1
                if self._count > self._most:
                    self.distrust([message.bucket])

    def withdraw(self, ids: Collection[str]) -> None:
        """The messages of these ids are gone from the table."""
        for bucket, offered in self._offered.items():
            kept = deque(message for message in offered if message.envelope.id not in ids)
            self._count -= len(offered) - len(kept)
            self._offered[bucket] = kept

    def take(self, buckets: Sequence[int], most: int) -> list[Pending]:
        """The next messages of these buckets, in the order of `buckets`, and out of here."""
        taken: list[Pending] = []
        for bucket in buckets:
            if self._ways.get(bucket) is not _Way.MEMORY:
                continue
            offered = self._offered[bucket]
            while offered and len(taken) < most:
                taken.append(offered.popleft())
        self._count -= len(taken)
        return taken

    def _forget(self, bucket: int) -> None:
        self._ways.pop(bucket, None)
        self._count -= len(self._offered.pop(bucket, ()))
