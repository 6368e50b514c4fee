"""Results of calls that are known, and cannot be written: what is kept, told and undone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import outbox
from outbox.contract import Void
from outbox.inbox.handlers import Context
from outbox.inbox.outside.results import ResultTransaction
from outbox.inbox.rows import State
from outbox.inbox.runners import Sessions
from outbox.replies import Outcome
from outbox.wire.envelope import Envelope
from tests.support.outbox.calls import Bank, Provider, asked, ended
from tests.support.outbox.inboxes import Book, Booked, Names, Unbook


@pytest.fixture
def ground(database_kind: str) -> str:
    """Both grounds and both databases, but not each with each."""
    return "in threads" if database_kind == "sqlite" else "on the loop"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between the tries to write a result."""
    monkeypatch.setattr("outbox.inbox.outside.results._LONGEST_PAUSE", 0.0)


class Checking(Bank):
    """A bank whose `after` writes what the database refuses at the commit only, while `is_bad`."""

    is_bad = True

    def _after(
        self, session: Session, command: Book, reply: Booked | outbox.Refused, context: Context
    ) -> None:
        super()._after(session, command, reply, context)
        if self.is_bad:
            session.execute(text("INSERT INTO bill (account) VALUES (99)"))

    async def prepare(self) -> None:
        """Make the tables."""
        await self._read(lambda it: it.execute(text("CREATE TABLE account (id INT PRIMARY KEY)")))
        column = "account INT REFERENCES account(id) DEFERRABLE INITIALLY DEFERRED"
        await self._read(lambda it: it.execute(text(f"CREATE TABLE bill ({column})")))


# --- Kept ----------------------------------------------------------------------------------------


async def test_a_result_whose_after_fails_at_the_commit_is_kept_and_nothing_is_called_again(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    bank = Checking(sessions, provider, keyed=False)
    await bank.prepare()
    reply = await bank.ask(action)
    assert reply.outcome is Outcome.FAILED
    assert "foreign key" in str(reply.reason).lower()
    await ended(bank)
    kept = await bank.kept(action.id)
    assert kept.last_error == f"its result is known, and cannot be written: {reply.reason}"
    assert await bank.entries() == ["before"]
    bank.is_bad = False
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert await bank.entries() == ["before", "after 1"]
    assert len(provider.asked) == 1


async def test_an_after_that_is_always_in_the_way_of_others_is_given_up_after_some_tries(
    sessions: Sessions, provider: Provider, action: Envelope, at_once: None
) -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"

    bank = Bank(sessions, provider, keyed=False)
    bank.after_raises = [OperationalError("INSERT", {}, Deadlock()) for _ in range(100)]
    reply = await bank.ask(action)
    assert reply.outcome is Outcome.FAILED
    await ended(bank)
    assert (await bank.kept(action.id)).late_reply is not None
    assert 80 < len(bank.after_raises) < 98


async def test_a_result_that_cannot_be_written_for_a_lasting_reason_is_kept(
    sessions: Sessions,
    provider: Provider,
    action: Envelope,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("not to be written")

    bank = Bank(sessions, provider, keyed=False)
    with monkeypatch.context() as patched:
        patched.setattr("outbox.inbox.outside.results.run_after", lambda *_: None)
        patched.setattr("outbox.inbox.outside.results.completed", fail)
        reply = await bank.ask(action)
        assert (reply.outcome, reply.reason) == (Outcome.FAILED, "ValueError: not to be written")
        await ended(bank)
    assert await bank.states() == {action.id: State.PENDING}
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert len(provider.asked) == 1


async def test_a_result_that_cannot_even_be_kept_is_given_up_and_frees_its_slot(
    sessions: Sessions,
    provider: Provider,
    action: Envelope,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("not to be written")

    bank = Bank(sessions, provider)
    with monkeypatch.context() as patched:
        patched.setattr(ResultTransaction, "_write", fail)
        assert (await bank.ask(action)).outcome is Outcome.FAILED
        await ended(bank)
    assert "the result of a call is given up" in caplog.text
    await bank.let_pass(action.id)
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert [it.attempt for it in provider.asked] == [1, 2]


async def test_a_result_that_after_could_not_take_is_told_where_it_was_undone_meanwhile(
    sessions: Sessions,
    provider: Provider,
    action: Envelope,
    undo: Envelope,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = Bank(sessions, provider)
    bank.after_raises = [RuntimeError("no such row")]
    handle, other = bank.inbox._runner.handle, Bank(sessions, provider)

    async def undone_before(work: Any, *, connect_within: float) -> Any:
        if isinstance(work, ResultTransaction) and not bank.after_raises:
            await bank.let_pass(action.id)
            await other.ask(undo)
        return await handle(work, connect_within=connect_within)

    monkeypatch.setattr(bank.inbox._runner, "handle", undone_before)
    await bank.ask(action)
    await ended(bank)
    assert (await bank.states())[action.id] is State.RAN
    assert [it["outcome"] for it in await bank.told() if it["command_id"] == action.id] == ["done"]


@pytest.mark.parametrize(
    "answer",
    [
        outbox.Pending(note="the airline said \0 \ud800"),
        outbox.Pending(expect=timedelta.max),
        outbox.Pending(expect=timedelta.min),
    ],
    ids=["note", "late", "early"],
)
async def test_an_answer_that_comes_later_is_kept_with_any_words_about_it(
    sessions: Sessions, provider: Provider, action: Envelope, answer: outbox.Pending
) -> None:
    provider.script = [answer]
    bank = Bank(sessions, provider)
    assert (await bank.ask(action)).is_pending
    await ended(bank)
    kept = await bank.kept(action.id)
    assert kept.attempt == 0
    assert kept.note == ("the airline said  ?" if answer.note else "")
    assert (await bank.ask(action)).is_pending
    await bank.complete(action.id, Booked(1))
    assert await bank.states() == {action.id: State.RAN}


async def test_a_key_that_is_valid_for_ever_is_used_again(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    provider.script = [ConnectionError("reset")]
    bank = Bank(sessions, provider, key_valid_for=timedelta.max)
    assert (await bank.ask(action)).is_pending
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert [it.attempt for it in provider.asked] == [1, 2]


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
