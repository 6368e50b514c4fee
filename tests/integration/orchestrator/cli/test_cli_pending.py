"""`sagabox pending`: what waits for its answer in a service of one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import outbox
from orchestrator.cli.terminal.errors import ExitCode
from orchestrator.cli.terminal.times import lasting
from outbox.inbox.rows import State
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import Told, address, explained
from tests.support.fixtures import DatabaseFactory
from tests.support.outbox.inboxes import Book, Names, Unbook, ledger_schema
from tests.support.outbox.pending_banks import SAGA, asked
from tests.support.outbox.services import NOWHERE, make_service
from tests.support.outbox.waiting_banks import NOTE, WaitingBank
from tests.support.processes.cli import sagabox, told_error

PERSON = ("--actor", "ada", "--reason", "the airline is bankrupt")
_MODULE = """
import outbox
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.outbox.waiting_banks import WaitingBank

service = outbox.Service("bank", {engine}, peers={peers})
WaitingBank(service)
"""


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@dataclass
class Desk:
    """A person at the terminal of a service, whose module is `name`."""

    name: str
    database: Database

    def pending(self, verb: str, *words: str) -> Told:
        """What that command says."""
        return sagabox("pending", verb, self.name, *words)

    def listed(self, *words: str) -> dict[str, Any]:
        """What the list tells programs."""
        told = self.pending("list", "--json", *words)
        assert told.code == 0, told
        page: dict[str, Any] = json.loads(told.out)
        return page

    def bank(self, *does: Any) -> Any:
        """The result of the last of these, each done to a bank on the same database."""
        return asyncio.run(self._bank(does))

    def receive(self, *envelopes: Envelope) -> Any:
        """The replies to these."""
        return self.bank(lambda bank: bank.receive(*envelopes))

    def states(self) -> dict[str, State]:
        """The state of every id that the inbox knows."""
        states: dict[str, State] = self.bank(lambda bank: bank.states())
        return states

    async def _bank(self, does: Any) -> Any:
        engine = create_async_engine(self.database.url)
        try:
            bank = WaitingBank(make_service(engine, "bank", peers={"sender": NOWHERE}))
            bank.unbook = outbox.Pending("the bank takes days")
            result = None
            for each in does:
                work: Coroutine[Any, Any, Any] = each(bank)
                result = await work
            return result
        finally:
            await engine.dispose()


@pytest.fixture(params=["create_async_engine", "create_engine"])
def desk(
    request: pytest.FixtureRequest,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    kind = request.param
    url = database.url if kind == "create_async_engine" else database.sync_url
    module = f"bank_of_{tmp_path.name.replace('-', '_')}"
    text = _MODULE.format(engine=f"{kind}({url!r})", peers={"sender": NOWHERE})
    (tmp_path / f"{module}.py").write_text(text, "utf-8")
    # As a person who types in that folder has it; the path of this process is put back.
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Desk(f"{module}:service", database)


@pytest.fixture
def names() -> Names:
    return Names()


# --- The list -------------------------------------------------------------------------------------


def test_a_person_reads_what_waits_and_for_how_long_within_80_columns(
    desk: Desk, names: Names
) -> None:
    assert desk.pending("list").out == "nothing is pending\n"
    waits, calls = (asked(names(), Book(f"{n}")) for n in range(2))
    ago = timedelta(days=3, hours=2, minutes=1)

    async def aged(bank: WaitingBank) -> None:
        now = bank.service.clock.now()
        soon = now + timedelta(hours=2, minutes=1)
        await bank.change(waits.id, since=now - ago, expected_at=soon)
        late = now - timedelta(minutes=5, seconds=2)
        await bank.calling(
            calls.id, until=timedelta(hours=-1), expected_at=late, attempt=2, is_in_doubt=True
        )
        await bank.change(calls.id, last_error="no answer", since=late)

    desk.bank(lambda bank: bank.receive(waits, calls), aged)
    lines = desk.pending("list").out.splitlines()
    assert lines[:3] == [
        f"{waits.id}  bank.book.v1",
        f"  pending for 3 d 2 h, expected in 2 h: {NOTE}",
        f"  asked by sender for the saga {SAGA}",
    ]
    assert lines[3] == f"{calls.id}  bank.book.v1"
    assert lines[4].startswith("  pending for 5 min")
    assert "expected 5 min" in lines[4]
    assert lines[5].startswith("  call 2 by a process, over 1 h")
    assert lines[6:] == ["  in doubt: no answer", f"  asked by sender for the saga {SAGA}"]
    assert max(map(len, lines)) <= 80


def test_a_compensation_says_what_it_undoes(desk: Desk, names: Names) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    desk.receive(action)
    desk.receive(undo)
    lines = desk.pending("list").out.splitlines()
    assert lines[0] == f"{undo.id}  bank.unbook.v1"
    assert lines[-1] == f"  undoes {action.id}"


def test_the_list_for_programs_comes_in_pages(desk: Desk, names: Names) -> None:
    first, second = (asked(names(), Book(f"{n}")) for n in range(2))
    desk.receive(first)
    desk.receive(second)
    page = desk.listed("--limit", "1")
    assert [it["id"] for it in page["items"]] == [first.id]
    assert page["items"][0]["age"] >= 0
    rest = desk.listed("--cursor", page["next_cursor"])
    assert ([it["id"] for it in rest["items"]], rest["next_cursor"]) == ([second.id], None)
    said = desk.pending("list", "--limit", "1").out
    assert said.splitlines()[-1] == f"more: the same command with --cursor {page['next_cursor']}"
    wrong = desk.pending("list", "--cursor", "x", "--json")
    assert told_error(wrong)["exit_code"] == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3605, "1 h"), (90061, "1 d 1 h")],
)
def test_a_time_is_told_in_its_two_greatest_units(seconds: float, words: str) -> None:
    assert lasting(timedelta(seconds=seconds)) == words


# --- What a person does ---------------------------------------------------------------------------


def test_a_person_completes_refuses_and_drops(desk: Desk, names: Names) -> None:
    done, refused, dropped = (asked(names(), Book(f"{n}")) for n in range(3))
    desk.receive(done, refused, dropped)
    told = desk.pending("complete", done.id, "--value", '{"balance": 7}', *PERSON)
    assert (told.code, told.out) == (
        0,
        f"{done.id} is answered done, by ada: the airline is bankrupt\n",
    )
    told = desk.pending("refuse", refused.id, "--code", "full", *PERSON, "--json")
    assert json.loads(told.out) == {
        "id": refused.id,
        "outcome": "refused",
        "actor": "ada",
        "reason": "the airline is bankrupt",
    }
    assert desk.pending("drop", dropped.id, *PERSON).code == 0
    first, second, third = desk.receive(done, refused, dropped)
    assert first.value == {"balance": 7}
    assert (second.code, second.reason) == ("full", "the airline is bankrupt")
    assert (third.outcome, third.reason) == ("unknown", "the airline is bankrupt")
    assert len(desk.bank(lambda bank: bank.told())) == 3


def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(
    desk: Desk, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.services.pending._AT_ONCE", 1)
    first, second = (asked(names(), Book(f"{n}")) for n in range(2))
    desk.receive(first, second)
    pairs = zip(first.id, second.id, strict=True)
    same = first.id[: next(at for at, (one, other) in enumerate(pairs) if one != other)]
    error = told_error(desk.pending("drop", same, *PERSON, "--json"))
    assert error["happened"] == f"the ids of several pending commands begin with {same}"
    assert error["why"] == f"{first.id} (bank.book.v1), {second.id} (bank.book.v1)"
    error = told_error(desk.pending("drop", "ffff", *PERSON, "--json"))
    assert error["happened"] == "there is no pending command whose id begins with ffff"
    assert desk.states() == dict.fromkeys((first.id, second.id), State.PENDING)
    told = desk.pending("drop", second.id[: len(same) + 1].upper(), *PERSON)
    assert told.out.startswith(f"{second.id} is answered unknown")
    assert desk.states()[first.id] is State.PENDING


def test_null_completes_what_promises_nothing(desk: Desk, names: Names) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    desk.receive(action)
    desk.receive(undo)
    assert desk.pending("complete", undo.id, *PERSON).code == 0
    assert desk.states() == {action.id: State.UNDONE, undo.id: State.RAN}


def test_to_complete_what_promises_a_value_without_one_says_how_to_give_it(
    desk: Desk, names: Names
) -> None:
    action = asked(names(), Book("a"))
    desk.receive(action)
    error = told_error(desk.pending("complete", action.id, *PERSON, "--json"))
    assert error["happened"] == f"{action.id} promises a value, and no --value was given"
    assert "Booked" in error["why"]
    assert f"complete {desk.name} {action.id} --value " in error["next_step"]
    assert desk.states() == {action.id: State.PENDING}


def test_what_cannot_be_done_changes_nothing_and_says_why(desk: Desk, names: Names) -> None:
    action = asked(names(), Book("a"))
    desk.receive(action)
    cases = [
        (("complete", action.id, "--value", "{"), "the value cannot be used"),
        (("complete", action.id, "--value", "7"), "Booked"),
        (("drop", names()), "is not pending here"),
        (("drop", "x"), "is not the id of a command"),
    ]
    for (verb, *words), happened in cases:
        error = told_error(desk.pending(verb, *words, *PERSON, "--json"))
        assert (error["exit_code"], happened in error["happened"]) == (ExitCode.REFUSED, True), (
            error
        )
    assert desk.pending("drop", action.id).code == ExitCode.REFUSED, "it has no reason"
    assert desk.states() == {action.id: State.PENDING}


# --- Which service --------------------------------------------------------------------------------


def test_without_its_module_it_is_listed_refused_and_dropped_and_not_completed(
    desk: Desk, names: Names
) -> None:
    action, other = (asked(names(), Book(f"{n}")) for n in range(2))
    desk.receive(action, other)
    where = ("bank", "--database", address(desk.database))
    peers = {"SAGABOX_PEERS": f"sender={NOWHERE}"}
    told = sagabox("pending", "list", *where, "--json")
    assert len(json.loads(told.out)["items"]) == 2
    value = ("--value", '{"balance": 7}')
    complete = sagabox(
        *("pending", "complete", where[0], action.id, *where[1:], *value, *PERSON), **peers
    )
    assert complete.code == ExitCode.REFUSED
    assert "has no handler for bank.book.v1" in complete.err
    refuse = ("pending", "refuse", where[0], action.id, *where[1:], "--code", "full", *PERSON)
    no_way = sagabox(*refuse, SAGABOX_PEERS=None)
    assert (no_way.code, "no peer sender" in no_way.err) == (ExitCode.REFUSED, True)
    assert sagabox(*refuse, **peers).code == 0
    assert sagabox("pending", "drop", where[0], other.id, *where[1:], *PERSON).code == 0
    assert desk.states() == {action.id: State.RAN, other.id: State.RAN}


def test_a_service_that_is_not_there_is_told(tmp_path: Path) -> None:
    error = told_error(sagabox("pending", "list", "nowhere.at_all:service", "--json"))
    assert error["exit_code"] == ExitCode.REFUSED
    assert error["happened"].startswith("sagabox pending was given 'nowhere.at_all:service'")
    assert error["next_step"].endswith("or give the service's own name and its --database URL")
    wrong = sagabox("pending", "list", "bank", "--database", f"sqlite:///{tmp_path}/none.sqlite")
    assert wrong.code == ExitCode.UNREACHABLE
    assert not (tmp_path / "none.sqlite").exists()
    assert explained(sagabox("pending", "list", "bank", "--database", "mysql://x/y"))


def test_a_database_without_the_tables_is_told(database_factory: DatabaseFactory) -> None:
    url = address(database_factory("empty"))
    error = told_error(sagabox("pending", "list", "bank", "--database", url, "--json"))
    assert (error["exit_code"], "none of the library's tables" in error["happened"]) == (2, True)


def test_a_database_that_is_away_is_told_with_its_own_exit_code() -> None:
    away = ("bank", "--database", "postgresql://127.0.0.1:1/bank")
    assert told_error(sagabox("pending", "list", *away, "--json"))["exit_code"] == (
        ExitCode.UNREACHABLE
    )
