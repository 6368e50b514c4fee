"""The worlds that tests get: one for plain tests, one for async ones."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from orchestrator.definition.saga import Saga
from orchestrator.testing.worlds.run import Run
from orchestrator.testing.worlds.world import World

T = TypeVar("T")


class AsyncSagaWorld(World):
    """A world for async tests: `run` is awaited, in the test's own event loop."""

    async def run(self, state: Any, *, id: str | None = None) -> Run:
        """Begin a run, and let it go on until it ends, is STUCK, or waits for a test to complete a
        pending command. `id` is the run's; without one it gets a new one.

        Raises InvalidInput, NotReached where something that was to go wrong did not, and NotAtRest.
        """
        return await self._course.run(state, id)

    async def repair(self, run: Run) -> Run:
        """Mend the world, have an operator retry the stuck steps of the run, and let it go on."""
        return await self._course.repair(run)

    async def complete(self, run: Run, step: str, answer: object) -> Run:
        """Complete the command of that step that was pending in the run, and let the run go on.
        `answer` is what `Service.complete` takes, or a function `(session, command_id)` that calls
        it. Raises CannotComplete, and what the function raises."""
        return await self._course.complete(run, step, answer)

    async def go_on(self, run: Run, passing: timedelta = timedelta()) -> Run:
        """Let the run go on, for at least that time, after the test has changed something."""
        return await self._course.go_on(run.id, passing.total_seconds())

    async def close(self) -> None:
        """Leave no connection behind."""
        await self._close()

    def close_now(self) -> None:
        """The same where the event loop of its runs is gone."""
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(self._close())


class SagaWorld(World):
    """A world for plain tests, with an event loop of its own."""

    def __init__(self, saga: Saga[Any], **options: Any) -> None:
        # With a factory it leaves the thread's current loop alone.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        super().__init__(saga, **options)

    def run(self, state: Any, *, id: str | None = None) -> Run:
        """Begin a run, and let it go on until it ends, is STUCK, or waits for a test to complete a
        pending command. `id` is the run's; without one it gets a new one.

        Raises InvalidInput, NotReached where something that was to go wrong did not, and NotAtRest.
        """
        return self.wait_for(self._course.run(state, id))

    def repair(self, run: Run) -> Run:
        """Mend the world, have an operator retry the stuck steps of the run, and let it go on."""
        return self.wait_for(self._course.repair(run))

    def complete(self, run: Run, step: str, answer: object) -> Run:
        """Complete the command of that step that was pending in the run, and let the run go on.
        `answer` is what `Service.complete` takes, or a function `(session, command_id)` that calls
        it. Raises CannotComplete, and what the function raises."""
        return self.wait_for(self._course.complete(run, step, answer))

    def go_on(self, run: Run, passing: timedelta = timedelta()) -> Run:
        """Let the run go on, for at least that time, after the test has changed something."""
        return self.wait_for(self._course.go_on(run.id, passing.total_seconds()))

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of the coroutine, in this world's event loop."""
        if _is_in_loop():
            coroutine.close()
            raise RuntimeError(
                "this test has an event loop already: ask for async_saga_world, and await its runs"
            )
        return self._runner.run(coroutine)

    def close(self) -> None:
        """Leave no connection behind."""
        try:
            self.wait_for(self._close())
        finally:
            self._runner.close()


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
