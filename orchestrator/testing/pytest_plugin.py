"""The fixtures of Sagabox for pytest. They are there wherever Sagabox is installed, and nothing is
imported before a test asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from orchestrator.testing.worlds.crash_points import CrashPoints
    from orchestrator.testing.worlds.fixtures import AsyncSagaWorld, SagaWorld

W = TypeVar("W")


@pytest.fixture(scope="session")
def saga_database() -> str | None:
    """The URL of a PostgreSQL where the participants of worlds have their databases. A project
    overrides it; as it is, they are on SQLite."""
    return None


@pytest.fixture
def saga_world(tmp_path: Path, saga_database: str | None) -> Iterator[Callable[..., SagaWorld]]:
    """A maker of worlds: `saga_world(saga, participants={name: handlers},
    schema=Base.metadata)`."""
    from orchestrator.testing.worlds.fixtures import SagaWorld

    with ExitStack() as worlds:
        yield _maker(SagaWorld, tmp_path, saga_database, lambda it: worlds.callback(it.close))


@pytest.fixture
def async_saga_world(
    tmp_path: Path, saga_database: str | None
) -> Iterator[Callable[..., AsyncSagaWorld]]:
    """A maker of worlds for async tests, which await the runs of the world."""
    from orchestrator.testing.worlds.fixtures import AsyncSagaWorld

    with ExitStack() as worlds:
        yield _maker(
            AsyncSagaWorld, tmp_path, saga_database, lambda it: worlds.callback(it.close_now)
        )


@pytest.fixture
def crash_points() -> CrashPoints:
    """`with crash_points("engine: before commit", hit=2): ...` lets the process that gets there
    die; `crash_points.names` are all crash points."""
    from orchestrator.testing.worlds.crash_points import CrashPoints

    return CrashPoints()


def _maker(
    world: Callable[..., W], parent: Path, database: str | None, made: Callable[[W], object]
) -> Callable[..., W]:
    """A function that makes a world in a folder of its own, and tells `made` of it."""
    numbers = count()

    def make(saga: Any, **options: Any) -> W:
        folder = parent / f"sagabox-{next(numbers)}"
        folder.mkdir()
        new = world(saga, folder=folder, **{"database": database, **options})
        made(new)
        return new

    return make
