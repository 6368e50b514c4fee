"""A queue in memory that lets a courier skip the table.

A node that commits messages to buckets of its own may offer them right after the commit. This is
only right for a bucket whose older messages are all gone from the table, so the courier reads each
bucket to its end first. After any trouble with a bucket it reads from the table again, which has
every message.

Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence, Set

from outbox.relay.verdicts import Pending, size_of

_READS = 8
"""How many reads are remembered; a committer hears of its commit within less."""


class MemoryQueue:
    """The messages in memory for one destination, at most about `most` with `most_bytes`."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        # Buckets that are being read, perhaps to their end; messages offered meanwhile are kept.
        self._catching_up: set[int] = set()
        # Buckets of which the table has only offered messages. All others are read from it.
        self._in_memory: set[int] = set()
        # The messages that the last reads found. One of them may be offered after that, since a
        # commit is seen in the table before its committer hears of it.
        self._found: deque[frozenset[int]] = deque(maxlen=_READS)
        self._offered: dict[int, deque[Pending]] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def waiting(self) -> frozenset[int]:
        """The buckets that have messages to take."""
        return frozenset(self._in_memory & self._offered.keys())

    def unread(self, buckets: Collection[int]) -> list[int]:
        """The buckets that must be read from the table."""
        if self._in_memory.issuperset(buckets):
            return []
        return [bucket for bucket in buckets if bucket not in self._in_memory]

    def distrust(self, buckets: Iterable[int]) -> None:
        """Forget the messages offered of these buckets, which are to be read from the table
        again."""
        doubted = set(buckets)
        self._catching_up -= doubted
        self._in_memory -= doubted
        for bucket in self._offered.keys() & doubted:
            self._keep(bucket, deque())

    def distrust_all(self) -> None:
        """Distrust every bucket."""
        self.distrust(self._catching_up | self._in_memory)

    def begin(self, buckets: Collection[int]) -> None:
        """Note that these buckets are about to be read."""
        self.distrust(buckets)
        self._catching_up.update(buckets)

    def read(self, to_the_end: Collection[int], seqs: Collection[int]) -> None:
        """Note that the buckets were read, some of them to their end; `seqs` are the messages
        found."""
        if seqs:
            self._found.append(frozenset(seqs))
        self.distrust(self._catching_up.difference(to_the_end))
        for bucket in self._offered.keys() & self._catching_up:
            offered = self._offered[bucket]
            self._keep(bucket, deque(message for message in offered if message.seq not in seqs))
        self._in_memory |= self._catching_up
        self._catching_up = set()

    def offer(self, messages: Iterable[Pending]) -> None:
        """Offer these messages, which were committed in this order."""
        for message in messages:
            bucket = message.bucket
            if any(message.seq in found for found in self._found):
                continue  # it has left, or its bucket is read again
            if bucket in self._in_memory or bucket in self._catching_up:
                self._offered.setdefault(bucket, deque()).append(message)
                self._count += 1
                self._bytes += size_of(message)
                if self._count > self._most or self._bytes > self._most_bytes:
                    self.distrust([bucket])

    def withdraw(self, ids: Collection[str]) -> None:
        """Forget the messages of these ids, which are gone from the table."""
        for bucket, offered in list(self._offered.items()):
            self._keep(bucket, deque(it for it in offered if it.envelope.id not in ids))

    def take(
        self,
        buckets: Sequence[int],
        most: int,
        most_bytes: int,
        busy: Set[tuple[int, str]] = frozenset(),
    ) -> list[Pending]:
        """Take out the next messages of these buckets, in the order of `buckets`, without those of
        the `busy` keys: one at least, however large it is."""
        room = most_bytes
        taken: list[Pending] = []
        for bucket in buckets:
            if bucket not in self._in_memory or bucket not in self._offered:
                continue
            offered = self._offered[bucket]
            left: deque[Pending] = deque()
            while offered and len(taken) < most:
                if offered[0].key in busy:
                    left.append(offered.popleft())
                    continue
                size = size_of(offered[0])
                if taken and size > room:
                    break
                room -= size
                self._bytes -= size
                taken.append(offered.popleft())
            offered.extendleft(reversed(left))
            if not offered:
                del self._offered[bucket]
        self._count -= len(taken)
        return taken

    def _keep(self, bucket: int, messages: deque[Pending]) -> None:
        """Replace the bucket's messages by these."""
        before = self._offered[bucket]
        self._count += len(messages) - len(before)
        self._bytes += sum(map(size_of, messages)) - sum(map(size_of, before))
        if messages:
            self._offered[bucket] = messages
        else:
            del self._offered[bucket]
