"""Clients that ask for runs, and operators who look after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.engine.commits.items import Begin, Started
from orchestrator.engine.commits.starts import FORGOTTEN
from orchestrator.errors import ActiveAlready
from orchestrator.machine.instance import Direction, Instance, StepStatus
from orchestrator.machine.signals import (
    Cancel,
    OperatorSignal,
    Pause,
    Resume,
    Retry,
    Skip,
    Terminate,
)
from orchestrator.retention.policy import ENDS
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart
from orchestrator.store.start_store import StartKey
from orchestrator.testing.simulating import samples
from orchestrator.testing.simulating.ledger import Ledger
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.network import LATEST
from orchestrator.testing.virtual.process import BEGIN, Process
from orchestrator.testing.virtual.service import Originator
from orchestrator.testing.virtual.storage import Storage
from orchestrator.testing.virtual.timeline import Timeline
from outbox.wire.codec import encode_value

CLIENT = "client"
"""The service that asks for runs by message."""

_AGAIN = 1.0
_IMPATIENT = 4.0
_LATEST_BEGIN = 20.0


@dataclass(eq=False)
class Asked:
    """One start: what for, how, and what became of it."""

    saga: Saga[Any]
    state: Any
    id: str
    by_message: bool
    begin_at: datetime | None = None
    """When its run is to begin, if not at once; decided when it is first asked for."""
    known_as: str | None = None
    """The id of its run, as far as the client was told."""
    is_refused: bool = False
    was_under_way: bool = False
    """Whether it was made days before it came, so that its id may be below the watermark."""


class Clients:
    """The clients and operators of the orchestrator's `processes`."""

    def __init__(
        self,
        timeline: Timeline,
        chances: Chances,
        storage: Storage,
        ledger: Ledger,
        processes: Sequence[Process],
        originator: Originator,
        new_id: Callable[[], str],
        old_id: Callable[[], str],
    ) -> None:
        self._timeline = timeline
        self._chances = chances
        self._storage = storage
        self._ledger = ledger
        self._processes = processes
        self._originator = originator
        self._new_id = new_id
        self._old_id = old_id
        self.ids: set[str] = set()
        """Those under which runs were asked for."""
        self.copies = 0
        """How many copies of starts are still to come."""
        self._asked: list[Asked] = []
        self._skipped: set[str] = set()
        """The ids of the commands that a skip was about."""

    # Starts

    def want(self, sagas: Sequence[Saga[Any]], how_many: int, within: float) -> None:
        """Ask for so many runs of these sagas, within so many seconds."""
        chances = self._chances
        for _ in range(how_many):
            saga = sagas[chances.below(Number.SHAPE, len(sagas))]
            inputs = samples.inputs(saga)
            state = inputs[chances.below(Number.SHAPE, len(inputs))]
            by_message = chances.number(Number.SHAPE) < 0.5
            asked = Asked(saga, state, self._new_id(), by_message)
            self._asked.append(asked)
            self.ids.add(asked.id)
            self._timeline.at(0.5 + chances.between(Number.WHEN, 0.0, within), self._first(asked))

    def _first(self, asked: Asked) -> Callable[[], Any]:
        async def ask() -> None:
            self._decide_begin(asked)
            self._decide_age(asked)
            await self._ask(asked)()

        return ask

    def _ask(self, asked: Asked) -> Callable[[], Any]:
        return lambda: self._by_message(asked) if asked.by_message else self._by_api(asked)

    def _decide_begin(self, asked: Asked) -> None:
        if self._chances.fault(Fault.LATER):
            seconds = self._chances.between(Number.LENGTH, 0.1, _LATEST_BEGIN)
            asked.begin_at = BEGIN + timedelta(seconds=self._timeline.now + seconds)

    def _decide_age(self, asked: Asked) -> None:
        if asked.by_message and self._chances.fault(Fault.UNDER_WAY):
            asked.was_under_way = True
            asked.id = self._old_id()
            self.ids.add(asked.id)

    async def _by_message(self, asked: Asked) -> None:
        """Ask by message until it is taken in, and perhaps once more then."""
        if asked.known_as is not None and not self._chances.fault(Fault.START_TWICE):
            return
        start = StoredStart(
            asked.saga.name, encode_value(asked.state), CLIENT, begin_at=asked.begin_at
        )
        if await self.signal(asked.id, *signal_rows.dump_start(start)):
            asked.known_as = asked.id
            if Fault.REMOVED in self._chances.rates and self._chances.fault(Fault.START_LATE):
                self._copy(asked, start, self._chances.between(Number.WHEN, 0.0, LATEST))
        self._timeline.after(self._chances.between(Number.WHEN, 0.0, 5.0), self._ask(asked))

    def _copy(self, asked: Asked, start: StoredStart, after: float) -> None:
        """Let a copy of that message come, perhaps after its run has ended and was removed."""

        async def arrive() -> None:
            self.copies -= 1
            if not await self.signal(asked.id, *signal_rows.dump_start(start)):
                self._copy(asked, start, _AGAIN)

        self.copies += 1
        self._timeline.after(after, arrive)

    async def _by_api(self, asked: Asked) -> None:
        """Ask one process after the other until one tells of a run, and perhaps once more then."""
        is_over = asked.is_refused or asked.known_as is not None
        if is_over and not (asked.known_as and self._chances.fault(Fault.START_TWICE)):
            return
        usable = [it for it in self._processes if it.node and it.node.shards.usable]
        if usable:
            self._begin(asked, usable[self._chances.below(Number.WHEN, len(usable))])
        self._timeline.after(_IMPATIENT if usable else _AGAIN, self._ask(asked))

    def _begin(self, asked: Asked, process: Process) -> None:
        node = process.node
        assert node is not None
        id = self._new_id()
        while shard_of(id) not in node.shards.usable:
            id = self._new_id()
        self.ids.add(id)
        key = StartKey(asked.saga.name, asked.id, b"f" * 32, id)
        done: Any = _Told(asked, self._ledger)
        begin = Begin(id, asked.saga, asked.state, key=key, done=done, begin_at=asked.begin_at)
        node.committer.put([begin])
        process.wake()

    # Operators

    async def meddle(self) -> None:
        """Send the signals that operators may come to send."""
        for asked in self._asked:
            if asked.known_as is None:
                continue
            if self._chances.fault(Fault.CANCEL):
                await self._tell(asked.known_as, Cancel("ada", "changed her mind"))
            if self._chances.fault(Fault.PAUSE):
                await self._tell(asked.known_as, Pause("ada", "a look at it"))
            if self._chances.fault(Fault.TERMINATE):
                await self._tell(asked.known_as, Terminate("ada", "no longer wanted"))

    async def repair(self) -> None:
        """Send the signals that each stuck or paused run needs: a retry, or now and then a skip."""
        for run, _ in await self._storage.runs():
            if run.paused:
                await self._tell(run.id, Resume("ada", "enough seen"))
            for name, step in run.steps.items():
                is_stuck = step.status is StepStatus.STUCK and run.ended is None
                if is_stuck and not await self._skip(run, name):
                    await self._tell(run.id, Retry(name, "ada", "mended"))

    async def skip(self) -> None:
        """Skip the steps that persons may come to skip before anything is mended."""
        for run, _ in await self._storage.runs():
            for name, step in run.steps.items():
                if step.status is StepStatus.STUCK and run.ended is None:
                    await self._skip(run, name)

    async def _skip(self, run: Instance[Any], name: str) -> bool:
        """Whether the stuck step is skipped. That happens on the way forward, and once for each
        command: a second skip would do without its participant's word."""
        awaited = run.steps[name].awaited
        if run.direction is not Direction.FORWARD or awaited is None:
            return False
        if awaited.id in self._skipped or not self._chances.fault(Fault.SKIP):
            return False
        self._skipped.add(awaited.id)
        saga = next(it.saga for it in self._asked if it.saga.name == run.saga)
        result = samples.answers(saga)[str(saga.action_type(name))]
        await self._tell(run.id, Skip(name, "ada", "done by hand", result))
        return True

    async def _tell(self, saga_id: str, signal: OperatorSignal) -> None:
        await self.signal(saga_id, *signal_rows.dump(signal))

    async def signal(self, saga_id: str, kind: str, payload: str) -> bool:
        """Leave it for a run, and wake the processes; false where the database did not take it."""
        if not await self._storage.tell(saga_id, shard_of(saga_id), kind, payload):
            return False
        for process in self._processes:
            if process.node is not None:
                process.node.committer.look()
                process.wake()
        return True

    # Outcomes

    @property
    def unanswered(self) -> Sequence[Asked]:
        """The starts that still wait for news of their run."""
        return [it for it in self._asked if it.known_as is None and not it.is_refused]

    async def check(self, runs: Mapping[str, Instance[Any]]) -> None:
        """Raises Broken where a start led to no run, to two, to another one's end, or to one that
        began too early."""
        aliases = await self._storage.aliases()
        known = [(it, it.known_as) for it in self._asked if it.known_as is not None]
        for asked, id in known:
            run = aliases.get(id, id)
            if run not in runs and asked.was_under_way:
                # Or it was joined to a run that was removed, and its old id with it.
                if self._originator.told.get(id) not in (FORGOTTEN, *ENDS):
                    raise Broken("P4", "a start that was under way for days is not told of it")
                continue
            if run not in runs:
                raise Broken("P4", f"a start of {asked.saga.name} was taken in and is not there")
            if asked.by_message and self._originator.told.get(id) != runs[run].status:
                told = self._originator.told.get(id, "nothing")
                status = runs[run].status
                raise Broken("news", f"a run ended {status}, and who asked was told {told}")
            if run == id and _began_early(asked, runs[run]):
                raise Broken("P4", f"a run for {asked.begin_at} began at {runs[run].created_at}")
        if len(runs) > len(known):
            raise Broken("P2", f"{len(known)} starts were taken in, and {len(runs)} runs are there")


def _began_early(asked: Asked, run: Instance[Any]) -> bool:
    has_begun = run.begin_at is None
    return asked.begin_at is not None and has_begun and run.created_at < asked.begin_at


class _Told:
    """The stand-in for the API's future: the outcome of a start."""

    def __init__(self, asked: Asked, ledger: Ledger) -> None:
        self._asked = asked
        self._ledger = ledger
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, started: Started) -> None:
        self._is_done = True
        asked = self._asked
        if asked.known_as is not None and asked.known_as != started.instance_id:
            self._ledger.breaks("P2", "one idempotency key led to two runs")
        asked.known_as = started.instance_id

    def set_exception(self, error: Exception) -> None:
        self._is_done = True
        if isinstance(error, ActiveAlready):
            self._asked.is_refused = True
