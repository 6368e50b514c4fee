from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import MalformedEnvelope
from outbox.ids import compose
from outbox.inbox.retention import MINIMUM_RETENTION, Forgotten, horizon, may_be_forgotten
from outbox.wire.settled import MAX_LIVE, EndedRange, EndedSagas

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SAGAS = [compose(1_000 + number, 0) for number in range(8)]


def statements() -> st.SearchStrategy[EndedSagas]:
    return st.builds(EndedSagas, st.sampled_from(SAGAS), st.frozensets(st.sampled_from(SAGAS)))


def covered(settled: EndedSagas) -> set[str]:
    return {saga for saga in SAGAS if settled.covers(saga)}


def test_sagas_before_the_watermark_are_settled_except_the_live_ones() -> None:
    assert covered(EndedSagas(SAGAS[4], frozenset({SAGAS[1]}))) == {SAGAS[0], SAGAS[2], SAGAS[3]}


def test_live_sagas_that_the_watermark_leaves_out_anyway_say_nothing() -> None:
    assert EndedSagas(SAGAS[2], frozenset(SAGAS[2:])) == EndedSagas(SAGAS[2])


@given(statements(), statements())
def test_two_statements_together_cover_exactly_what_one_of_them_covers(
    one: EndedSagas, two: EndedSagas
) -> None:
    assert covered(one.join(two)) == covered(one) | covered(two)


@given(statements(), statements(), statements())
def test_the_order_in_which_statements_arrive_does_not_matter(
    one: EndedSagas, two: EndedSagas, three: EndedSagas
) -> None:
    assert one.join(two).join(three) == three.join(one).join(two)


@given(statements(), st.lists(statements()))
def test_a_delayed_old_statement_resurrects_nothing(
    now: EndedSagas, late: list[EndedSagas]
) -> None:
    watermark = now
    for each in late:
        joined = watermark.join(each)
        assert joined.before >= watermark.before
        assert covered(joined) >= covered(watermark)
        if joined.before == watermark.before:
            assert joined.live <= watermark.live, "exceptions only shrink"
        watermark = joined


# What is learned of a range


def ranges() -> st.SearchStrategy[EndedRange]:
    numbers = st.sampled_from(SAGAS)
    return st.builds(EndedRange, numbers, numbers, st.frozensets(numbers))


@given(statements(), ranges())
def test_what_is_known_and_what_is_learned_cover_together_what_one_of_them_covers(
    known: EndedSagas, found: EndedRange
) -> None:
    learned = {saga for saga in SAGAS if found.covers(saga)}
    if found.since <= known.before:
        assert covered(known.extended(found)) == covered(known) | learned
    else:
        assert known.extended(found) == known, "what lies between the two is not known"


@given(statements(), ranges(), st.integers(0, 4))
def test_what_is_learned_reaches_as_far_as_the_live_sagas_that_can_be_remembered(
    known: EndedSagas, found: EndedRange, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outbox.wire.settled.MAX_REMEMBERED", most)
        bounded = known.extended(found)
    assert covered(known) <= covered(bounded) <= covered(known.extended(found))
    assert len(bounded.live) <= max(most, len(known.live))


def test_a_statement_joined_with_nothing_is_itself() -> None:
    assert EndedSagas(SAGAS[1]).join(None) == EndedSagas(SAGAS[1])


@given(statements(), st.sampled_from(SAGAS))
def test_a_capped_statement_says_the_same_of_the_sagas_before_the_cap(
    settled: EndedSagas, cap: str
) -> None:
    assert covered(settled.capped(cap)) == {saga for saga in covered(settled) if saga < cap}


@given(statements())
def test_a_header_reads_as_it_was_written(settled: EndedSagas) -> None:
    assert EndedSagas.from_header(settled.to_header()) == settled


def test_the_headers_tell_the_database_where_there_is_one_and_what_is_none_counts_as_none() -> None:
    said = EndedSagas(SAGAS[3], frozenset({SAGAS[1]}), database=SAGAS[7])
    headers = {name.lower(): value for name, value in said.to_headers().items()}
    assert headers == {"sagabox-settled": said.to_header(), "ce-sagaboxorigin": SAGAS[7]}
    assert EndedSagas.from_headers(headers) == said
    older = EndedSagas(said.before, said.live)
    assert EndedSagas.from_headers({"sagabox-settled": said.to_header()}) == older
    for odd in ("", "mine", SAGAS[7].upper() + "x"):
        assert EndedSagas.from_headers({**headers, "ce-sagaboxorigin": odd}) == older
    assert EndedSagas.from_headers({"ce-sagaboxorigin": SAGAS[7]}) is None


def test_the_header_has_the_form_that_was_agreed() -> None:
    assert EndedSagas(SAGAS[3]).to_header() == SAGAS[3]
    settled = EndedSagas(SAGAS[3], frozenset({SAGAS[1], SAGAS[0]}))
    assert settled.to_header() == f"{SAGAS[3]};live={SAGAS[0]},{SAGAS[1]}"


@pytest.mark.parametrize(
    "text",
    ["", "x", SAGAS[0].upper(), f"{SAGAS[0]};live={SAGAS[1]},", f"{SAGAS[0]};dead={SAGAS[1]}"],
)
def test_a_header_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(MalformedEnvelope, match="Sagabox-Settled is not understood"):
        EndedSagas.from_header(text)


def test_a_header_names_a_bounded_number_of_live_sagas() -> None:
    live = frozenset(compose(number, 0) for number in range(MAX_LIVE + 1))
    too_many = EndedSagas(compose(10_000, 0), live)
    with pytest.raises(ValueError, match="101 live sagas"):
        too_many.to_header()
    text = f"{too_many.before};live={','.join(live)}"
    with pytest.raises(MalformedEnvelope, match="names 101 live sagas"):
        EndedSagas.from_header(text)


def test_without_watermarks_nothing_was_forgotten() -> None:
    assert not Forgotten().covers(compose(0, 0), "sender", None)
    assert not Forgotten().covers(compose(0, 0), "sender", SAGAS[0])


def test_a_message_without_a_saga_is_judged_by_its_id_alone() -> None:
    forgotten = Forgotten(age=SAGAS[2], sagas={"sender": EndedSagas(SAGAS[7])})
    assert forgotten.covers(SAGAS[1], "sender", None)
    assert not forgotten.covers(SAGAS[2], "sender", None)


def test_a_command_is_judged_by_its_saga_alone() -> None:
    forgotten = Forgotten(age=SAGAS[7], sagas={"sender": EndedSagas(SAGAS[2])})
    assert forgotten.covers(SAGAS[5], "sender", SAGAS[1])
    assert not forgotten.covers(SAGAS[1], "sender", SAGAS[5])
    assert not forgotten.covers(SAGAS[1], "another", SAGAS[1])


def made(moment: datetime) -> str:
    return compose(round(moment.timestamp() * 1000), 1)


def test_young_ids_need_no_look_at_the_watermarks() -> None:
    margin = MINIMUM_RETENTION / 2
    assert not may_be_forgotten([], NOW)
    assert not may_be_forgotten([made(NOW), made(NOW - margin)], NOW)
    assert may_be_forgotten([made(NOW), made(NOW - margin - timedelta(seconds=1))], NOW)


def test_what_an_inbox_forgets_is_always_old_enough_to_be_looked_up() -> None:
    last_forgotten = made(NOW - MINIMUM_RETENTION - timedelta(milliseconds=1))
    assert last_forgotten < horizon(NOW, MINIMUM_RETENTION)
    hours_behind = NOW - timedelta(hours=11)
    assert may_be_forgotten([last_forgotten], hours_behind), "also by a clock that is behind"


def test_the_horizon_of_a_clock_near_its_beginning_forgets_nothing() -> None:
    beginning = datetime(1970, 1, 2, tzinfo=UTC)
    assert horizon(beginning, timedelta(days=30)) <= compose(0, 0)
