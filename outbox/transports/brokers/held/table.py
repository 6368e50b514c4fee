"""The held table of a service, as its consumers and its operators need it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from outbox.adding.installation import tables_of
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.database.engines import reading
from outbox.replacing import replace
from outbox.retry import OnExhaustion
from outbox.transports.brokers.held.holding import Holding, LaneKey, ToHold
from outbox.transports.brokers.held.policy import HeldPolicy
from outbox.transports.brokers.held.store import HeldStore

Sessions = async_sessionmaker[AsyncSession]


def store_of(sessions: Sessions, consumer: str, clock: Clock) -> HeldStore:
    """The store of that consumer in the tables of these sessions."""
    session = sessions().sync_session
    return HeldStore(
        tables_of(session),
        consumer,
        postgres=session.get_bind().dialect.name == "postgresql",
        now=clock.now,
    )


def reading_of(sessions: Sessions) -> AsyncEngine:
    """The engine of these sessions, for single statements that read."""
    return reading(AsyncEngine(sessions().sync_session.get_bind().engine))


class HeldTable(Holding):
    """What the consumer of that name holds, in the database of these sessions, whose isolation
    level is READ COMMITTED as for an `Inbox`.

    `chance` gives the random part of pauses, in [0, 1). `bell` rings after each commit, so that a
    `HeldWorker` which has it too need not wait until it looks by itself.
    """

    def __init__(
        self,
        sessions: Sessions,
        consumer: str,
        *,
        clock: Clock,
        chance: Callable[[], float],
        policy: HeldPolicy | None = None,
        bell: Bell | None = None,
    ) -> None:
        self._sessions = sessions
        self._store = store_of(sessions, consumer, clock)
        self._reading = reading_of(sessions)
        self._chance = chance
        self._policy = policy or HeldPolicy()
        self._bell = bell or Bell()

    @property
    def is_strict(self) -> bool:
        return self._policy.on_exhaustion is OnExhaustion.BLOCK_KEY

    async def held(self, keys: Collection[LaneKey]) -> set[LaneKey]:
        if not keys:
            return set()
        async with self._reading.connect() as connection:
            return set(await self._store.heads(connection, keys))

    async def hold(self, items: Sequence[ToHold]) -> None:
        if not items:
            return
        if self.is_strict:
            items = [replace(it, blocks=it.is_dead and it.envelope is not None) for it in items]
        pauses = [self._pause(item.attempts) for item in items]
        async with self._sessions.begin() as session:
            await self._store.hold(session, items, pauses)
        self._bell.ring()

    def _pause(self, attempts: int) -> float:
        """Seconds before the next attempt, which is the last one where the policy has no more."""
        retry = self._policy.retry
        pause = retry.delay(max(1, attempts), self._chance())
        return retry.ceiling if pause is None else pause
