"""Runs kept in memory as they stand in the database, so that a step need not read them.

Pure. The cache is bounded in number and in bytes. The run written longest ago goes first; the node
reads it from the database when it needs it again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from orchestrator.store.records import Committed, Record


class RunCache(Mapping[str, Record]):
    """The runs by their ids, at most `most` of them, with at most `most_bytes` as they are stored:
    in memory, a run takes a few times that."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: dict[str, tuple[Committed, int]] = {}
        self._bytes = 0

    def __getitem__(self, saga_id: str) -> Record:
        return self._kept[saga_id][0].record

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """How many bytes they take in the database, together."""
        return self._bytes

    def size_of(self, saga_id: str) -> int | None:
        """How many bytes that run takes in the database; None where it is not kept."""
        kept = self._kept.get(saga_id)
        return None if kept is None else kept[1]

    def committed(self, saga_id: str) -> Committed | None:
        """That run, and when it was written; None where it is not kept."""
        kept = self._kept.get(saga_id)
        return None if kept is None else kept[0]

    def keep(self, committed: Committed, size: int) -> None:
        """Keep the run, which was written and takes `size` bytes; others go where it needs room."""
        saga_id = committed.record.instance.id
        self.forget(saga_id)
        self._kept[saga_id] = (committed, size)
        self._bytes += size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self.forget(next(iter(self._kept)))

    def forget(self, saga_id: str) -> None:
        """Forget that run, which may be wrong or is of no use any more."""
        kept = self._kept.pop(saga_id, None)
        if kept is not None:
            self._bytes -= kept[1]

    def forget_shards(self, shards: Collection[int]) -> None:
        """Forget every run of these shards."""
        for saga_id in [it for it, record in self.items() if record.shard in shards]:
            self.forget(saga_id)
