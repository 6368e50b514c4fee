"""The pure decisions of the relay: verdicts, requests, the breaker, leases and floors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.coordination.leases import Leases, fair_share, in_excess
from outbox.lanes import BUCKETS, BUCKETS_PER_LANE, Lane, lane_of
from outbox.relay.breaker import LONGEST_PAUSE, Breaker
from outbox.relay.fetcher import shares
from outbox.relay.low_watermarks import LowWatermarks
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import (
    LONGEST_REST,
    Bury,
    Hold,
    Leave,
    Pending,
    Settle,
    judge,
    requests,
    streams,
)
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.safe_text import is_storable
from tests.support.outbox.envelopes import an_envelope

POLICY = RetryPolicy(first=1.0, factor=2.0, ceiling=60.0, jitter=0.0, attempts=3)


def _pending(
    seq: int = 1, *, bucket: int = 16, awaited: bool = False, attempts: int = 0
) -> Pending:
    reply_to = "orchestrator" if awaited else None
    return Pending(seq, bucket, an_envelope(reply_to=reply_to), attempts)


def test_every_outcome_has_a_verdict() -> None:
    for outcome in Outcome:
        for awaited in (True, False):
            verdict = judge(_pending(awaited=awaited), Reply(outcome), POLICY, 0.0)
            assert isinstance(verdict, Settle | Hold | Bury | Leave)


@pytest.mark.parametrize("outcome", [Outcome.LOCKED, Outcome.ONGOING])
def test_undecided_answers_go_to_the_sink_that_awaits_them_and_else_are_asked_again(
    outcome: Outcome,
) -> None:
    assert judge(_pending(awaited=True), Reply(outcome), POLICY, 0.0) == Settle()
    verdict = judge(_pending(attempts=2), Reply(outcome, retry_after=7.0), POLICY, 0.0)
    assert isinstance(verdict, Hold)
    assert (verdict.attempts, verdict.delay) == (2, 7.0)


@pytest.mark.parametrize("wish", [1e9, 1e300])
def test_a_message_rests_no_longer_than_a_day_however_long_its_receiver_wants_that(
    wish: float,
) -> None:
    # No database could store the time when such a rest is over.
    for outcome in (Outcome.TOO_BUSY, Outcome.ONGOING):
        match judge(_pending(), Reply(outcome, retry_after=wish), POLICY, 0.0):
            case Hold(delay=delay):
                assert delay == LONGEST_REST
            case other:
                pytest.fail(f"{other} was judged")


def test_only_failures_count_as_attempts() -> None:
    for outcome in (Outcome.FAILED, Outcome.LOCKED, Outcome.ONGOING, Outcome.TOO_BUSY):
        verdict = judge(_pending(attempts=1), Reply(outcome), POLICY, 0.0)
        assert isinstance(verdict, Hold)
        assert verdict.attempts == (2 if outcome is Outcome.FAILED else 1)


def test_a_message_is_given_up_after_its_last_attempt() -> None:
    verdict = judge(_pending(attempts=2), Reply(Outcome.FAILED, reason="boom"), POLICY, 0.0)
    assert isinstance(verdict, Bury)
    assert "3 attempts" in verdict.reason
    assert "boom" in verdict.reason


def test_what_a_relay_writes_down_holds_nothing_that_a_database_refuses() -> None:
    reply = Reply(Outcome.FAILED, code="a\0b", reason="c\ud800d")
    for attempts in (0, 2):
        match judge(_pending(attempts=attempts), reply, POLICY, 0.0):
            case Hold(error=text) | Bury(reason=text):
                assert is_storable(text)
                assert "a\ufffdb: c\ufffdd" in text
            case other:
                pytest.fail(f"{other} was judged")


def test_an_unknown_type_is_retried_since_a_newer_receiver_may_be_on_its_way() -> None:
    unknown = Reply(Outcome.REJECTED, code="unknown-type")
    assert isinstance(judge(_pending(), unknown, POLICY, 0.0), Hold)
    assert isinstance(judge(_pending(), Reply(Outcome.REJECTED, code="invalid"), POLICY, 0.0), Bury)


@pytest.mark.parametrize("outcome", [Outcome.TOO_OLD, Outcome.UNKNOWN])
def test_what_may_or_may_not_have_run_is_buried_where_no_one_awaits_it_and_not_dropped(
    outcome: Outcome,
) -> None:
    assert isinstance(judge(_pending(), Reply(outcome), POLICY, 0.0), Bury)
    assert judge(_pending(awaited=True), Reply(outcome), POLICY, 0.0) == Settle()


@given(
    st.lists(st.integers(0, 5_000), max_size=40),
    st.integers(1, 10),
    st.integers(1_000, 20_000),
)
def test_requests_keep_everything_in_order_and_within_bounds(
    sizes: list[int], most: int, most_bytes: int
) -> None:
    messages = [
        Pending(seq, 16, an_envelope(data=b'"' + b"x" * size + b'"'))
        for seq, size in enumerate(sizes)
    ]
    cut = list(requests(messages, most=most, most_bytes=most_bytes))
    assert [m for batch in cut for m in batch] == messages
    for batch in cut:
        assert 0 < len(batch) <= most
        weight = sum(len(m.envelope.data) + 1024 for m in batch)
        assert weight <= most_bytes or len(batch) == 1


@given(st.lists(st.integers(0, 31), max_size=50), st.integers(1, 5))
def test_a_bucket_is_in_one_stream_only(buckets: list[int], width: int) -> None:
    messages = [_pending(seq, bucket=bucket) for seq, bucket in enumerate(buckets)]
    spread = streams(messages, width)
    assert sorted(m.seq for stream in spread for m in stream) == list(range(len(buckets)))
    homes: dict[int, int] = {}
    for place, stream in enumerate(spread):
        assert [m.seq for m in stream] == sorted(m.seq for m in stream)
        for each in stream:
            assert homes.setdefault(each.bucket, place) == place


def test_a_breaker_pauses_longer_and_longer_up_to_a_limit() -> None:
    breaker, now, pauses = Breaker(), 0.0, []
    for _ in range(12):
        breaker = breaker.without_answer(now, sent=False, chance=0.9999)
        pauses.append(breaker.blocked_until - now)
        assert not breaker.may_send(breaker.blocked_until - 0.001)
        assert breaker.may_send(breaker.blocked_until)
        now = breaker.blocked_until
    assert pauses == pytest.approx(sorted(pauses))
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, rel=0.01)


def test_a_breaker_heeds_the_wish_of_the_destination_within_reason() -> None:
    wish = Breaker().without_answer(0.0, sent=False, chance=0.0, retry_after=5.0)
    assert wish.blocked_until == 5.0
    absurd = Breaker().without_answer(0.0, sent=False, chance=0.0, retry_after=1e9)
    assert absurd.blocked_until == LONGEST_PAUSE


def test_after_a_refused_connection_one_answer_is_enough() -> None:
    breaker = Breaker().without_answer(0.0, sent=False, chance=0.0)
    assert breaker.allowance == 1
    assert breaker.answered(100) == Breaker()


def test_after_a_lost_answer_requests_grow_by_doubling() -> None:
    breaker = Breaker().without_answer(0.0, sent=True, chance=0.0)
    allowances = [breaker.allowance]
    while breaker.allowance is not None:
        breaker = breaker.answered(16)
        allowances.append(breaker.allowance)
    assert allowances == [1, 2, 4, 8, None]


@given(st.integers(0, 40))
def test_fair_shares_cover_all_buckets(relays: int) -> None:
    assert fair_share(relays) * max(1, relays) >= len(BUCKETS)
    assert 1 <= fair_share(relays) <= len(BUCKETS)


def test_what_is_given_back_is_of_every_lane() -> None:
    surplus = in_excess(dict.fromkeys(BUCKETS, 1), 2)
    assert len(surplus) == 16
    assert len([bucket for bucket in surplus if bucket < 16]) == 8


def test_a_lease_is_usable_only_until_its_margin() -> None:
    leases = Leases({3: 1}, until=10.0)
    assert leases.usable(9.99) == {3: 1}
    assert leases.usable(10.0) == {}


def test_a_floor_rises_to_what_is_proven_and_stays_below_what_is_left() -> None:
    floors = LowWatermarks()
    floors.raise_to(proven=50, reached={1: None, 2: 30, 3: None}, left={3: 20})
    assert floors.of([1, 2, 3, 4]) == {1: 50, 2: 30, 3: 19, 4: 0}
    floors.raise_to(proven=40, reached={1: None}, left={})
    assert floors.of([1]) == {1: 50}
    floors.reset([1])
    assert floors.of([1, 2]) == {1: 0, 2: 30}


def test_settings_that_let_a_delivery_outlive_its_lease_are_refused() -> None:
    with pytest.raises(ValueError, match="delivery_timeout"):
        RelaySettings(lease=6.0, margin=2.0, delivery_timeout=3.0)
    with pytest.raises(ValueError, match="margin"):
        RelaySettings(lease=6.0, margin=5.0, delivery_timeout=3.0)


# Shares


def test_normal_buckets_share_a_fetch_and_urgent_ones_may_fill_half_of_it() -> None:
    given_ = shares(BUCKETS, frozenset(BUCKETS[BUCKETS_PER_LANE:]), 1000)
    urgent = {share for bucket, share in given_.items() if lane_of(bucket) is Lane.URGENT}
    normal = {share for bucket, share in given_.items() if lane_of(bucket) is Lane.NORMAL}
    assert (urgent, normal) == ({500}, {63})


@given(
    st.sets(st.sampled_from(BUCKETS), min_size=1),
    st.frozensets(st.sampled_from(BUCKETS)),
    st.integers(1, 2000),
)
def test_every_bucket_has_a_share_and_none_more_than_half(
    buckets: set[int], full: frozenset[int], most: int
) -> None:
    given_ = shares(buckets, full, most)
    assert given_.keys() == buckets
    assert all(1 <= share <= max(1, most // 2) for share in given_.values())
    # Where no two of them have many, one of them may fill half of a fetch.
    assert len(buckets & full) > 1 or set(given_.values()) == {max(1, most // 2)}
