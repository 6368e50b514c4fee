"""The engine: runs sagas on a database, together with other nodes where that is PostgreSQL.

It puts its parts together (shards, committer, dispatcher) and is what API and messages talk to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator import stored_signals
from orchestrator.committer import Committer, CommitterStats
from orchestrator.definition import Saga
from orchestrator.dispatcher import Dispatcher
from orchestrator.engine_settings import EngineSettings
from orchestrator.errors import DefinitionChanged, Unavailable, UnknownRun
from orchestrator.only_node import OnlyNode
from orchestrator.records import shard_of
from orchestrator.registry import Registry
from orchestrator.remote import ask_owner
from orchestrator.shards import Shards
from orchestrator.signals import Buried, OperatorSignal
from orchestrator.store import SagaStore, StartKey
from orchestrator.watchers import Watchers
from orchestrator.work import Answer, Begin, Handed, Started, Tell
from outbox.bell import Bell
from outbox.clock import Clock
from outbox.deliveries import Pending
from outbox.envelope import Envelope
from outbox.ids import first_at, is_id
from outbox.loops import DATABASE_TROUBLE, repeat
from outbox.replies import Reply
from outbox.retention import MAX_LIVE, Settled
from outbox.transports.base import Transport
from outbox.web.database import Database

log = logging.getLogger(__name__)

_HOUSEKEEPING = 5.0


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a client calls its start by, and 32 bytes that tell what it asked for."""

    text: str
    fingerprint: bytes


class Engine:
    """One node. `run` keeps it going; `start` and `signal` return after the commit.

    `bell` rings when a message has left something in the database; `owner` names this node and
    must differ between nodes.
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
    ) -> None:
        self.registry = registry
        self.watchers = Watchers()
        self._database = database
        self._clock = clock
        self._ids = ids
        self._bell = bell
        self._settings = settings
        postgres = database.engine.dialect.name == "postgresql"
        self._store = SagaStore(registry, postgres=postgres, now=clock.now)
        self._shards = Shards(
            database.engine,
            owner=owner,
            clock=clock,
            settings=settings.relay,
            changed=self._shards_changed,
        )
        self._dispatcher = Dispatcher(
            database.engine,
            transports,
            settlement=self,
            owner=owner,
            clock=clock,
            settings=settings,
        )
        self._committer = Committer(
            database.engine,
            self._store,
            registry,
            self._shards,
            self._dispatcher,
            self.watchers,
            clock=clock,
            ids=ids,
            settings=settings,
        )
        self._only_node = OnlyNode(database.engine)
        self._settled: Settled | None = None
        self._is_running = False
        self._is_closing = False

    # Its life

    @property
    def is_running(self) -> bool:
        """Whether it works."""
        return self._is_running

    @property
    def shards(self) -> frozenset[int]:
        """The shards that are this node's."""
        return frozenset(self._shards.leases.epochs)

    @property
    def stats(self) -> CommitterStats:
        """What was committed since the start."""
        return self._committer.stats

    async def check_start(self) -> None:
        """Raises DefinitionChanged where a definition has another shape than it had, SecondNode
        where another node has this SQLite database."""
        self._only_node.claim()
        try:
            await self._check_definitions()
        except Exception:
            self._only_node.release()
            raise

    async def _check_definitions(self) -> None:
        async with self._database.engine.begin() as connection:
            changed = await self._store.register(connection)
        if changed:
            names = ", ".join(f"{name} v{version}" for name, version in changed)
            raise DefinitionChanged(
                f"{names} has another shape than runs in this database were started with",
                next_step="give the changed definition a new version, and keep the old one "
                "registered until its runs have ended",
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what is under way and give the shards back.

        Trouble with the database is logged and waited out.
        """
        finish = asyncio.Event()
        self._is_running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(repeat(stop, self._shards.tend_once, "tend the shards"))
                tasks.create_task(repeat(stop, self._keep_house, "keep house"))
                hearing = tasks.create_task(self._hear())
                tasks.create_task(self._committer.run(finish))
                await self._dispatcher.run(stop)
                # What was answered to the last is committed before the shards are given back.
                self._is_closing = True
                finish.set()
                self._committer.look()
                hearing.cancel()
        finally:
            self._is_running = False
            with contextlib.suppress(*DATABASE_TROUBLE):
                await self._shards.leave()
            await self._dispatcher.aclose()
            self._only_node.release()

    # What is asked of it

    async def start(
        self, saga: Saga[Any], state: Any, *, key: IdempotencyKey | None = None
    ) -> Started:
        """Begin a run. Raises InvalidInput, ActiveAlready, KeyReused, Unavailable."""
        saga.accept(state)
        saga_id = self._id_of_ours()
        stored = None
        if key is not None:
            stored = StartKey(saga.name, key.text, key.fingerprint, saga_id)
        done: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        await self._asked(Begin(saga_id, saga, state, key=stored, done=done), done)
        return done.result()

    async def signal(self, instance_id: str, signal: OperatorSignal) -> None:
        """Tell a run what a person wants. Raises UnknownRun, IllegalSignal, InvalidInput,
        Unavailable."""
        if not is_id(instance_id):
            raise UnknownRun(instance_id)
        if shard_of(instance_id) not in self._shards.usable:
            await ask_owner(
                self._database, self._store, instance_id, signal, self._settings.patience
            )
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._asked(Tell(instance_id, signal, done=done), done)

    def settled(self) -> Settled | None:
        """What participants may forget: they are told with each delivery."""
        return self._settled

    async def _asked(self, item: Begin | Tell, done: asyncio.Future[Any]) -> None:
        if self._is_closing or self._committer.is_full:
            raise Unavailable("the orchestrator has no room, or is about to stop")
        self._committer.put([item])
        try:
            async with asyncio.timeout(self._settings.patience):
                await done
        except TimeoutError:
            raise Unavailable("it takes longer than it should") from None

    def _id_of_ours(self) -> str:
        """A new id whose shard is this node's."""
        usable = self._shards.usable
        if not usable:
            raise Unavailable("this node has no part of the runs yet")
        while True:
            saga_id = self._ids()
            if shard_of(saga_id) in usable:
                return saga_id

    # What its couriers tell it

    def take(
        self, destination: str, answers: Sequence[tuple[Pending, Reply]]
    ) -> asyncio.Future[None]:
        """As `outbox.settler.Settlement` says."""
        handed = Handed(len(answers))
        self._committer.put(Answer(destination, it, reply, handed) for it, reply in answers)
        return handed.all_decided

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        """As `outbox.settler.Settlement` says."""
        saga_id = envelope.correlation
        if saga_id is not None:
            kind, payload = stored_signals.dump(Buried(envelope.id, reason))
            shard = shard_of(saga_id)
            await self._store.add_signals(connection, [(saga_id, shard, kind, payload)])

    # Its loops

    def _shards_changed(self, gained: frozenset[int], lost: frozenset[int]) -> None:
        if gained or lost:
            self._committer.shards_changed(gained, lost)
        # Also where only their end has moved.
        self._dispatcher.lease(self._shards.leases)

    async def _hear(self) -> None:
        while True:
            rings = self._bell.rings
            self._committer.look()
            await self._bell.wait(60.0, since=rings)

    async def _keep_house(self) -> float:
        below = first_at(self._clock.now() - self._settings.start_window)
        async with self._database.reading.connect() as connection:
            live = await self._store.live(connection, below, MAX_LIVE + 1)
        if len(live) > MAX_LIVE:
            below = live[MAX_LIVE]
        self._settled = Settled(below, frozenset(live[:MAX_LIVE]))
        async with self._database.engine.begin() as connection:
            await self._store.forget(connection, self._settings.remember)
        return _HOUSEKEEPING
