"""A service with tables of its own named inbox and outbox, and the library's tables in its own
Alembic history: what Alembic autogenerates is about its own tables alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect

from outbox import Tables, schema
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeEngine
from tests.support.outbox.services import make_service

_MODELS = """
from sqlalchemy import Column, Integer, MetaData, Table, Text
from outbox import Tables

TABLES = Tables({prefix!r}, {schema!r})
metadata = MetaData()
Table("inbox", metadata, Column("id", Integer, primary_key=True), Column("subject", Text))
Table("outbox", metadata, Column("id", Integer, primary_key=True), Column("sent", Text))
"""
_ENV = """
import sys
from alembic import context
from sqlalchemy import create_engine
from outbox import schema

{models}
engine = create_engine({url!r})
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_schemas={schemas!r},
        include_name=schema.not_ours(TABLES),
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
_FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

def upgrade():
    op.create_table("inbox", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("subject", sa.Text))
    op.create_table("outbox", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("sent", sa.Text))

def downgrade():
    op.drop_table("outbox")
    op.drop_table("inbox")
"""
_SECOND = """
from alembic import op
from outbox import Tables, schema

revision = "0002"
down_revision = "0001"

def upgrade():
    schema.upgrade(op, to={to}, tables=Tables({prefix!r}, {schema!r}))

def downgrade():
    schema.downgrade(op, to=0, start={to}, tables=Tables({prefix!r}, {schema!r}))
"""
_MAKO = """
from alembic import op
import sqlalchemy as sa

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
"""

Histories = Callable[[Tables], Config]


@pytest.fixture
def database_schema() -> Schema | str:
    return "empty"


@pytest.fixture
def history(tmp_path: Path, database: Database) -> Histories:
    """The service's own history, with the library's tables in its second revision."""

    def make(tables: Tables) -> Config:
        named = {"prefix": tables.prefix, "schema": tables.schema, "to": schema.LATEST}
        (tmp_path / "versions").mkdir()
        models = _MODELS.format(**named)
        schemas = tables.schema is not None
        env = _ENV.format(models=models, url=database.sync_url, schemas=schemas)
        for name, text in (
            ("env.py", env),
            ("script.py.mako", _MAKO),
            ("versions/0001.py", _FIRST),
            ("versions/0002.py", _SECOND.format(**named)),
        ):
            (tmp_path / name).write_text(text)
        config = Config()
        config.set_main_option("script_location", str(tmp_path))
        config.set_main_option("path_separator", "os")
        return config

    return make


async def _adopt(
    config: Config, tables: Tables, database: Database, sync_engine: Engine, make_engine: MakeEngine
) -> None:
    command.upgrade(config, "head")
    with sync_engine.connect() as connection:
        assert schema.differences(connection, tables) == []
    # Raises where Alembic would write anything into a new migration.
    command.check(config)
    async with make_service(make_engine(database), "mail", tables=tables).running():
        pass
    command.downgrade(config, "0001")
    inspector = inspect(sync_engine)
    assert {"inbox", "outbox"} <= set(inspector.get_table_names())
    assert not [it for it in inspector.get_table_names(tables.schema) if it.endswith("_dead")]


@pytest.fixture
def sync_engine(make_sync_engine: Callable[[Database], Engine], database: Database) -> Engine:
    return make_sync_engine(database)


async def test_a_service_with_an_inbox_and_an_outbox_adopts_the_library_by_a_prefix(
    history: Histories, database: Database, sync_engine: Engine, make_engine: MakeEngine
) -> None:
    tables = Tables("sagabox_")
    await _adopt(history(tables), tables, database, sync_engine, make_engine)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("prefix", ["", "sagabox_"])
async def test_a_service_with_an_inbox_and_an_outbox_adopts_the_library_by_a_schema(
    history: Histories,
    database: Database,
    sync_engine: Engine,
    make_engine: MakeEngine,
    prefix: str,
) -> None:
    tables = Tables(prefix, "messaging")
    await _adopt(history(tables), tables, database, sync_engine, make_engine)


@pytest.mark.databases("postgresql")
async def test_the_default_schema_may_be_named(
    history: Histories, database: Database, sync_engine: Engine, make_engine: MakeEngine
) -> None:
    tables = Tables("sagabox_", "public")
    await _adopt(history(tables), tables, database, sync_engine, make_engine)
