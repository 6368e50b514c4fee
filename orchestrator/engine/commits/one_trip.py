"""The short way of a group commit: one statement, which is its own transaction.

It is for commits that need not read anything: their runs are in memory, and the database's time is
near enough to what was told last. The statement fails unless the database is as memory has it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.engine.commits.changes import Changes, Commit, MustRead
from orchestrator.engine.commits.ground import Ground
from orchestrator.engine.commits.group_commit import GroupCommit
from orchestrator.engine.commits.items import Answer, Begin, Item, Tell, shard_for
from orchestrator.engine.commits.recovery import connected
from orchestrator.store.commit_statements import DoesNotFit
from orchestrator.store.sharding import SHARDS
from outbox.crashpoints import crashpoint
from outbox.database.engines import by_statement
from outbox.database.troubles import was_refused
from outbox.safe_text import described

log = logging.getLogger(__name__)


class OneTrip:
    """Makes the group commits of one node that one statement can make."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        fits = ground.ports.statements.fit_in_one
        self._engine = by_statement(ground.engine) if fits else None

    async def commit(self, items: Sequence[Item]) -> Commit | None:
        """Commit the items; None where it takes more than one statement, and nothing was written.
        Raises NotCommitted, and the database's refusals."""
        if self._engine is None or not all(map(_may_fit, items)):
            return None
        changes = self._ground.changes(None, self._ground.time.now())
        try:
            gathered = GroupCommit(changes, self._ground.cached)
            await gathered.gather(items, may_end=self._has_all_shards)
            fenced = self._fenced(changes, items)
            return await self._commit(self._engine, fenced, changes, items)
        except MustRead:
            return None
        except DoesNotFit as error:
            log.debug("a group commit is made step by step: %s", described(error))
            return None

    @property
    def _has_all_shards(self) -> bool:
        """Whether no other node can be adding an alias of a run, which it does under the lease of
        the start's shard."""
        return self._ground.shards.leases.epochs.keys() >= set(SHARDS)

    def _fenced(self, changes: Changes, items: Sequence[Item]) -> dict[int, int]:
        """The shards to fence, with their epochs: all of them where a run that may have aliases
        ends. Raises MustRead where one is another node's."""
        touched = SHARDS if changes.writes.alone else sorted({shard_for(it) for it in items})
        epochs = self._ground.shards.leases.epochs
        if not epochs.keys() >= set(touched):
            raise MustRead
        return {shard: epochs[shard] for shard in touched}

    async def _commit(
        self,
        engine: AsyncEngine,
        fenced: dict[int, int],
        changes: Changes,
        items: Sequence[Item],
    ) -> Commit:
        ground = self._ground
        batch = ground.ids()
        lost: Exception | None = None
        async with connected(engine) as connection:
            crashpoint("engine: before commit")
            try:
                now, changes.seqs = await ground.ports.statements.commit_at_once(
                    connection, batch, fenced, changes.writes, changes.now, idle=ground.idle
                )
            except DoesNotFit:
                raise
            except Exception as error:
                if was_refused(error):
                    raise
                await connection.invalidate()
                lost = error
            else:
                ground.time.told(now)
        if lost is not None:
            # Only now: the pool may have no second connection for it.
            await ground.recovery.find_out(batch, lost)
        return Commit(changes, items, is_told=lost is None)


def _may_fit(item: Item) -> bool:
    """Whether an item of this kind may need nothing that only the database knows."""
    match item:
        case Answer():
            return True
        case Begin():
            return not item.is_asked
        case Tell():
            return item.seq is None
        case _:
            return False
