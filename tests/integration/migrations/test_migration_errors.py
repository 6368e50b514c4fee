"""What goes wrong with a database is told as: what happened, why, and the next command."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from migrations import commands
from migrations.errors import MigrationError
from migrations.services import SERVICES
from outbox.testing import FakeClock
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.databases.migrating import (
    START,
    Histories,
    Told,
    address,
    at,
    explained,
    migrate,
    migrated,
)
from tests.support.databases.postgres import PostgresServer
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.processes.waiting import free_port

pytestmark = pytest.mark.slow


def _upgrade(url: str) -> tuple[str, str, str]:
    return explained(migrate("upgrade", "articles", "--database", url))


@pytest.mark.parametrize("command", ["upgrade", "current", "check"])
def test_an_unknown_service_is_told_with_those_that_there_are(command: str) -> None:
    happened, why, _ = explained(migrate(command, "authors", "--database", "sqlite:///a.db"))
    assert happened == "there is no service 'authors'"
    assert "articles, comments, orchestrator" in why


@pytest.mark.parametrize("revision", ["articles_9999", "+6", "-5", "nonsense"])
def test_an_unknown_revision_is_told_with_the_way_to_find_one(
    database: Database, revision: str
) -> None:
    told = migrate("downgrade", "articles", revision, "--database", address(database))
    _, _, next_step = explained(told)
    assert next_step == "sagabox migrate history articles"


def test_without_an_address_the_variable_is_named() -> None:
    happened, why, next_step = explained(migrate("upgrade", "articles"))
    assert happened == "it is not known where the database of articles is"
    assert "SAGABOX_DATABASE_URL_ARTICLES" in why
    assert next_step == "export SAGABOX_DATABASE_URL_ARTICLES=sqlite:///articles.db"
    _, why, _ = explained(migrate("upgrade"))
    assert "SAGABOX_DATABASE_URL_ARTICLES, SAGABOX_DATABASE_URL_COMMENTS" in why


def test_one_address_for_all_services_is_refused(database: Database) -> None:
    happened, _, _ = explained(migrate("upgrade", "all", "--database", address(database)))
    assert happened == "--database was given for all services"


@pytest.mark.parametrize(
    "url", ["mysql://me:topsecret@host/name", "sqlite://", "no address, topsecret", "postgresql://"]
)
def test_an_address_that_cannot_be_is_told_without_its_password(url: str) -> None:
    told = migrate("upgrade", "articles", "--database", url)
    _, _, next_step = explained(told)
    assert "postgresql://user:password@host:5432/name" in next_step
    assert "topsecret" not in told.err


@pytest.mark.parametrize("driver", ["", "+psycopg"])
def test_a_missing_postgresql_database_is_told_with_the_command_that_makes_it(
    postgres_server: PostgresServer, driver: str
) -> None:
    port = postgres_server.port
    url = f"postgresql{driver}://postgres@127.0.0.1:{port}/not_there"
    happened, _, next_step = _upgrade(url)
    assert happened == "the database 'not_there' does not exist"
    assert next_step == f"createdb -h 127.0.0.1 -p {port} -U postgres not_there"


@pytest.mark.parametrize("driver", ["", "+psycopg"])
def test_a_server_that_does_not_answer_is_told(driver: str) -> None:
    port = free_port()
    happened, _, next_step = _upgrade(f"postgresql{driver}://me@127.0.0.1:{port}/blog")
    assert happened == f"the PostgreSQL server at 127.0.0.1:{port} cannot be reached"
    assert f"pg_isready -h 127.0.0.1 -p {port}" in next_step


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that asks `guest` for a password, and no other user."""
    server = PostgresServer()
    rules = "host all guest 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
    with server.connect() as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'right'")
        connection.execute("CREATE DATABASE blog")
        path = connection.execute("SHOW hba_file").fetchone()
        assert path is not None
        Path(path[0]).write_text(rules, encoding="ascii")
        connection.execute("SELECT pg_reload_conf()")
    os.kill(server.pid, signal.SIGHUP)
    yield server
    server.close()


@pytest.mark.parametrize("driver", ["", "+psycopg"])
def test_a_wrong_password_is_told_and_not_shown(strict_server: PostgresServer, driver: str) -> None:
    url = f"postgresql{driver}://guest:topsecret@127.0.0.1:{strict_server.port}/blog"
    told = migrate("upgrade", "articles", "--database", url)
    happened, _, _ = explained(told)
    assert happened.endswith("refused the login of 'guest'")
    assert "topsecret" not in told.err


def test_a_user_who_may_not_create_tables_is_told_what_to_grant(
    strict_server: PostgresServer,
) -> None:
    url = f"postgresql://guest:right@127.0.0.1:{strict_server.port}/blog"
    happened, _, next_step = _upgrade(url)
    assert happened == "the user 'guest' may not do this, so nothing was changed"
    assert 'GRANT CREATE, USAGE ON SCHEMA public TO "guest"' in next_step


def test_a_database_of_another_service_is_told(database_factory: DatabaseFactory) -> None:
    url = address(database_factory(migrated("comments")))
    for command in (["upgrade"], ["check"], ["current"], ["downgrade", "base"]):
        told = migrate(command[0], "articles", *command[1:], "--database", url)
        happened, _, _ = explained(told)
        assert happened == "this is the database of comments, not of articles"


def test_tables_that_are_in_the_way_are_told(
    database: Database, make_sync_engine: MakeSyncEngine
) -> None:
    with make_sync_engine(database).begin() as connection:
        connection.execute(text("CREATE TABLE inbox (n INTEGER)"))
    happened, why, _ = _upgrade(address(database))
    assert "nothing was changed" in happened
    assert "inbox" in why
    assert "0 behind" not in migrate("current", "articles", "--database", address(database)).out


async def test_a_newer_database_is_neither_upgraded_nor_downgraded(
    database: Database, tmp_path: Path
) -> None:
    histories = Histories(tmp_path / "articles")
    histories.add(up="pass")
    clock = FakeClock(START)
    await commands.upgrade(histories.service(), at(database), clock=clock)
    old = SERVICES["articles"]
    with pytest.raises(MigrationError, match=r"newer than this code: it stands at articles_0006"):
        await commands.upgrade(old, at(database), clock=clock)
    with pytest.raises(MigrationError, match=r"newer than this code"):
        await commands.downgrade(old, at(database), "base", clock=clock)
    standing = await commands.current(old, at(database))
    assert list(standing.newer) == ["articles_0006"]


@pytest.mark.databases("postgresql")
async def test_a_table_in_use_is_waited_for_only_so_long(
    database: Database, make_sync_engine: MakeSyncEngine, tmp_path: Path
) -> None:
    histories = Histories(tmp_path / "articles")
    clock = FakeClock(START)
    await commands.upgrade(histories.service(), at(database), clock=clock)
    histories.add(up="op.add_column('articles', sa.Column('n', sa.Integer()))")
    waiting = commands.Waiting(lock_timeout=0.05)
    with make_sync_engine(database).begin() as connection:
        connection.execute(text("SELECT count(*) FROM articles"))
        with pytest.raises(MigrationError, match=r"in use for longer.*--lock-timeout SECONDS"):
            await commands.upgrade(histories.service(), at(database), clock=clock, waiting=waiting)


def test_a_sqlite_folder_that_is_not_there_is_told_with_the_command_that_makes_it(
    tmp_path: Path,
) -> None:
    happened, _, next_step = _upgrade(f"sqlite:///{tmp_path}/no/where.db")
    assert happened == f"{tmp_path}/no/where.db cannot be opened"
    assert next_step == f"mkdir -p {tmp_path}/no"


def test_a_file_that_is_no_database_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database, but something that an operator needs " * 50)
    before = path.read_bytes()
    happened, _, _ = _upgrade(f"sqlite:///{path}")
    assert happened == f"{path} is not a SQLite database"
    assert path.read_bytes() == before


def test_a_sqlite_database_that_another_process_writes_to_all_the_time_is_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "busy.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    happened, _, _ = _upgrade(f"sqlite:///{path}")
    assert happened == f"{path} is in use, so nothing was changed"
    connection.close()


def _bound_by_permissions() -> None:
    """Take from this process what lets root write everywhere."""
    if os.geteuid() == 0 and sys.platform == "linux":
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    path = folder / "articles.db"
    if exists:
        migrate("upgrade", "articles", "articles_0005", "--database", f"sqlite:///{path}")
        path.chmod(0o444)
    folder.chmod(0o555)
    command = [sys.executable, "-m", "migrations"]
    arguments = ["upgrade", "articles", "--database", f"sqlite:///{path}"]
    run = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=_bound_by_permissions,
    )
    folder.chmod(0o755)
    happened, _, next_step = explained(Told(run.returncode, run.stdout, run.stderr))
    assert happened == f"{path} cannot be written, so nothing was changed"
    assert str(folder) in next_step


def test_one_service_that_fails_does_not_keep_the_others_from_it(
    database: Database, tmp_path: Path
) -> None:
    told = migrate(
        "upgrade",
        SAGABOX_DATABASE_URL_ARTICLES=f"sqlite:///{tmp_path}/no/where.db",
        SAGABOX_DATABASE_URL_COMMENTS=address(database),
    )
    assert told.code == 2
    assert "comments: at comments_0005" in told.out
    assert "no/where.db cannot be opened" in told.err


def test_all_leaves_out_the_service_that_has_no_address_and_says_so(database: Database) -> None:
    told = migrate("upgrade", SAGABOX_DATABASE_URL_COMMENTS=address(database))
    assert told.code == 0
    assert told.err == (
        "articles: left out, SAGABOX_DATABASE_URL_ARTICLES is not set\n"
        "orchestrator: left out, SAGABOX_DATABASE_URL_ORCHESTRATOR is not set\n"
    )


def test_current_tells_where_a_database_stands_without_its_password(
    database: Database, strict_server: PostgresServer
) -> None:
    url = address(database)
    assert migrate("current", "articles", "--database", url).out.startswith(
        "articles: base (5 behind articles_0005)"
    )
    migrate("upgrade", "articles", "--database", url)
    told = migrate("current", "articles", "--json", "--database", url)
    (found,) = json.loads(told.out)
    assert (found["service"], found["current"], found["behind"]) == ("articles", "articles_0005", 0)
    secret = f"postgresql://guest:right@127.0.0.1:{strict_server.port}/blog"
    assert "right" not in migrate("current", "articles", "--database", secret).out
