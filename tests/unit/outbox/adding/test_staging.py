from __future__ import annotations

from dataclasses import dataclass

from outbox.adding.staging import Mark, Staged, Staging
from outbox.lanes import Lane, bucket_of
from outbox.messages import Event


@dataclass(frozen=True)
class Noted(Event, type="things.noted.v1", key="thing"):
    thing: str


def added(staging: Staging, *texts: str) -> None:
    for text in texts:
        staging.messages.append(Staged(Noted, text.encode(), [], None))


def texts(staging: Staging) -> str:
    """What there is, and after the bar what is not written yet."""
    pending = [message.data.decode() for message in staging.pending]
    everything = [message.data.decode() for message in staging.messages]
    written = everything[: len(everything) - len(pending)]
    assert staging.has_pending is bool(pending)
    return "".join(written) + "|" + "".join(pending)


def test_messages_are_pending_until_they_are_written() -> None:
    staging = Staging()
    added(staging, "a", "b")
    assert texts(staging) == "|ab"
    staging.wrote(2)
    added(staging, "c")
    assert texts(staging) == "ab|c"


def test_an_ended_savepoint_takes_what_came_since() -> None:
    staging = Staging()
    added(staging, "a")
    staging.begin_savepoint("s")
    added(staging, "b")
    staging.end_savepoint("s")
    assert texts(staging) == "|a"


def test_a_released_savepoint_leaves_what_came_since() -> None:
    staging = Staging()
    staging.begin_savepoint("s")
    added(staging, "a")
    staging.release_savepoint("s")
    staging.end_savepoint("s")
    assert texts(staging) == "|a"


def test_what_was_written_within_a_savepoint_is_written_again_after_its_end() -> None:
    staging = Staging()
    added(staging, "a")
    staging.wrote(1)
    added(staging, "b")
    staging.begin_savepoint("s")
    added(staging, "c")
    staging.wrote(2)
    staging.end_savepoint("s")
    assert texts(staging) == "a|b"


def test_a_cut_to_the_beginning_leaves_nothing() -> None:
    staging = Staging()
    added(staging, "a", "b")
    staging.wrote(1)
    staging.cut(Mark())
    assert texts(staging) == "|"


def test_a_savepoint_that_never_began_ends_nothing() -> None:
    staging = Staging()
    added(staging, "a")
    staging.end_savepoint("unknown")
    assert texts(staging) == "|a"


def test_a_bucket_is_one_of_the_sixteen_of_its_lane() -> None:
    keys = [f"key {number}" for number in range(500)]
    assert {bucket_of(Lane.URGENT, key) for key in keys} == set(range(16))
    assert {bucket_of(Lane.NORMAL, key) for key in keys} == set(range(16, 32))


def test_the_bucket_of_a_key_never_changes() -> None:
    """Rows that an earlier release wrote are found where this one looks for them."""
    assert [bucket_of(Lane.NORMAL, key) for key in ("a", "b", "ä")] == [19, 25, 19]
