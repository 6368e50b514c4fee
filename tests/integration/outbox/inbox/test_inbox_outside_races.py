"""Calls to the outside that meet another process, or their own late result."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import outbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.pending.complete import lock_with_actions
from outbox.inbox.rows import State
from outbox.inbox.runners import Sessions
from outbox.replies import Outcome
from outbox.testing import crash_at
from outbox.wire.envelope import Envelope
from tests.support.outbox.calls import Bank, Lost, Provider, asked, ended
from tests.support.outbox.inboxes import START, Book, Booked, Names
from tests.support.outbox.lock_waits import a_transaction_waits
from tests.support.processes.waiting import until

REFUSED = outbox.Refused("no", "no money")


@pytest.fixture
def ground(database_kind: str) -> str:
    """Both grounds and both databases, but not each with each."""
    return "in threads" if database_kind == "sqlite" else "on the loop"


# --- Two processes -------------------------------------------------------------------------------


async def test_a_live_call_is_not_taken_over(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    gate = provider.held()
    bank, other = Bank(sessions, provider), Bank(sessions, provider)
    await bank.ask(action)
    answer = await other.ask(action)
    assert answer.is_pending
    assert answer.retry_after == pytest.approx(40, abs=1)
    assert len(provider.asked) == 1
    gate.open()
    await bank.reaches(action, State.RAN)


async def test_a_call_whose_time_is_over_is_taken_over_and_the_first_result_does_not_count(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    first, second = provider.held(), provider.held()
    provider.script = [Booked(balance=1), Booked(balance=2)]
    bank, other = Bank(sessions, provider), Bank(sessions, provider)
    await bank.ask(action)
    await bank.let_pass(action.id)
    assert (await other.ask(action)).is_pending
    assert [it.attempt for it in provider.asked] == [1, 2]
    first.open()
    await ended(bank)
    assert await bank.states() == {action.id: State.PENDING}
    assert await bank.entries() == ["before"]
    second.open()
    await ended(other)
    assert await bank.states() == {action.id: State.RAN}
    assert await bank.entries() == ["before", "after 2"]


async def test_two_processes_do_not_take_one_call_over(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    gates = [provider.held() for _ in range(3)]
    banks = [Bank(sessions, provider) for _ in range(3)]
    await banks[0].ask(action)
    await banks[0].let_pass(action.id)
    answers = await asyncio.gather(*(it.ask(action) for it in banks[1:]))
    assert not any(it.outcome.is_final for it in answers)
    assert [it.attempt for it in provider.asked] == [1, 2]
    for gate in gates:
        gate.open()
    for bank in banks:
        await ended(bank)


@pytest.mark.parametrize("ground", ["on the loop"])
async def test_a_call_that_is_being_taken_over_is_waited_for_and_not_taken_over_once_more(
    sessions: async_sessionmaker[AsyncSession], provider: Provider, action: Envelope
) -> None:
    with crash_at("outside: after before, before the call"):
        await Bank(sessions, provider).ask(action)
    bank = Bank(sessions, provider, limits=InboxLimits(lock=30))
    await bank.let_pass(action.id)
    async with sessions.begin() as session:
        ids = {action.id}
        rows = await session.run_sync(lambda it: lock_with_actions(it, "bank", ids, START))
        pended = rows[action.id].pended
        assert pended is not None
        asking = bank.asking(action)
        await a_transaction_waits(sessions.kw["bind"])
        taken = replace(pended, attempt=2, holder="other", until=datetime(2999, 1, 1, tzinfo=UTC))
        await session.run_sync(lambda it: pending_rows.change(it, "bank", taken))
    assert (await asking).is_pending
    assert provider.asked == []


async def test_a_call_whose_process_died_is_not_repeated_without_a_key(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    with crash_at("outside: after before, before the call"):
        await Bank(sessions, provider, keyed=False).ask(action)
    other = Bank(sessions, provider, keyed=False)
    await other.let_pass(action.id)
    assert (await other.ask(action)).outcome is Outcome.UNKNOWN
    assert provider.asked == []


async def test_a_call_is_not_repeated_after_the_key_has_ended(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    provider.script = [Lost("reset")]
    bank = Bank(sessions, provider, key_valid_for=timedelta(hours=1))
    await bank.ask(action)
    await bank.change(action.id, since=(await bank.kept(action.id)).since - timedelta(hours=1))
    answer = await bank.ask(action)
    assert answer.outcome is Outcome.UNKNOWN
    assert len(provider.asked) == 1


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_refusal_after_a_doubt_counts_only_with_a_key(
    sessions: Sessions, provider: Provider, action: Envelope, keyed: bool
) -> None:
    provider.script = [Lost("reset"), REFUSED]
    gate = provider.held()
    gate.open()
    second = provider.held()
    bank = Bank(sessions, provider)
    await bank.ask(action)
    await bank.ask(action)
    # Another version of the service takes the promise back while the call is made.
    running = bank.inbox.calls._running[action.id]
    promise = running.call.outside.promise
    object.__setattr__(promise, "keyed", keyed)
    second.open()
    await ended(bank)
    expected = State.REFUSED if keyed else State.PENDING
    assert await bank.states() == {action.id: expected}


# --- Deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "calls"),
    [
        ("outside: after before, before the call", 1),
        ("outside: after the call, before its result", 2),
    ],
)
async def test_a_call_whose_process_died_is_made_again_under_its_key_once_its_time_is_over(
    sessions: Sessions, provider: Provider, action: Envelope, point: str, calls: int
) -> None:
    with crash_at(point):
        assert (await Bank(sessions, provider).ask(action)).is_pending
    other = Bank(sessions, provider)
    assert (await other.ask(action)).is_pending, "it may be alive"
    await other.let_pass(action.id)
    assert (await other.ask(action)).outcome is Outcome.DONE
    assert len(provider.asked) == calls
    assert provider.asked[-1].attempt == 2
    assert provider.effects == [action.id]
    assert await other.entries() == ["before", "after 1"]


async def test_a_result_that_was_written_outlives_the_death_of_its_process(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    with crash_at("outside: after its result, before the reply"):
        await Bank(sessions, provider).ask(action)
    assert (await Bank(sessions, provider).ask(action)).outcome is Outcome.DONE
    assert len(provider.asked) == 1


async def test_a_process_that_stops_waits_for_its_calls_and_leaves_the_rest_to_others(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    gates = [provider.held() for _ in range(2)]
    bank = Bank(sessions, provider)
    batch = [asked(names(), Book("a")), asked(names(), Book("b"))]
    await bank.receive(*batch)
    draining = asyncio.create_task(bank.inbox.drain(3.0))
    gates[0].open()
    await draining
    assert await bank.states() == {batch[0].id: State.RAN, batch[1].id: State.PENDING}
    kept = await bank.kept(batch[1].id)
    assert (kept.attempt, kept.is_in_doubt, kept.last_error) == (1, False, None)
    gates[1].open()
    assert bank.inbox.longest_work == 30


# --- Its own late result -------------------------------------------------------------------------


@pytest.mark.parametrize("ground", ["on the loop"])
async def test_a_coroutine_is_cut_off_at_its_time(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider, timeout=0.05)
    answer = await bank.ask(action)
    assert (answer.is_pending, answer.retry_after) == (True, 1.0)
    assert "was not done within 0.05 s" in (answer.reason or "")
    await ended(bank)
    gate.open()
    assert provider.effects == []
    assert (await bank.ask(action)).outcome is Outcome.DONE


@pytest.mark.parametrize("ground", ["in threads"])
@pytest.mark.parametrize("keyed", [True, False])
async def test_a_thread_goes_on_after_its_time_and_its_late_result_counts(
    sessions: Sessions, provider: Provider, action: Envelope, keyed: bool
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider, timeout=0.05, keyed=keyed)
    answer = await bank.ask(action)
    assert answer.outcome is (Outcome.ONGOING if keyed else Outcome.UNKNOWN)
    assert bank.inbox.calls.taken == 1, "it keeps its slot"
    gate.open()
    await ended(bank)
    assert await bank.states() == {action.id: State.RAN}
    assert await bank.entries() == ["before", "after 1"]
    (told,) = await bank.told()
    assert told["outcome"] == "done"


@pytest.mark.parametrize("ground", ["in threads"])
async def test_the_late_result_of_a_thread_does_not_count_once_another_attempt_was_begun(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    first, second = provider.held(), provider.held()
    provider.script = [Booked(balance=1), Booked(balance=2)]
    bank = Bank(sessions, provider, timeout=0.05)
    await bank.ask(action)
    await first.is_entered()
    assert (await bank.ask(action)).is_pending
    first.open()
    await until(lambda: bank.inbox.calls.taken == 1, what="the first thread ends")
    assert await bank.states() == {action.id: State.PENDING}
    second.open()
    await ended(bank)
    assert await bank.entries() == ["before", "after 2"]
