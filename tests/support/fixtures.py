"""The fixtures of every test: servers, databases and engines.

A test that takes `database` runs once per database management system. Which schema is in it, is
what the fixture `database_schema` says; a module overrides that one:

    @pytest.fixture
    def database_schema() -> Schema | str:
        return "empty"

`@pytest.mark.databases(...)` chooses other systems than SQLite and the newest PostgreSQL:
`sqlite`, `postgresql`, and `older-postgresql`, the oldest that the system's packages installed.
A test that needs several databases takes `database_factory` and calls it with a schema each.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases import binaries
from tests.support.databases.databases import (
    Database,
    Engines,
    PostgresTemplates,
    Schema,
    SqliteTemplates,
    Templates,
    schema_named,
)
from tests.support.databases.postgres import PostgresServer

_TEMPLATES = {
    "sqlite": "sqlite_templates",
    "postgresql": "postgres_templates",
    "older-postgresql": "older_postgres_templates",
}
_USUAL = ("sqlite", "postgresql")

DatabaseFactory = Callable[[Schema | str], Database]


class MakeEngine(Protocol):
    """Gives an AsyncEngine for a database; options are those of `create_async_engine`."""

    def __call__(self, database: Database, **options: object) -> AsyncEngine: ...


class MakeSyncEngine(Protocol):
    """Gives an Engine for a database; options are those of `create_engine`."""

    def __call__(self, database: Database, **options: object) -> Engine: ...


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_kind" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("databases")
    kinds = marker.args if marker else _USUAL
    if unknown := set(kinds) - set(_TEMPLATES):
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: no such database: {', '.join(sorted(unknown))}; "
            f"there are {', '.join(_TEMPLATES)}"
        )
    metafunc.parametrize("database_kind", kinds, indirect=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The newest PostgreSQL, shared by all: a test that stops or kills a server makes its own."""
    try:
        newest = binaries.from_wheel()
    except FileNotFoundError as error:
        pytest.skip(f"no PostgreSQL of the test requirements: {error}")
    server = PostgresServer(newest)
    yield server
    server.close()


@pytest.fixture(scope="session")
def older_postgres_server() -> Iterator[PostgresServer]:
    """The oldest supported PostgreSQL that the system's packages installed."""
    oldest = binaries.from_system()
    if oldest is None:
        pytest.skip("no PostgreSQL of the system's packages; `.ci/run` installs Debian's")
    server = PostgresServer(oldest)
    yield server
    server.close()


@pytest.fixture(scope="session")
def sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return SqliteTemplates(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_templates(postgres_server: PostgresServer) -> Templates:
    return PostgresTemplates(postgres_server)


@pytest.fixture(scope="session")
def older_postgres_templates(older_postgres_server: PostgresServer) -> Templates:
    return PostgresTemplates(older_postgres_server)


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which system this run of the test is on."""
    kind: str = request.param
    return kind


@pytest.fixture
def database_schema() -> Schema | str:
    """What is in `database`: the library's own tables, unless a module overrides this fixture."""
    return "outbox"


@pytest.fixture
def database_factory(
    request: pytest.FixtureRequest, database_kind: str
) -> Iterator[DatabaseFactory]:
    """A function that makes fresh databases of this test's kind, dropped at its end."""
    templates: Templates = request.getfixturevalue(_TEMPLATES[database_kind])
    made: list[Database] = []

    def make(schema: Schema | str = "outbox") -> Database:
        made.append(templates.fresh(schema_named(schema)))
        return made[-1]

    yield make
    for database in made:
        templates.drop(database)


@pytest.fixture
def database(database_factory: DatabaseFactory, database_schema: Schema | str) -> Database:
    """A fresh database with the schema of `database_schema`."""
    return database_factory(database_schema)


@pytest.fixture
def world_database(database_kind: str, request: pytest.FixtureRequest) -> str | None:
    """What a world takes as `database=`, to have its participants' databases in this system."""
    if database_kind == "sqlite":
        return None
    older = "older_" if database_kind == "older-postgresql" else ""
    server: PostgresServer = request.getfixturevalue(f"{older}postgres_server")
    return server.url(driver=None)


@pytest.fixture
def _databases_outlive_engines(request: pytest.FixtureRequest) -> None:
    if "database_factory" in request.fixturenames:
        request.getfixturevalue("database_factory")


@pytest.fixture
async def _engines(_databases_outlive_engines: None) -> AsyncIterator[Engines]:
    engines = Engines()
    yield engines
    await engines.close()


@pytest.fixture
def make_engine(_engines: Engines) -> MakeEngine:
    """Makes AsyncEngines. The test fails where one of their connections is not given back."""
    return _engines.asynchronous


@pytest.fixture
def make_sync_engine(_engines: Engines) -> MakeSyncEngine:
    """Makes Engines. The test fails where one of their connections is not given back."""
    return _engines.synchronous


@pytest.fixture
def engine(make_engine: MakeEngine, database: Database) -> AsyncEngine:
    """An AsyncEngine for `database`."""
    return make_engine(database)


@pytest.fixture
def soak_minutes() -> float:
    """How long a soak test runs: `make soak MINUTES=n`."""
    return float(os.environ.get("SAGABOX_SOAK_MINUTES", "10"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    minutes = float(os.environ.get("SAGABOX_SOAK_MINUTES", "10"))
    for item in items:
        if item.get_closest_marker("soak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(minutes * 60 * 1.5 + 120))
