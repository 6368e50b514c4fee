"""What a courier may take from memory, and when it goes back to the table."""

from __future__ import annotations

from datetime import UTC, datetime

from outbox.ids import compose
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.verdicts import Pending
from outbox.wire.envelope import Envelope

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 1024 * 1024


def message(seq: int, bucket: int = 1) -> Pending:
    return Pending(seq, bucket, Envelope(compose(1, seq), "me", "a.b.v1", "k", NOW, b"{}"))


def caught_up(*buckets: int, most: int = 100, most_bytes: int = MIB) -> MemoryQueue:
    feed = MemoryQueue(most, most_bytes)
    feed.begin(buckets)
    feed.read(buckets, ())
    return feed


def test_a_bucket_that_was_never_read_is_not_taken_from_memory() -> None:
    feed = MemoryQueue(100, MIB)
    feed.offer([message(1)])
    assert feed.unread([1]) == [1]
    assert feed.take([1], 10, MIB) == []


def test_a_bucket_that_was_read_to_its_end_is_taken_from_memory_in_order() -> None:
    feed = caught_up(1)
    feed.offer([message(1), message(2)])
    assert [it.seq for it in feed.take([1], 10, MIB)] == [1, 2]
    assert len(feed) == 0


def test_a_bucket_of_which_more_is_left_stays_with_the_table() -> None:
    feed = MemoryQueue(100, MIB)
    feed.begin([1])
    feed.read((), ())
    feed.offer([message(1)])
    assert feed.unread([1]) == [1]
    assert len(feed) == 0


def test_what_is_offered_while_the_bucket_is_read_is_kept_unless_it_was_found() -> None:
    feed = MemoryQueue(100, MIB)
    feed.begin([1])
    feed.offer([message(1), message(2)])
    feed.read([1], {1})
    assert [it.seq for it in feed.take([1], 10, MIB)] == [2]


def test_what_was_found_is_not_kept_where_it_is_offered_later() -> None:
    """The table shows a commit before its committer has heard of it."""
    feed = MemoryQueue(100, MIB)
    feed.begin([1, 2])
    feed.read([1, 2], {1})
    feed.offer([message(1), message(2), message(3, bucket=2)])
    assert [it.seq for it in feed.take([1, 2], 10, MIB)] == [2, 3]


def test_nor_where_its_bucket_was_doubted_or_not_read_to_its_end_meanwhile() -> None:
    feed = MemoryQueue(100, MIB)
    feed.begin([1, 2])
    feed.read([1], {1, 2})
    feed.distrust([1])
    feed.begin([1, 2])
    feed.read([1, 2], ())
    feed.offer([message(1), message(2, bucket=2), message(3)])
    assert [it.seq for it in feed.take([1, 2], 10, MIB)] == [3]


def test_nothing_is_taken_of_a_bucket_that_is_still_being_read() -> None:
    feed = MemoryQueue(100, MIB)
    feed.begin([1])
    feed.offer([message(2)])
    assert feed.waiting == frozenset()
    assert feed.take([1], 10, MIB) == []


def test_doubt_while_the_bucket_is_read_leads_back_to_the_table() -> None:
    feed = MemoryQueue(100, MIB)
    feed.begin([1])
    feed.distrust([1])
    feed.read([1], ())
    assert feed.unread([1]) == [1]


def test_a_doubted_bucket_forgets_what_was_offered() -> None:
    feed = caught_up(1, 2)
    feed.offer([message(1, 1), message(2, 2)])
    feed.distrust([1])
    assert [it.seq for it in feed.take([1, 2], 10, MIB)] == [2]
    feed.distrust_all()
    assert feed.unread([2]) == [2]


def test_memory_is_bounded_and_what_is_too_much_is_left_to_the_table() -> None:
    feed = caught_up(1, 2, most=2)
    feed.offer([message(1, 1), message(2, 1), message(3, 1), message(4, 2)])
    assert feed.unread([1]) == [1]
    assert [it.seq for it in feed.take([1, 2], 10, MIB)] == [4]


def test_a_withdrawn_message_does_not_leave() -> None:
    feed = caught_up(1)
    feed.offer([message(1), message(2)])
    feed.withdraw({compose(1, 1)})
    assert [it.seq for it in feed.take([1], 10, MIB)] == [2]
    assert len(feed) == 0


def test_no_more_is_taken_than_there_is_room_for() -> None:
    feed = caught_up(1)
    feed.offer([message(1), message(2), message(3)])
    assert [it.seq for it in feed.take([1], 2, MIB)] == [1, 2]
    assert [it.seq for it in feed.take([1], 2, MIB)] == [3]


def large(seq: int, bucket: int = 1) -> Pending:
    """A message for which about 1 MiB is reckoned."""
    data = b"0" * (MIB - 1024)
    return Pending(seq, bucket, Envelope(compose(1, seq), "me", "a.b.v1", "k", NOW, data))


def test_p8_more_bytes_than_memory_is_meant_for_lead_back_to_the_table() -> None:
    feed = caught_up(1, 2, most_bytes=3 * MIB)
    feed.offer([large(1), large(2, bucket=2), large(3)])
    assert feed.unread([1, 2]) == []
    feed.offer([large(4, bucket=2)])
    assert feed.unread([1, 2]) == [2]
    assert [it.seq for it in feed.take([1, 2], 10, 10 * MIB)] == [1, 3]


def test_p8_room_in_bytes_is_free_again_when_messages_have_left() -> None:
    feed = caught_up(1, most_bytes=2 * MIB)
    for seq in range(0, 20, 2):
        feed.offer([large(seq), large(seq + 1)])
        feed.withdraw({compose(1, seq)})
        assert [it.seq for it in feed.take([1], 10, 2 * MIB)] == [seq + 1]
    assert feed.unread([1]) == []


def test_p8_no_more_bytes_are_taken_than_were_asked_for_but_one_message_always() -> None:
    feed = caught_up(1, most_bytes=5 * MIB)
    feed.offer([large(seq) for seq in range(1, 5)])
    assert [it.seq for it in feed.take([1], 10, 2 * MIB)] == [1, 2]
    assert [it.seq for it in feed.take([1], 10, 1)] == [3]
    assert [it.seq for it in feed.take([1], 10, 2 * MIB)] == [4]
