"""The services as processes, whose databases are behind a PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import outbox
from orchestrator.cli.doctor.asked import Source, opened
from orchestrator.cli.doctor.findings import Finding, Verdict
from orchestrator.cli.doctor.server import pooler
from outbox.database.address.poolers import unprepared
from tests.support.databases.databases import Database, Schema
from tests.support.databases.pgbouncer import pooled
from tests.support.databases.postgres import PostgresServer
from tests.support.fixtures import DatabaseFactory
from tests.support.outbox.banks import BIN
from tests.support.processes.cli import sagabox
from tests.support.processes.running import SECRET, RunningBlog, running_blog

pytestmark = pytest.mark.databases("postgresql")


async def test_an_article_is_deleted_and_no_service_logs_an_error(
    database_factory: DatabaseFactory, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with pooled(postgres_server, tmp_path / "pgbouncer") as port:

        def behind(schema: Schema) -> Database:
            made = database_factory(schema)
            url = make_url(made.url).set(port=port).render_as_string(hide_password=False)
            return replace(made, url=url)

        async with running_blog(behind, tmp_path) as blog:
            # A delivery that a busy machine makes late is told of, too.
            blog.settings["SAGABOX_DELIVERY_TIMEOUT"] = "25"
            await asyncio.gather(*map(blog.start, blog.databases))
            await asyncio.gather(*(_deleted(blog) for _ in range(5)))
            await blog.stop()
            for name in blog.databases:
                lines = blog.log(name).splitlines()
                (told,) = [it for it in lines if "[info " not in it]
                assert "need no key (SAGABOX_TRUST_LOOPBACK is set)" in told


async def _deleted(blog: RunningBlog) -> None:
    """Have an article, and delete it."""
    article = await blog.publish()
    await blog.until_known(article)
    await blog.comment(article, "Well said.")
    assert await blog.until_ended(await blog.delete(article)) == "COMPLETED"
    assert await blog.comments_of(article) == []


async def test_migrations_and_the_doctor_work_there(
    database_factory: DatabaseFactory,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    database = database_factory("empty")
    async with pooled(postgres_server, tmp_path / "pgbouncer") as port:
        for driver in ("asyncpg", "psycopg"):
            url = make_url(database.url).set(port=port, drivername=f"postgresql+{driver}")
            address = url.render_as_string(hide_password=False)
            for command in ("upgrade", "check"):
                words = (BIN / "sagabox", "migrate", command, "orchestrator", "--database", address)
                done = await asyncio.to_thread(subprocess.run, words, capture_output=True)
                assert done.returncode == 0, done
        stranger = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(stranger, autocommit=True, prepare_threshold=None) as connection:
            for _ in range(6):  # the pooler's connections take turns
                left = connection.execute("SELECT name FROM pg_prepared_statements").fetchall()
                assert left == []
        told = await asyncio.to_thread(sagabox, "doctor", SAGABOX_DATABASE_URL_ORCHESTRATOR=address)
        assert "ok       pooler of orchestrator: a pooler is before the server" in told.out


async def test_behind_a_pooler_in_statement_mode_each_command_says_what_to_do(
    database_factory: DatabaseFactory, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = make_url(database_factory("empty").url).set(drivername="postgresql")
    async with pooled(postgres_server, tmp_path / "pgbouncer", "statement") as port:
        address = url.set(port=port).render_as_string(hide_password=False)
        for words in (
            ("migrate", "upgrade", "orchestrator", "--database", address),
            ("outbox", "status", "--database", address),
            ("doctor",),
        ):
            named = {} if "--database" in words else {"SAGABOX_DATABASE_URL_ORCHESTRATOR": address}
            told = await asyncio.to_thread(sagabox, *words, **named)
            assert told.code != 0, words
            said = " ".join(f"{told.out} {told.err}".split())
            assert "next: let the pooler hand its connections" in said, (words, told)
            assert "start the database" not in said, (words, told)


@pytest.mark.parametrize(
    ("driver", "make"), [("asyncpg", create_async_engine), ("psycopg", create_engine)]
)
async def test_the_doctor_says_what_an_engine_of_ones_own_lacks(
    database_factory: DatabaseFactory,
    postgres_server: PostgresServer,
    tmp_path: Path,
    driver: str,
    make: Callable[..., AsyncEngine | Engine],
) -> None:
    url = make_url(database_factory("outbox").url).set(drivername=f"postgresql+{driver}")
    async with pooled(postgres_server, tmp_path / "pgbouncer") as port:
        assert await _finding(make(url)) is None
        behind = url.set(port=port)
        lacking, ready = make(behind), make(behind, connect_args=unprepared(driver))
        found = await _finding(lacking)
        assert found is not None
        assert found.verdict is Verdict.WARNING
        assert found.next_step == f"give create_engine(..., connect_args={unprepared(driver)})"
        found = await _finding(ready)
        assert found is not None
        assert found.verdict is Verdict.OK


async def _finding(engine: AsyncEngine | Engine) -> Finding | None:
    """What the doctor finds of the pooler of a service with this engine."""
    service = outbox.Service("bank", engine, secrets=SECRET)
    source = Source("bank", service.engine, service.tables, 1, service=service)
    async with opened(source, outbox.SystemClock().now()) as asked:
        found = await pooler(asked)
    await service.engine.dispose()
    await engine.dispose() if isinstance(engine, AsyncEngine) else engine.dispose()
    return found[0] if found else None
