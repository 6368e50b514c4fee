"""The long way of a group commit: a transaction of several statements, which reads what is not in
memory, finds out what does not fit, and writes what can be written."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.engine.commits.changes import Changes, Commit
from orchestrator.engine.commits.ground import Ground
from orchestrator.engine.commits.group_commit import GroupCommit
from orchestrator.engine.commits.items import Item, shard_for
from orchestrator.engine.commits.recovery import connected
from outbox.crashpoints import crashpoint


class LongWay:
    """Makes the group commits of one node that take more than one statement."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def commit(self, items: Sequence[Item]) -> Commit:
        """Commit those of the items that are this node's. Raises NotCommitted, StaleRuns, and the
        database's errors, none of which leaves the outcome unknown."""
        batch = self._ground.ids()
        lost: Exception | None = None
        async with connected(self._ground.engine) as connection:
            changes, mine, others = await self._write(connection, batch, items)
            crashpoint("engine: before commit")
            try:
                await connection.commit()
            except Exception as error:
                await connection.invalidate()
                lost = error
        if lost is not None:
            # Only now: the pool may have no second connection for it.
            await self._ground.recovery.find_out(batch, lost)
        return Commit(changes, mine, others, is_told=lost is None)

    async def _write(
        self, connection: AsyncConnection, batch: str, items: Sequence[Item]
    ) -> tuple[Changes, list[Item], list[Item]]:
        """Write all items, but do not commit. Returns which items were written, and which are
        another node's."""
        ground = self._ground
        epochs = ground.shards.leases.epochs
        touched = {shard_for(item) for item in items}
        wanted = {shard: epochs[shard] for shard in sorted(touched) if shard in epochs}
        now, ours = await ground.ports.statements.open(connection, batch, wanted, idle=ground.idle)
        if lost := frozenset(wanted) - ours:
            ground.shards.forget(lost)
        assert now is not None, "a new id was there already"
        ground.time.told(now)
        mine = [item for item in items if shard_for(item) in ours]
        others = [item for item in items if shard_for(item) not in ours]
        changes = ground.changes(connection, now)
        await GroupCommit(changes, ground.cached).work(mine)
        return changes, mine, others
