"""Upgrades and downgrades: whole or not at all, rows kept, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import Connection, Engine, select, text

from migrations import commands
from migrations.commands import Waiting
from migrations.errors import MigrationError
from migrations.history import history_of
from migrations.services import SERVICES
from outbox.clock import Clock
from outbox.tables import schema_revision
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.databases.migrating import (
    Histories,
    add_article,
    address,
    at,
    is_sqlite,
    migrate,
    tables_of,
    titles,
)
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.processes.waiting import wait_until

pytestmark = pytest.mark.slow

ARTICLES = SERVICES["articles"]


RELEASED = [(f"articles_000{n}", "expand") for n in (1, 2, 3, 4, 5)]


@pytest.fixture
def engine_of(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


def _recorded(connection: Connection) -> list[tuple[str, str]]:
    rows = connection.execute(select(schema_revision).order_by(schema_revision.c.applied_at))
    return [(row.revision, row.kind) for row in rows]


@pytest.mark.parametrize("name", SERVICES)
def test_an_upgrade_makes_the_database_and_a_second_one_changes_nothing(
    database: Database, name: str
) -> None:
    first = migrate("upgrade", name, "--database", address(database))
    revisions = [it.id for it in history_of(SERVICES[name]).revisions]
    applied = "".join(f"{name}: applied {it}\n" for it in revisions)
    assert revisions[0] == f"{name}_0001"
    assert (first.code, first.out) == (0, f"{applied}{name}: at {revisions[-1]}\n")
    second = migrate("upgrade", name, "--database", address(database))
    assert (second.code, second.out) == (0, f"{name}: already at {revisions[-1]}\n")


@pytest.mark.parametrize("name", SERVICES)
def test_a_downgrade_of_an_empty_database_leaves_no_table_and_can_be_taken_back(
    database: Database, engine_of: Engine, name: str
) -> None:
    url = address(database)
    migrate("upgrade", name, "--database", url)
    assert migrate("downgrade", name, "base", "--database", url).code == 0
    with engine_of.connect() as connection:
        assert tables_of(connection) == {"alembic_version"}
    assert migrate("upgrade", name, "--database", url).code == 0
    assert migrate("check", name, "--database", url).code == 0


def test_a_missing_sqlite_file_is_made_by_the_upgrade_and_by_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    url = f"sqlite:///{path}"
    for command in (["current"], ["check"], ["downgrade"]):
        arguments = ["base"] if command == ["downgrade"] else []
        migrate(*command, "articles", *arguments, "--database", url)
        assert not path.exists(), command
    assert migrate("upgrade", "articles", "--database", url).code == 0
    assert path.exists()


async def test_upgrades_and_downgrades_keep_the_rows(
    database: Database, engine_of: Engine, histories: Histories, clock: Clock
) -> None:
    service = histories.service()
    await commands.upgrade(service, at(database), clock=clock)
    with engine_of.begin() as connection:
        add_article(connection, 1, "first")
    histories.add(
        up="with op.batch_alter_table('articles', recreate='always' if op.get_bind().dialect.name"
        " == 'sqlite' else 'never') as it: it.add_column(sa.Column('subtitle', sa.Text()))",
        down="with op.batch_alter_table('articles') as it: it.drop_column('subtitle')",
    )
    moved = await commands.upgrade(service, at(database), clock=clock)
    assert [it.revision for it in moved.steps] == ["articles_0006"]
    with engine_of.begin() as connection:
        add_article(connection, 2, "second")
        assert titles(connection) == ["first", "second"]
    moved = await commands.downgrade(service, at(database), "-1", clock=clock)
    assert (moved.now_at, moved.deleted) == ("articles_0005", [])
    with engine_of.begin() as connection:
        assert titles(connection) == ["first", "second"]


@pytest.mark.databases("sqlite")  # PostgreSQL changes a table where it stands
async def test_a_table_that_is_rebuilt_does_not_take_those_that_refer_to_it_along(
    database: Database, engine_of: Engine, histories: Histories, clock: Clock
) -> None:
    histories.add(
        up="op.create_table('notes', sa.Column('article', sa.Uuid(), "
        "sa.ForeignKey('articles.id', ondelete='CASCADE')))"
    )
    histories.add(
        up="with op.batch_alter_table('articles', recreate='always') as it: "
        "it.alter_column('author', type_=sa.String(120), existing_type=sa.String(100))"
    )
    service = histories.service()
    await commands.upgrade(service, at(database), "articles_0006", clock=clock)
    with engine_of.begin() as connection:
        add_article(connection, 1)
        connection.execute(text("INSERT INTO notes SELECT id FROM articles"))
    await commands.upgrade(service, at(database), clock=clock)
    with engine_of.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM notes")) == 1


@pytest.mark.databases("sqlite")  # PostgreSQL looks at each statement
async def test_a_migration_that_leaves_a_row_without_the_one_it_refers_to_is_refused_on_sqlite(
    database: Database, engine_of: Engine, histories: Histories, clock: Clock
) -> None:
    histories.add(
        up="op.create_table('notes', sa.Column('article', sa.Uuid(), sa.ForeignKey('articles.id')))"
    )
    histories.add(up="op.execute('DELETE FROM articles')")
    service = histories.service()
    await commands.upgrade(service, at(database), "articles_0006", clock=clock)
    with engine_of.begin() as connection:
        add_article(connection, 1)
        connection.execute(text("INSERT INTO notes SELECT id FROM articles"))
    with pytest.raises(MigrationError, match="a row of notes without its row in articles"):
        await commands.upgrade(service, at(database), clock=clock)
    with engine_of.connect() as connection:
        assert len(titles(connection)) == 1


async def test_a_failing_upgrade_leaves_nothing_half_done(
    database: Database, engine_of: Engine, histories: Histories, clock: Clock
) -> None:
    service = histories.service()
    await commands.upgrade(service, at(database), clock=clock)
    with engine_of.connect() as connection:
        before = tables_of(connection)
    histories.add(up="op.create_table('second', sa.Column('n', sa.Integer()))")
    histories.add(
        up="op.create_table('third', sa.Column('n', sa.Integer())); "
        "op.execute('INSERT INTO third VALUES (1)'); op.execute('INSERT INTO nowhere VALUES (1)')"
    )
    with pytest.raises(MigrationError, match="nothing was changed"):
        await commands.upgrade(service, at(database), clock=clock)
    with engine_of.connect() as connection:
        assert tables_of(connection) == before
        assert _recorded(connection) == RELEASED
    assert (await commands.current(service, at(database))).current == "articles_0005"


async def test_each_revision_is_recorded_with_its_kind_and_forgotten_when_it_is_taken_back(
    database: Database, engine_of: Engine, histories: Histories, clock: Clock
) -> None:
    histories.add(up="pass", kind="contract")
    histories.add(up="pass")
    service = histories.service()
    await commands.upgrade(service, at(database), clock=clock)
    with engine_of.connect() as connection:
        assert _recorded(connection) == [
            *RELEASED,
            ("articles_0006", "contract"),
            ("articles_0007", "expand"),
        ]
    await commands.downgrade(service, at(database), "articles_0006", clock=clock)
    with engine_of.connect() as connection:
        assert [it for it, _ in _recorded(connection)] == [
            "articles_0001",
            "articles_0002",
            "articles_0003",
            "articles_0004",
            "articles_0005",
            "articles_0006",
        ]


async def test_a_revision_that_declares_no_kind_is_refused(
    database: Database, histories: Histories, clock: Clock
) -> None:
    histories.add(up="pass", kind="unheard-of")
    with pytest.raises(MigrationError, match="does not say what kind of change it is"):
        await commands.upgrade(histories.service(), at(database), clock=clock)


@pytest.mark.parametrize("name", SERVICES)
def test_the_newest_revision_is_the_one_that_the_code_asks_for(name: str) -> None:
    service = SERVICES[name]
    module = __import__(service.models, fromlist=["SCHEMA_REVISION"])
    assert history_of(service).head == module.SCHEMA_REVISION


def test_two_upgrades_at_once_are_done_once(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine
) -> None:
    database = database_factory("empty")
    engine = make_sync_engine(database)
    both = [_upgrading(database) for _ in range(2)]
    with _held(engine):
        for it in both:
            _let_begin(it)
        try:
            wait_until(lambda: all(map(_has_begun(database), both)), 60, "both are waiting")
        except BaseException:
            for it in both:
                it.kill()
            raise
    ends = [it.communicate(timeout=60) for it in both]
    assert [it.returncode for it in both] == [0, 0], ends
    said = sorted(out.splitlines()[-1] for out, _ in ends)
    assert said == ["articles: already at articles_0005", "articles: at articles_0005"]
    with engine.connect() as connection:
        assert _recorded(connection) == RELEASED


# A writer on SQLite waits for some seconds only: for the other one, and not for its imports.
_WHEN_TOLD = """
import sys
from migrations.cli import main
print("ready")
input()
main(sys.argv[1:], prog_name="python -m migrations")
"""


def _upgrading(database: Database) -> subprocess.Popen[str]:
    """An upgrade that begins when it is told to."""
    command = [sys.executable, "-c", _WHEN_TOLD, "upgrade", "articles"]
    started = subprocess.Popen(
        [*command, "--database", address(database)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def _let_begin(upgrade: subprocess.Popen[str]) -> None:
    assert upgrade.stdin is not None
    upgrade.stdin.write("\n")
    upgrade.stdin.flush()


@contextmanager
def _held(engine: Engine) -> Iterator[None]:
    """Hold what a migration waits for."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            first, second = commands.LOCK
            connection.execute(text(f"SELECT pg_advisory_xact_lock({first}, {second})"))
        yield


def _has_begun(database: Database) -> Callable[[subprocess.Popen[str]], bool]:
    def postgresql(_process: subprocess.Popen[str]) -> bool:
        assert database.server is not None
        with database.server.connect(database.url.rpartition("/")[2]) as connection:
            waiting = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchone()
        return waiting is not None and waiting[0] == 2

    def sqlite(process: subprocess.Popen[str]) -> bool:
        files = psutil.Process(process.pid).open_files()
        return any(Path(it.path) == database.path for it in files)

    return sqlite if is_sqlite(database) else postgresql


@pytest.mark.databases("postgresql")  # SQLite's own busy timeout has a test with the errors
async def test_an_upgrade_waits_for_another_one_only_so_long(
    database: Database, engine_of: Engine, clock: Clock
) -> None:
    told: list[str] = []
    waiting = Waiting(for_others=0.05, tell=told.append)
    with _held(engine_of), pytest.raises(MigrationError, match="another migration"):
        await commands.upgrade(ARTICLES, at(database), clock=clock, waiting=waiting)
    assert told == ["waiting for another migration of this database to end"]
