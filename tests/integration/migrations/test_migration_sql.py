"""What needs no database: the history, and the SQL for another person to run."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text

from migrations import commands
from migrations.services import SERVICES
from tests.support.databases.databases import Database
from tests.support.databases.migrating import Histories, address, at, explained, is_sqlite, migrate


def _execute(database: Database, script: str) -> None:
    if is_sqlite(database):
        with sqlite3.connect(database.path, isolation_level=None) as connection:
            connection.executescript(script)
        connection.close()
        return
    with psycopg.connect(database.sync_url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute(script.encode())


@pytest.mark.parametrize("name", SERVICES)
def test_the_printed_sql_does_on_a_real_database_what_the_command_does(
    database: Database, name: str
) -> None:
    url = address(database)
    _execute(database, migrate("sql", name, "--database", url).out)
    assert migrate("check", name, "--database", url).code == 0
    assert "(head)" in migrate("current", name, "--database", url).out
    _execute(database, migrate("sql", name, "head:base", "--database", url).out)
    assert "base" in migrate("current", name, "--database", url).out
    assert migrate("upgrade", name, "--database", url).code == 0


def test_the_printed_sql_records_the_revisions_in_their_order(
    database: Database, sync_engine: Engine, tmp_path: Path
) -> None:
    histories = Histories(tmp_path / "articles")
    histories.add(up="pass", kind="contract")
    histories.add(up="pass")
    _execute(database, commands.sql(histories.service(), at(database).dialect))
    with sync_engine.connect() as connection:
        rows = connection.execute(
            text("SELECT revision, kind FROM schema_revision ORDER BY applied_at")
        )
        assert [tuple(it) for it in rows] == [
            ("articles_0001", "expand"),
            ("articles_0002", "expand"),
            ("articles_0003", "expand"),
            ("articles_0004", "expand"),
            ("articles_0005", "expand"),
            ("articles_0006", "contract"),
            ("articles_0007", "expand"),
        ]
        times = connection.scalar(text("SELECT count(DISTINCT applied_at) FROM schema_revision"))
        assert times == 7


@pytest.mark.parametrize(
    ("arguments", "happened"),
    [
        (["all"], "the SQL of all services is not printed at once"),
        (["articles", "base:base"], "there is no SQL from base to base"),
        (["articles", "--dialect", "oracle"], "there is no SQL for 'oracle'"),
        (["articles", "articles_0008"], "articles has no revision 'articles_0008'"),
    ],
)
def test_sql_that_cannot_be_is_refused(arguments: list[str], happened: str) -> None:
    assert explained(migrate("sql", *arguments))[0] == happened


def test_the_history_needs_no_database_and_lists_kind_and_summary() -> None:
    told = migrate("history", "articles")
    assert told.out == (
        "articles: articles_0001  expand    the articles, and the library's tables\n"
        "articles: articles_0002  expand    "
        "the time at which each message was due, and the numbers of runs\n"
        "articles: articles_0003  expand    the table for answers that come later\n"
        "articles: articles_0004  expand    the name of the service that the tables belong to\n"
        "articles: articles_0005  expand    the table for what a broker brought and could not be "
        "handled\n"
    )
    found = json.loads(migrate("history", "--json").out)
    assert [(it["service"], it["id"], it["kind"]) for it in found] == [
        ("articles", "articles_0001", "expand"),
        ("articles", "articles_0002", "expand"),
        ("articles", "articles_0003", "expand"),
        ("articles", "articles_0004", "expand"),
        ("articles", "articles_0005", "expand"),
        ("comments", "comments_0001", "expand"),
        ("comments", "comments_0002", "expand"),
        ("comments", "comments_0003", "expand"),
        ("comments", "comments_0004", "expand"),
        ("comments", "comments_0005", "expand"),
        ("orchestrator", "orchestrator_0001", "expand"),
        ("orchestrator", "orchestrator_0002", "expand"),
        ("orchestrator", "orchestrator_0003", "expand"),
        ("orchestrator", "orchestrator_0004", "expand"),
        ("orchestrator", "orchestrator_0005", "expand"),
        ("orchestrator", "orchestrator_0006", "expand"),
        ("orchestrator", "orchestrator_0007", "expand"),
        ("orchestrator", "orchestrator_0008", "expand"),
        ("orchestrator", "orchestrator_0009", "expand"),
        ("orchestrator", "orchestrator_0010", "expand"),
        ("orchestrator", "orchestrator_0011", "expand"),
    ]
