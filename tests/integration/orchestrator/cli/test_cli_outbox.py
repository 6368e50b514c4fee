"""`sagabox outbox`: what an operator sees and does of a service's outbox, by its database."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox import sqlite
from outbox.clock import SystemClock
from outbox.lanes import BLOCKED
from outbox.tables import (
    DEFAULT_TABLES,
    outbox,
    outbox_dead,
    outbox_held,
    outbox_parked,
    outbox_scheduled,
)
from outbox.testing import FakeClock
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import ToHold
from tests.support.databases.databases import Database
from tests.support.databases.migrating import Told, address
from tests.support.outbox.holding import HoldingBench
from tests.support.outbox.letters import a_letter, an_id, of_saga
from tests.support.outbox.relays import commit, message, row
from tests.support.processes.cli import sagabox, told_error

_MODULE = """
import outbox
from sqlalchemy.ext.asyncio import create_async_engine

service = outbox.Service("blog", create_async_engine({url!r}), peers={{"crm": "http://crm:8000"}})
"""


@pytest.fixture
def service(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"outbox_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(_MODULE.format(url=database.url))
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}:service"


def run(service: str, *words: str) -> Told:
    return sagabox("outbox", *words, "--service", service)


def shown(service: str, *words: str) -> dict[str, Any]:
    told = run(service, *words, "--json")
    assert told.code == 0, told
    found: dict[str, Any] = json.loads(told.out)
    return found


def refused(service: str, *words: str) -> dict[str, Any]:
    return told_error(run(service, *words, "--json"))


def on(database: Database, work: Any) -> Any:
    """The result of that work on the database."""

    async def do() -> Any:
        engine = create_async_engine(database.url)
        if engine.dialect.name == "sqlite":
            sqlite.configure(engine)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    return asyncio.run(do())


def filled(database: Database, *rows: tuple[Any, dict[str, Any]]) -> None:
    async def fill(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            for table, values in rows:
                await connection.execute(insert(table).values(**values))

    on(database, fill)


def everything(database: Database) -> dict[str, list[Any]]:
    """All rows of all tables."""

    async def read(engine: AsyncEngine) -> dict[str, list[Any]]:
        found = {}
        async with engine.connect() as connection:
            for name, table in DEFAULT_TABLES.metadata.tables.items():
                rows = await connection.execute(select(table))
                found[name] = sorted(map(repr, rows.all()))
        return found

    found: dict[str, list[Any]] = on(database, read)
    return found


def letters() -> list[tuple[Any, dict[str, Any]]]:
    """Two ordinary ones, one that is too-old, and the command of a saga."""
    return [
        (outbox_dead, a_letter(1, destination="crm")),
        (outbox_dead, a_letter(2, destination="mail", type="mail.sent.v1")),
        (outbox_dead, a_letter(3, destination="crm", reason="too-old: long ago")),
        (outbox_dead, of_saga(4) | {"id": an_id(4), "destination": "crm"}),
    ]


def blocked(database: Database, key: str = "k", behind: int = 2) -> list[str]:
    """A key that is blocked by the first of these messages."""
    ids: list[str] = on(
        database,
        lambda engine: commit(
            engine, *(message(key) for _ in range(1 + behind)), destination="crm"
        ),
    )
    held = {
        "destination": "crm",
        "bucket": message(key)[0],
        "aggregateid": key,
        "head_id": ids[0],
        "attempts": 12,
        "next_at": BLOCKED,
        "last_error": "given up after 12 attempts",
    }
    filled(database, (outbox_held, held))
    return ids


def scheduled(database: Database, *due: datetime) -> list[str]:
    found = [message("k") for _ in due]
    filled(
        database,
        *(
            (outbox_scheduled, row(bucket, it, "crm") | {"due_at": at})
            for (bucket, it), at in zip(found, due, strict=True)
        ),
    )
    return [it.id for _, it in found]


# Looks


def test_the_status_shows_each_destination_and_that_no_relay_sends(
    service: str, database: Database
) -> None:
    filled(database, *letters())
    blocked(database)
    found = shown(service, "status")
    assert found["service"] == "blog"
    assert found["senders"] == []
    crm, mail = found["destinations"]
    assert (crm["destination"], crm["unsent"], crm["held_keys"], crm["blocked_keys"]) == (
        *("crm", 3),
        *(1, 1),
    )
    assert (crm["dead_letters"], mail["dead_letters"]) == (3, 1)
    told = run(service, "status")
    assert "no relay runs: nothing is sent" in told.out
    assert told.out.splitlines()[1].split() == [
        *("destination", "unsent", "oldest", "held", "blocked", "dead", "later")
    ]


def test_the_age_of_the_oldest_message_counts_those_that_are_parked(
    service: str, database: Database
) -> None:
    bucket, early = message("k", time=datetime(2029, 1, 1, tzinfo=UTC))
    filled(database, (outbox_parked, row(bucket, early, "crm") | {"seq": 1}))
    (crm,) = shown(service, "status")["destinations"]
    assert (crm["unsent"], crm["oldest"]) == (1, "2029-01-01T00:00:00Z")
    filled(database, (outbox, row(*message("k"), "crm")))
    (crm,) = shown(service, "status")["destinations"]
    assert (crm["unsent"], crm["oldest"]) == (2, "2029-01-01T00:00:00Z")
    told = sagabox("destinations", "list", service, "--json")
    (crm,) = json.loads(told.out)["items"]
    assert (crm["unsent"], crm["oldest"]) == (2, "2029-01-01T00:00:00Z")


def test_dead_letters_are_listed_by_destination_type_key_and_age(
    service: str, database: Database
) -> None:
    filled(database, *letters())

    def numbers(*words: str) -> list[int]:
        items = shown(service, "dead", *words)["items"]
        return [[an_id(it) for it in range(9)].index(item["id"]) for item in items]

    assert numbers() == [4, 3, 2, 1]
    assert numbers("--destination", "crm") == [4, 3, 1]
    assert numbers("--type", "mail.sent.v1") == numbers("--type", "mail.*") == [2]
    assert numbers("--key", "key-3") == [3]
    assert numbers("--older-than", "1d") == []  # they were buried in 2030
    told = run(service, "dead", "--destination", "mail")
    assert an_id(2) in told.out
    assert "reason: reason 2" in told.out
    page = shown(service, "dead", "--limit", "3")
    assert page["next_cursor"] is not None


def test_a_held_key_is_listed_with_its_message_and_what_waits_behind_it(
    service: str, database: Database
) -> None:
    ids = blocked(database)
    (found,) = shown(service, "held")["items"]
    assert (found["id"], found["key"], found["behind"]) == (ids[0], "k", 2)
    assert found["blocked"] is True
    assert found["next_at"] is None
    assert found["type"] == "articles.noted.v1"
    told = run(service, "held", "--type", "articles.*")
    assert "blocked" in told.out
    assert run(service, "held", "--type", "other.*").out.endswith("no key waits\n")


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("dead",),
        ("held",),
        ("schedule", "list"),
        ("redrive", "--all", "--dry-run"),
        ("drop", "--all", "--dry-run"),
        ("drop", "--all", "--bury", "--dry-run"),
        ("purge", "--older-than", "0s", "--dry-run"),
        ("schedule", "move", "--all", "--at", "now", "--dry-run"),
        ("schedule", "drop", "--all", "--dry-run"),
        ("tail", "--for", "0s"),
    ],
)
def test_what_only_reads_and_what_runs_dry_writes_nothing(
    service: str, database: Database, words: tuple[str, ...]
) -> None:
    filled(database, *letters())
    blocked(database)
    scheduled(database, datetime(2099, 1, 1, tzinfo=UTC))
    before = everything(database)
    told = run(service, *words)
    assert told.code == 0, told
    assert everything(database) == before


# Redriving


def test_by_filters_all_is_sent_again_but_commands_of_sagas_and_what_is_too_old(
    service: str, database: Database
) -> None:
    filled(database, *letters())
    would = shown(service, "redrive", "--all", "--dry-run")
    assert (would["dry_run"], would["dead_letters"]) == (True, 2)
    assert (would["of_sagas"], would["too_old"]) == (1, 1)
    told = run(service, "redrive", "--destination", "crm")
    assert told.out.splitlines()[0] == "1 dead letter sent again"
    assert "1 command of a saga stays" in told.out
    assert "1 too-old letter stays" in told.out
    assert len(everything(database)["outbox"]) == 1
    assert shown(service, "redrive", "--type", "mail.*")["dead_letters"] == 1


def test_as_new_what_is_too_old_is_sent_again_under_a_new_id(
    service: str, database: Database
) -> None:
    filled(database, *letters())
    done = shown(service, "redrive", an_id(3), "--as-new")
    assert list(done["new_ids"]) == [an_id(3)]
    assert done["new_ids"][an_id(3)] != an_id(3)


def test_by_ids_all_or_none_are_sent_again(service: str, database: Database) -> None:
    filled(database, *letters())
    before = everything(database)
    assert "no dead letter" in refused(service, "redrive", an_id(1), an_id(7))["happened"]
    assert "command of the saga" in refused(service, "redrive", an_id(1), an_id(4))["happened"]
    assert "too-old" in refused(service, "redrive", an_id(1), an_id(3))["happened"]
    assert everything(database) == before
    assert shown(service, "redrive", an_id(1), an_id(2))["dead_letters"] == 2


def test_the_beginning_of_an_id_is_enough_where_one_message_has_it(
    service: str, database: Database
) -> None:
    filled(database, *letters())
    # They were made in the same millisecond, and differ behind it.
    error = refused(service, "redrive", an_id(1)[:13])
    assert "several" in error["happened"]
    ids = blocked(database)
    assert shown(service, "redrive", ids[0][:18])["held_messages"] == 1


def test_a_blocked_key_is_freed_with_all_attempts_before_it(
    service: str, database: Database
) -> None:
    blocked(database)
    assert shown(service, "redrive", "--key", "k")["held_messages"] == 1

    async def held(engine: AsyncEngine) -> Any:
        async with engine.connect() as connection:
            return (await connection.execute(select(outbox_held))).mappings().one()

    row = on(database, held)
    assert row["attempts"] == 0
    assert row["next_at"] < BLOCKED


def test_nothing_is_changed_without_a_filter_or_the_word_all(
    service: str, database: Database
) -> None:
    filled(database, *letters())
    for verb in ("redrive", "drop"):
        assert "--all" in refused(service, verb)["next_step"]
    assert "--all" in refused(service, "schedule", "drop")["next_step"]
    assert "as well" in refused(service, "drop", "--all", "--destination", "crm")["happened"]


# Dropping


def test_a_message_that_is_dropped_goes_and_its_key_goes_on(
    service: str, database: Database
) -> None:
    ids = blocked(database)
    assert run(service, "drop", ids[0]).out == "1 held message deleted\n"
    left = on(database, lambda engine: _ids(engine, outbox))
    assert left == ids[1:]
    assert not shown(service, "dead")["items"]


def test_a_message_that_is_buried_becomes_a_dead_letter_that_says_by_whom(
    service: str, database: Database
) -> None:
    ids = blocked(database)
    assert run(service, "drop", "--key", "k", "--bury", "--actor", "ann").out == (
        "1 held message buried\n"
    )
    (letter,) = shown(service, "dead")["items"]
    assert letter["id"] == ids[0]
    assert letter["reason"] == "given up by ann; the last: given up after 12 attempts"
    assert on(database, lambda engine: _ids(engine, outbox)) == ids[1:]


def test_dead_letters_are_dropped_those_of_sagas_with_the_others(
    service: str, database: Database
) -> None:
    filled(database, *letters())
    assert run(service, "drop", "--destination", "crm").out == "3 dead letters deleted\n"
    assert len(shown(service, "dead")["items"]) == 1


def test_the_purge_deletes_what_was_buried_long_ago(service: str, database: Database) -> None:
    now = SystemClock().now()
    old, young = now - timedelta(days=31), now - timedelta(days=29)
    filled(
        database,
        (outbox_dead, a_letter(1, died_at=old)),
        (outbox_dead, a_letter(2, died_at=young)),
    )
    assert run(service, "purge", "--older-than", "30d", "--dry-run").out == (
        "1 dead letter would be deleted\n"
    )
    assert shown(service, "purge", "--older-than", "30d")["dead_letters"] == 1
    assert [it["id"] for it in shown(service, "dead")["items"]] == [an_id(2)]
    assert run(service, "purge").code == 2
    assert run(service, "purge", "--older-than", "soon").code == 2


# The schedule


def test_scheduled_messages_are_listed_moved_and_dropped(service: str, database: Database) -> None:
    late, later = datetime(2098, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
    ids = scheduled(database, later, late)
    assert [it["id"] for it in shown(service, "schedule", "list")["items"]] == ids[::-1]
    told = run(service, "schedule", "move", ids[0], "--at", "2097-01-01T00:00:00Z")
    assert told.out == "1 scheduled message moved\n"
    first, _ = shown(service, "schedule", "list")["items"]
    assert (first["id"], first["due_at"]) == (ids[0], "2097-01-01T00:00:00Z")
    assert shown(service, "schedule", "move", "--all", "--in", "2h")["scheduled"] == 2
    assert "not scheduled" in refused(service, "schedule", "drop", an_id(7))["happened"]
    assert shown(service, "schedule", "drop", ids[1])["scheduled"] == 1
    assert [it["id"] for it in shown(service, "schedule", "list")["items"]] == ids[:1]
    assert "is no time" in refused(service, "schedule", "move", "--all", "--at", "x")["happened"]
    assert "not clear" in refused(service, "schedule", "move", "--all")["happened"]


# What came by a broker


def received(database: Database, *keys: str) -> None:
    async def fill(engine: AsyncEngine) -> None:
        bench = HoldingBench(engine, clock=FakeClock(SystemClock().now()))
        await bench.hold(*(bench.note("note", key) for key in keys))

    on(database, fill)


def test_what_came_by_a_broker_is_listed_tried_again_and_dropped(
    service: str, database: Database
) -> None:
    received(database, "ada", "ada", "bob")
    items = shown(service, "received", "list")["items"]
    assert [(it["seq"], it["key"], it["state"]) for it in items] == [
        (1, "ada", "waiting"),
        (2, "ada", "waiting"),
        (3, "bob", "waiting"),
    ]
    assert "body" not in items[0]
    before = everything(database)
    would = shown(service, "received", "redrive", "--all", "--dry-run")
    assert (would["dry_run"], would["messages"]) == (True, 2)
    assert shown(service, "received", "drop", "--key", "ada", "--dry-run")["messages"] == 2
    assert everything(database) == before
    assert shown(service, "received", "redrive", "3")["messages"] == 1
    assert shown(service, "received", "drop", "--key", "ada")["messages"] == 2
    told = run(service, "received", "list", "--source", "shop")
    assert told.code == 0
    assert [it["seq"] for it in shown(service, "received", "list")["items"]] == [3]


def test_the_body_of_what_came_by_a_broker_is_shown(service: str, database: Database) -> None:
    received(database, "ada")

    async def spoil(engine: AsyncEngine) -> None:
        bench = HoldingBench(engine, clock=FakeClock(SystemClock().now()))
        for body in (b"\xff\x1b[2J", b"\x1b[2J {"):
            packet = Packet(0, {"ce-id": "theirs"}, body)
            await bench.table.hold([ToHold("blog", packet, None, "unread", 1, True)])

    on(database, spoil)
    before = everything(database)
    whole = shown(service, "received", "show", "1")
    assert (whole["seq"], whole["key"]) == (1, "ada")
    assert json.loads(whole["body"])["partitionkey"] == "ada"
    told = run(service, "received", "show", "1").out
    assert whole["body"] in told
    assert "waiting" in told
    assert "body" not in shown(service, "received", "list")["items"][0]
    bytes_alone = shown(service, "received", "show", "2")
    assert (bytes_alone["body"], bytes_alone["body_base64"]) == (None, "/xtbMko=")
    assert bytes_alone["headers"] == {"ce-id": "theirs"}
    told = run(service, "received", "show", "2").out
    assert "theirs" in told
    assert "/xtbMko=" in told
    assert "\x1b" not in run(service, "received", "show", "3").out
    error = refused(service, "received", "show", "7")
    assert "7 is not held" in error["happened"]
    assert "received list" in error["next_step"]
    assert everything(database) == before


def test_what_is_received_is_changed_only_by_a_choice(service: str, database: Database) -> None:
    received(database, "ada")
    assert "--all" in refused(service, "received", "drop")["next_step"]
    happened = refused(service, "received", "redrive", "7")["happened"]
    assert happened == "not held, or not in the rest of the selection: the message 7"
    happened = refused(service, "received", "drop", "1", *map(str, range(6, 11)))["happened"]
    assert happened.endswith(": the messages 6, 7, 8 and 2 more")
    happened = refused(service, "received", "redrive", "1", "--as-new")["happened"]
    assert happened == "not given up, or impossible to read: the message 1"
    error = refused(service, "received", "redrive", "--key", "ada", "--as-new")
    assert "numbers" in error["next_step"]
    assert shown(service, "received", "list", "--state", "dead")["items"] == []
    assert shown(service, "received", "list", "--older-than", "1h")["items"] == []
    assert shown(service, "received", "drop", "--older-than", "1h")["messages"] == 0
    assert len(shown(service, "received", "list", "--older-than", "0s")["items"]) == 1


# Whose outbox


def test_a_database_says_itself_whose_outbox_it_has(database: Database, service: str) -> None:
    at = address(database)
    told = sagabox("outbox", "status", "--database", at, "--json")
    assert told.code == 0, told
    variable = {"SAGABOX_DATABASE_URL_STOCK": at}
    told = sagabox("outbox", "status", "--service", "stock", "--json", **variable)
    assert json.loads(told.out)["service"] == "stock"
    error = told_error(sagabox("outbox", "status", "--json"))
    assert "neither --service nor --database" in error["why"]


async def _ids(engine: AsyncEngine, table: Any) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.scalars(select(table.c.id).order_by(table.c.seq))).all())
