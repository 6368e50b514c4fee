"""`check_saga`: tries a saga with its handlers in every way, and checks the promises."""

from __future__ import annotations

import inspect
import json
import logging
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy.engine import URL

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Status
from orchestrator.testing.worlds import every_way as ways
from orchestrator.testing.worlds import promises
from orchestrator.testing.worlds.checked import Broken, Checked, WayFailed
from orchestrator.testing.worlds.course import NotAtRest
from orchestrator.testing.worlds.every_way import Way
from orchestrator.testing.worlds.fixtures import AsyncSagaWorld, SagaWorld
from orchestrator.testing.worlds.participants.answerer import CompletionFailed
from orchestrator.testing.worlds.participants.completions import Completions
from orchestrator.testing.worlds.participants.database import Schema
from orchestrator.testing.worlds.run import Run
from orchestrator.testing.worlds.snapshot import (
    Difference,
    Ignored,
    Snapshot,
    differences,
    varying,
)
from orchestrator.testing.worlds.troubles import NotReached
from orchestrator.testing.worlds.world import World
from outbox.adding.installation import Routes
from outbox.inbox.handlers import Handlers
from outbox.tables import DEFAULT_TABLES, Tables

Prepare = Callable[[Any], Awaitable[None] | None]
"""A function that fills the participants' databases, given the world."""
Begin = Callable[[], Awaitable[None] | None]
"""A function that is called before each way, for what lies in no database of the world: it lets a
provider begin anew."""
Invariant = Callable[[Any, Run], Awaitable[None] | None]
"""A check after a run, given world and run; it raises AssertionError where something does not
hold."""

_SHOWN = 10


def check_saga(
    saga: Saga[Any],
    state: Any,
    *,
    id: str | None = None,
    participants: Mapping[str, Handlers],
    schema: Schema | Mapping[str, Schema],
    prepare: Prepare = lambda _: None,
    begin: Begin = lambda: None,
    invariant: Invariant = lambda _world, _run: None,
    ignore: Collection[str] = (),
    only: str = "",
    routes: Mapping[str, Routes] | None = None,
    originator: str | None = None,
    completions: Completions = MappingProxyType({}),
    database: str | URL | None = None,
    tables: Tables | Mapping[str, Tables] = DEFAULT_TABLES,
) -> Checked:
    """Run the saga on `state` in every way, each time from what `prepare` made. Raises WayFailed.

    After each way the promises must hold, the run must have ended (with an operator's help where it
    was STUCK), and `invariant` must not raise. After COMPENSATED the participants' own tables must
    hold what they held before; after COMPLETED, what they hold when nothing goes wrong. `ignore`
    names tables and columns (`orders`, `updated_at`, `orders.status`) in which they may differ.
    `begin` is called before each way, and lets a provider begin anew. `id` is the run's in each
    way, where handlers look for it; without it each run gets another one.
    `only` chooses the ways whose words contain it. `completions` answers the commands whose
    handlers return Pending: by class, the answers, the usual one first. `database` is the URL of a
    PostgreSQL, where each participant gets a database of its own; without it they are on SQLite.
    `tables` are those of the library there, where they have a prefix or a schema: for all
    participants, or by name.
    """
    __tracebackhide__ = True  # by pytest, which then shows the test's own line alone
    with tempfile.TemporaryDirectory() as folder:
        world = SagaWorld(
            saga,
            participants=participants,
            schema=schema,
            folder=Path(folder),
            routes=routes,
            originator=originator,
            completions=completions,
            database=database,
            tables=tables,
        )
        try:
            return world.wait_for(_check(world, state, id, prepare, begin, invariant, ignore, only))
        except WayFailed as failed:
            raise failed.with_traceback(None) from failed.__cause__
        finally:
            world.close()


async def check_saga_async(
    saga: Saga[Any],
    state: Any,
    *,
    id: str | None = None,
    participants: Mapping[str, Handlers],
    schema: Schema | Mapping[str, Schema],
    prepare: Prepare = lambda _: None,
    begin: Begin = lambda: None,
    invariant: Invariant = lambda _world, _run: None,
    ignore: Collection[str] = (),
    only: str = "",
    routes: Mapping[str, Routes] | None = None,
    originator: str | None = None,
    completions: Completions = MappingProxyType({}),
    database: str | URL | None = None,
    tables: Tables | Mapping[str, Tables] = DEFAULT_TABLES,
) -> Checked:
    """The same as `check_saga`, in the event loop of an async test."""
    __tracebackhide__ = True
    with tempfile.TemporaryDirectory() as folder:
        world = AsyncSagaWorld(
            saga,
            participants=participants,
            schema=schema,
            folder=Path(folder),
            routes=routes,
            originator=originator,
            completions=completions,
            database=database,
            tables=tables,
        )
        try:
            return await _check(world, state, id, prepare, begin, invariant, ignore, only)
        except WayFailed as failed:
            raise failed.with_traceback(None) from failed.__cause__
        finally:
            await world.close()


async def _check(
    world: World,
    state: Any,
    id: str | None,
    prepare: Prepare,
    begin: Begin,
    invariant: Invariant,
    ignore: Collection[str],
    only: str,
) -> Checked:
    await _called(prepare(world))
    world.keep()
    before = world.snapshot()
    ignored = Ignored(ignore)
    ignored.check(before)
    with _quiet():
        check = _Check(world, state, id, before, ignored, begin, invariant)
        await check.undisturbed()
        await check.every(only)
    if len(check.checked.ways) == 1 and only not in ways.FORWARD.words:
        raise ValueError(f"there is no way whose words contain {only!r}")
    return check.checked


class _Check:
    def __init__(
        self,
        world: World,
        state: Any,
        id: str | None,
        before: Snapshot,
        ignored: Ignored,
        begin: Begin,
        invariant: Invariant,
    ) -> None:
        self.checked = Checked()
        self._world = world
        self._state = state
        self._id = id
        self._before = before
        self._ignored = ignored
        self._begin = begin
        self._invariant = invariant
        self._completed: Snapshot | None = None
        self._varies = ignored

    async def undisturbed(self) -> None:
        """Learn what undisturbed runs leave behind. Values in which two of them differ are made
        anew each time (ids, times), and are not compared after COMPLETED."""
        run = await self._one(ways.FORWARD)
        if run is None or run.status is not Status.COMPLETED:
            return
        first = self._world.snapshot()
        await self._restore()
        await self._world.course.run(self._state, self._id)
        second = self._world.snapshot()
        self._varies = self._ignored.also(varying(first, second, self._ignored))
        self._completed = first

    async def every(self, only: str) -> None:
        """Go every way whose words contain `only`."""
        saga = self._world.saga
        answers, calls = self._world.answers, self._world.calls
        await self._go(ways.at_steps(saga), only)
        await self._go(ways.at_pending(saga, answers), only)
        await self._go(ways.at_calls(saga, calls), only)
        back = ways.backward(saga)
        if back is not None:
            await self._go(ways.at_compensations(saga, back), only)
            await self._go(ways.at_pending_compensations(saga, answers, back), only)
            await self._go(ways.at_calls_of_compensations(saga, calls, back), only)
        bases = [ways.FORWARD] if back is None else [ways.FORWARD, back]
        for base in bases:
            await self._go(ways.of_messages(base, are_later=bool(answers)), only)
        for base in bases:
            # The crash points are those that a run reaches without any crash.
            await self._go(ways.of_crashes(base, await self._points_of(base)), only)

    async def _points_of(self, base: Way) -> Mapping[str, int]:
        await self._restore()
        base.arrange(self._world)
        try:
            await self._world.course.run(self._state, self._id)
        except NotReached:
            return {}
        return dict(self._world.points)

    async def _restore(self) -> None:
        self._world.restore()
        await _called(self._begin())

    async def _go(self, some: Iterable[Way], only: str) -> None:
        for way in some:
            if only in way.words:
                await self._one(way)

    async def _one(self, way: Way) -> Run | None:
        world = self._world
        await self._restore()
        way.arrange(world)
        history: Collection[str] = ()
        tried = len(self.checked.ways)
        self.checked.ways.append(way.words)
        try:
            run = await world.course.run(self._state, self._id)
            history = run.history
            if run.status is Status.STUCK:
                self._check_effects(run)
                if self._world.is_unknown(run):
                    self.checked.ends[way.words] = run.status
                    return run
                run = await world.course.repair(run)
                history = run.history
            await self._check_run(run, way)
        except NotReached:
            self.checked.missed.append(way.words)
            return None
        except (Broken, NotAtRest, CompletionFailed) as broken:
            raise WayFailed(way.words, str(broken), history, tried) from None
        except AssertionError as error:
            problem = f"the invariant does not hold: {error}"
            raise WayFailed(way.words, problem, history, tried) from error
        self.checked.ends[way.words] = run.status
        return run

    async def _check_run(self, run: Run, way: Way) -> None:
        if not run.is_ended:
            self._world.require_completed(run)
            raise NotAtRest(f"the run is {run.status} and does not end: {run.problem}")
        self._check_effects(run)
        if run.status not in way.ends:
            wanted = " or ".join(sorted(way.ends))
            raise Broken(f"P4: the run is {run.status}, and should be {wanted}")
        after = self._world.snapshot()
        if run.status is Status.COMPENSATED:
            _compare(
                "the run is COMPENSATED, and not everything is as it was before",
                differences(self._before, after, self._ignored),
            )
        elif self._completed is not None:
            _compare(
                "the run is COMPLETED, and not everything is as it is when nothing goes wrong",
                differences(self._completed, after, self._varies),
            )
        await _called(self._invariant(self._world, run))

    def _check_effects(self, run: Run) -> None:
        effects = self._world.effects(run)
        for problem in promises.broken(self._world.saga, run.status, effects):
            raise Broken(problem)


def _compare(what: str, found: list[Difference]) -> None:
    if found:
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        columns = sorted({it.table + (f".{it.column}" if it.column else "") for it in found})
        meant = f"where that is meant: ignore={json.dumps(columns)}"
        raise Broken("\n  ".join([f"{what}:", *map(str, found[:_SHOWN]), *more, meant]))


async def _called(result: Awaitable[None] | None) -> None:
    if inspect.isawaitable(result):
        await result


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without log lines, since trouble is on purpose here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
