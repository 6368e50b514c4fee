"""The fixtures of Sagabox for pytest. They are there wherever Sagabox is installed, and nothing is
imported before a test asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from orchestrator.testing.worlds.crash_points import CrashPoints
    from orchestrator.testing.worlds.fixtures import AsyncSagaWorld, SagaWorld

W = TypeVar("W")


@pytest.fixture
def saga_world(tmp_path: Path) -> Iterator[Callable[..., SagaWorld]]:
    """A maker of worlds: `saga_world(saga, participants={name: handlers},
    schema=Base.metadata)`."""
    from orchestrator.testing.worlds.fixtures import SagaWorld

    made: list[SagaWorld] = []

    yield _maker(SagaWorld, tmp_path, made)
    for world in made:
        world.close()


@pytest.fixture
def async_saga_world(tmp_path: Path) -> Iterator[Callable[..., AsyncSagaWorld]]:
    """A maker of worlds for async tests, which await the runs of the world."""
    from orchestrator.testing.worlds.fixtures import AsyncSagaWorld

    made: list[AsyncSagaWorld] = []

    yield _maker(AsyncSagaWorld, tmp_path, made)
    for world in made:
        world.close_now()


@pytest.fixture
def crash_points() -> CrashPoints:
    """`with crash_points("engine: before commit", hit=2): ...` lets the process that gets there
    die; `crash_points.names` are all crash points."""
    from orchestrator.testing.worlds.crash_points import CrashPoints

    return CrashPoints()


def _maker(world: Callable[..., W], parent: Path, made: list[W]) -> Callable[..., W]:
    """A function that makes a world in a folder of its own, and notes it in `made`."""

    def make(saga: Any, **options: Any) -> W:
        folder = parent / f"sagabox-{len(made)}"
        folder.mkdir()
        made.append(world(saga, folder=folder, **options))
        return made[-1]

    return make
