"""The engine: runs sagas on a database, together with other nodes where that is PostgreSQL.

It keeps a node going, and serves the API and the handlers of messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.engine.commits.committer import CommitterStats
from orchestrator.engine.commits.items import Begin, Started, Tell
from orchestrator.engine.node import Node
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.remote_signals import ask_owner, ask_to_begin, asked_start
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.silences import Silences
from orchestrator.engine.single_node import OnlyNode
from orchestrator.engine.watchers import OnStuck, Watchers
from orchestrator.errors import DefinitionChanged, Unavailable, UnknownRun
from orchestrator.machine.signals import OperatorSignal
from orchestrator.store import signal_rows
from orchestrator.store.records import Committed, fingerprint_of
from orchestrator.store.sharding import shard_of
from orchestrator.store.silence_store import SilenceStore
from orchestrator.store.start_store import StartKey
from orchestrator.tables import saga_tables
from outbox import tracing
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.coordination.loops import at_the_end, repeat
from outbox.coordination.owners import HolderName
from outbox.coordination.progress import Progress
from outbox.coordination.wake_ups import WakeUps
from outbox.database.opening import Database
from outbox.ids import first_at, is_id
from outbox.transports.base import Transport
from outbox.wire.settled import MAX_LIVE, EndedSagas

log = logging.getLogger(__name__)

_HOUSEKEEPING = 5.0


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's idempotency key for a start, and the fingerprint (32 bytes) of its request."""

    text: str
    fingerprint: bytes


class Engine:
    """The engine of one node. `run` keeps it going; `start` and `signal` return after the commit.

    `bell` rings when a message has left something in the database; `owner` is a label for this node
    in the database, and any number of nodes may have the same. `progress` is told of each piece of
    work, `on_stuck` of each step that gets stuck.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        transports: Mapping[str, Transport],
        *,
        clock: Clock,
        ids: Callable[[], str],
        bell: Bell,
        settings: EngineSettings,
        owner: str,
        progress: Progress | None = None,
        on_stuck: OnStuck | None = None,
    ) -> None:
        self.registry = registry
        self.watchers = Watchers(on_stuck)
        self._database = database
        self._clock = clock
        self._ids = ids
        self._bell = bell
        self._settings = settings
        ports = EnginePorts.of(database.engine, registry, clock, database.tables)
        self._ports = ports
        name = HolderName(owner)
        self._node = Node(
            database.engine,
            ports,
            registry,
            transports,
            self.watchers,
            clock=clock,
            ids=ids,
            settings=settings,
            name=name,
            progress=progress,
        )
        self._silent = SilenceStore(
            saga_tables(database.tables),
            postgres=database.engine.dialect.name == "postgresql",
            now=clock.now,
        )
        self._silences = Silences(
            database.engine,
            self._silent,
            self._node.dispatcher.silences,
            name=name,
            clock=clock,
        )
        self._only_node = OnlyNode(database.engine, database.tables)
        is_alone = self._node.shards.are_complete
        self._wake_ups = WakeUps(database.engine, bell, database.tables, is_alone=is_alone)
        self._settled: EndedSagas | None = None
        self._is_running = False
        self._is_closing = False

    # Lifecycle

    @property
    def is_running(self) -> bool:
        """Whether the engine is running."""
        return self._is_running

    @property
    def shards(self) -> frozenset[int]:
        """The shards that are this node's."""
        return frozenset(self._node.shards.leases.epochs)

    @property
    def stats(self) -> CommitterStats:
        """The counts of commits since the start."""
        return self._node.committer.stats

    async def check_start(self) -> None:
        """Raises DefinitionChanged where a definition has another shape than it had, SecondNode
        where another node has this SQLite database, unless this one waits for its turn."""
        if not self._settings.takes_turns:
            self._only_node.claim()
        try:
            await self._check_definitions()
        except Exception:
            self._only_node.release()
            raise

    async def _check_definitions(self) -> None:
        async with self._database.engine.begin() as connection:
            changed = await self._ports.runs.register(connection)
        if changed:
            names = ", ".join(f"{name} v{version}" for name, version in changed)
            raise DefinitionChanged(
                f"{names} has another shape than runs in this database were started with",
                next_step="give the changed definition a new version, and keep the old one "
                "registered until its runs have ended",
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish the work under way and give the shards back. Where
        it takes turns, it first waits until no other process is the node.

        Trouble with the database is logged and waited out.
        """
        try:
            await self._only_node.until_ours(stop)
            if not stop.is_set():
                await self._work(stop)
        finally:
            shards = self._node.shards
            await at_the_end(shards.leave, "give the shards back, which expire by themselves")
            await self._node.dispatcher.aclose()
            self._only_node.release()

    async def _work(self, stop: asyncio.Event) -> None:
        finish = asyncio.Event()
        self._is_running = True
        try:
            async with self._wake_ups.running(), asyncio.TaskGroup() as tasks:
                progress, tend = self._node.progress, self._node.shards.tend_once
                tasks.create_task(repeat(stop, tend, "tend the shards", progress))
                tasks.create_task(repeat(stop, self._keep_house, "keep house", progress))
                tell = self._silences.tell_once
                tasks.create_task(repeat(stop, tell, "tell who is silent", progress))
                hearing = tasks.create_task(self._hear())
                tasks.create_task(self._node.committer.run(finish))
                await self._node.dispatcher.run(stop)
                # The last answers are committed before the shards are given back.
                self._is_closing = True
                finish.set()
                self._node.committer.look()
                hearing.cancel()
        finally:
            self._is_running = False

    # For the API

    async def start(
        self,
        saga: Saga[Any],
        state: Any,
        *,
        key: IdempotencyKey | None = None,
        begin_at: datetime | None = None,
    ) -> Started:
        """Begin a run, or schedule it for `begin_at` (UTC). Raises InvalidInput, ActiveAlready,
        KeyReused, Unavailable."""
        written = saga.check_state(state)
        saga_key = saga.key_of(state)
        if self._settings.takes_turns and not self._node.shards.usable:
            asked = asked_start(saga, state, begin_at)
            if key is not None:
                asked = replace(asked, key=key.text, fingerprint=key.fingerprint.hex())
            patience = self._settings.patience
            return await ask_to_begin(
                self._database, self._ports, self._bell, self._ids(), asked, saga_key, patience
            )
        saga_id = self._id_of_ours()
        stored = None
        if key is not None:
            stored = StartKey(saga.name, key.text, key.fingerprint, saga_id)
        done: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        begin = Begin(
            saga_id,
            saga,
            state,
            key=stored,
            trace=tracing.current(),
            done=done,
            size=len(written),
            begin_at=begin_at,
            fingerprint=fingerprint_of(saga.name, written.decode(), None),
            saga_key=saga_key,
        )
        await self._asked(begin, done)
        return done.result()

    async def signal(self, instance_id: str, signal: OperatorSignal) -> None:
        """Give a run an operator's signal. Raises UnknownRun, IllegalSignal, InvalidInput,
        Unavailable."""
        if not is_id(instance_id):
            raise UnknownRun(instance_id)
        if shard_of(instance_id) not in self._node.shards.usable:
            patience = self._settings.patience
            await ask_owner(self._database, self._ports, self._bell, instance_id, signal, patience)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _, payload = signal_rows.dump(signal)
        await self._asked(Tell(instance_id, signal, done=done, size=len(payload)), done)

    def latest(self, instance_id: str) -> Committed | None:
        """The live run of that id as it stands in the database, where this node owns it and has it
        in memory."""
        return self._node.committer.latest(instance_id)

    def settled(self) -> EndedSagas | None:
        """The statement about ended runs, for participants, which goes with each delivery."""
        return self._settled

    async def _asked(self, item: Begin | Tell, done: asyncio.Future[Any]) -> None:
        if self._is_closing or self._node.committer.is_full:
            raise Unavailable("the orchestrator has no room, or is about to stop")
        self._node.committer.put([item])
        try:
            async with asyncio.timeout(self._settings.patience):
                await done
        except TimeoutError:
            raise Unavailable("it takes longer than it should") from None

    def _id_of_ours(self) -> str:
        """A new id whose shard is this node's."""
        usable = self._node.shards.usable
        if not usable:
            raise Unavailable("this node has no part of the runs yet")
        while True:
            saga_id = self._ids()
            if shard_of(saga_id) in usable:
                return saga_id

    # Loops

    async def _hear(self) -> None:
        while True:
            rings = self._bell.rings
            self._node.committer.look()
            await self._bell.wait(60.0, since=rings)

    async def _keep_house(self) -> float:
        below = first_at(self._clock.now() - self._settings.unsettled)
        async with self._database.reading.connect() as connection:
            live = await self._ports.runs.live(connection, below, MAX_LIVE + 1)
        if len(live) > MAX_LIVE:
            below = live[MAX_LIVE]
        self._settled = EndedSagas(below, frozenset(live[:MAX_LIVE]))
        async with self._database.engine.begin() as connection:
            await self._ports.statements.forget_batches(connection, self._settings.remember)
            await self._ports.signals.forget_answers(connection, self._settings.remember)
            await self._silent.forget_dead(connection)
        return _HOUSEKEEPING
