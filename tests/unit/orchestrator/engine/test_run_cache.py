"""P8: how many runs stay in memory, in number and in bytes."""

from __future__ import annotations

from datetime import UTC, datetime

from orchestrator.engine.commits.run_cache import RunCache
from orchestrator.machine.instance import Instance
from orchestrator.store.records import Committed, Record

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def run(name: str, revision: int = 0) -> Committed:
    instance = Instance(
        id=name, saga="trip", version=1, key=name, state=None, steps={}, created_at=NOW
    )
    return Committed(Record(instance, revision=revision), NOW)


def kept(cache: RunCache, *runs: tuple[str, int]) -> list[str]:
    for name, size in runs:
        cache.keep(run(name), size)
    return list(cache)


def test_p8_the_run_that_was_written_longest_ago_goes_first() -> None:
    cache = RunCache(3, 1000)
    assert kept(cache, ("a", 1), ("b", 1), ("c", 1), ("a", 1), ("d", 1)) == ["c", "a", "d"]
    assert cache.bytes == 3


def test_p8_large_runs_leave_room_for_fewer() -> None:
    cache = RunCache(100, 1000)
    assert kept(cache, ("a", 400), ("b", 400), ("c", 400)) == ["b", "c"]
    assert (cache.bytes, cache.size_of("b"), cache.size_of("a")) == (800, 400, None)


def test_p8_a_run_that_is_larger_than_all_of_the_room_is_not_kept() -> None:
    cache = RunCache(100, 1000)
    assert kept(cache, ("a", 400), ("b", 1001)) == []
    assert cache.bytes == 0


def test_a_run_that_grows_is_counted_once() -> None:
    cache = RunCache(100, 1000)
    cache.keep(run("a"), 300)
    cache.keep(run("a", revision=1), 700)
    assert (cache["a"].revision, cache.bytes, len(cache)) == (1, 700, 1)


def test_what_is_forgotten_takes_no_room() -> None:
    cache = RunCache(100, 1000)
    kept(cache, ("a", 400), ("b", 400))
    cache.forget("a")
    cache.forget("unknown")
    assert cache.bytes == 400
    cache.forget_shards({run("b").record.shard})
    assert (cache.bytes, "b" in cache) == (0, False)
