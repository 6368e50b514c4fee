"""Results of calls that are known, and cannot be written: what is kept, told and undone."""

from __future__ import annotations

import pytest

import outbox
from outbox.contract import Void
from outbox.inbox.rows import State
from outbox.inbox.runners import Sessions
from outbox.replies import Outcome
from outbox.wire.envelope import Envelope
from tests.support.outbox.calls import Bank, Provider, asked
from tests.support.outbox.inboxes import Book, Names, Unbook
from tests.support.processes.waiting import until


@pytest.fixture
def ground(database_kind: str) -> str:
    """Both grounds and both databases, but not each with each."""
    return "in threads" if database_kind == "sqlite" else "on the loop"


@pytest.fixture
def action(names: Names) -> Envelope:
    return asked(names(), Book("a"))


@pytest.fixture
def undo(names: Names, action: Envelope) -> Envelope:
    names()
    return asked(names(), Unbook("a"), undoes=(action.id,))


async def ended(bank: Bank) -> None:
    """Wait until the bank makes no call any more."""
    await until(lambda: bank.inbox.calls.taken == 0, what="its calls have ended")


# --- Undone --------------------------------------------------------------------------------------


async def failed_after(
    sessions: Sessions, provider: Provider, action: Envelope, undo: str = "outside"
) -> Bank:
    """A bank that knows the success of the action, which `after` could not write."""
    bank = Bank(sessions, provider, undo=undo)
    bank.after_raises = [RuntimeError("no such row")]
    assert (await bank.ask(action)).outcome is Outcome.FAILED
    return bank


@pytest.mark.parametrize("undone_by", ["outside", "a handler"])
async def test_a_success_that_was_known_before_its_undo_is_undone_once_and_not_told(
    sessions: Sessions,
    provider: Provider,
    action: Envelope,
    undo: Envelope,
    names: Names,
    undone_by: str,
) -> None:
    bank = await failed_after(sessions, provider, action, undone_by)
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    (context,) = bank.refunds.asked or bank.undone
    assert context.undoes == {action.id: "ran"}
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    assert await bank.kept(action.id) is None
    assert await bank.told() == []
    again = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.ask(again)).outcome is Outcome.NOTHING_TO_UNDO


async def test_an_undo_that_is_made_again_finds_the_success_that_was_known_before_it(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    bank = await failed_after(sessions, provider, action)
    bank.refunds.script = [ConnectionError("reset"), None]
    assert (await bank.ask(undo)).is_pending
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    assert [it.undoes[action.id] for it in bank.refunds.asked] == ["ran", "ran"]
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}


async def test_a_success_whose_undo_is_refused_is_still_to_be_written_by_after(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    bank = await failed_after(sessions, provider, action)
    bank.refunds.script = [outbox.Refused("no", "too late")]
    assert (await bank.ask(undo)).outcome is Outcome.REFUSED
    assert (await bank.states())[action.id] is State.PENDING
    assert await bank.told() == []
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert await bank.entries() == ["before", "after 1"]
    assert len(provider.asked) == 1


@pytest.mark.parametrize("ended_by", ["a void", "a person"])
async def test_a_known_success_that_is_waited_for_no_longer_is_undone_once_too(
    sessions: Sessions,
    provider: Provider,
    action: Envelope,
    undo: Envelope,
    names: Names,
    ended_by: str,
) -> None:
    bank = await failed_after(sessions, provider, action)
    if ended_by == "a void":
        assert (await bank.ask(asked(names(), Void([action.id], "a")))).outcome is Outcome.DONE
    else:
        await bank.drop(action.id)
    before = len(await bank.told())
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    assert bank.refunds.asked[-1].undoes == {action.id: "ran"}
    assert (await bank.states())[action.id] is State.UNDONE
    assert len(await bank.told()) == before
