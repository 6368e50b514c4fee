"""Calls to the outside, as their commands come: what is stored, called and answered."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker

from outbox.inbox.barrier import State
from outbox.inbox.runners import Sessions
from outbox.replies import Outcome
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.calls import Bank, Provider, asked
from tests.support.outbox.inboxes import Book, Names, Unbook


@pytest.fixture(params=["on the loop", "in threads"])
def sessions(
    request: pytest.FixtureRequest,
    database: Database,
    make_engine: MakeEngine,
    make_sync_engine: MakeSyncEngine,
) -> Sessions:
    if request.param == "in threads":
        return sessionmaker(make_sync_engine(database))
    return async_sessionmaker(make_engine(database))


@pytest.fixture
def provider(sessions: Sessions) -> Provider:
    return Provider(is_async=isinstance(sessions, async_sessionmaker))


async def test_a_call_is_stored_made_and_answered_in_one_delivery(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    reply = await bank.ask(action)
    assert (reply.outcome, reply.value) == (Outcome.DONE, {"balance": 1})
    assert await bank.states() == {action.id: State.RAN}
    assert await bank.entries() == ["before", "after 1"]
    assert provider.effects == [action.id]
    (context,) = provider.asked
    assert (context.attempt, context.before) == (1, {"card": 7})
    assert await bank.ask(action) == reply
    assert len(provider.asked) == 1
    assert await bank.told() == []
    assert await bank.kept(action.id) is None
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    assert bank.refunds.asked[0].undoes == {action.id: "ran"}
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}
