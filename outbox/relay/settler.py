"""The settler: it writes the verdicts of one round, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engines import by_statement
from outbox.relay.hold_store import HoldStore
from outbox.relay.message_store import HeldKey, Store, Unreadable
from outbox.relay.ports import ReplySink, Settlement
from outbox.relay.sender import Round
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import (
    Block,
    Bury,
    Hold,
    Leave,
    Pending,
    Settle,
    Verdict,
    size_of,
)
from outbox.replies import Reply
from outbox.retry import OnExhaustion
from outbox.tracing import fields_of
from outbox.transports.base import Accepted
from outbox.wire.envelope import Envelope

log = logging.getLogger("outbox.relay")


@dataclass(frozen=True)
class Written:
    """The counts of what was written, and `freed`: the buckets of keys that rest no longer."""

    settled: int = 0
    held: int = 0
    buried: int = 0
    freed: frozenset[int] = frozenset()


class Settler:
    """The settler of one destination, which also writes holds and burials."""

    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        holds: HoldStore,
        destination: str,
        settings: RelaySettings,
        sink: ReplySink | None,
        settlement: Settlement | None = None,
    ) -> None:
        self._engine = engine
        # A lone DELETE needs no BEGIN and COMMIT around it where each is a round trip.
        self._deleting = by_statement(engine)
        self._store = store
        self._holds = holds
        self._destination = destination
        self._settings = settings
        self._sink = sink
        self._settlement = settlement
        self._settling: list[tuple[asyncio.Event, int]] = []  # with the bytes handed over

    async def settled(self) -> None:
        """Return when every message handed to the settlement is gone or known to stay."""
        for decided, _ in list(self._settling):
            await decided.wait()

    async def write(
        self, epochs: Mapping[int, int], result: Round, broken: Sequence[Unreadable]
    ) -> Written:
        """Write the verdicts. `epochs` are the leases under which the round began: settled messages
        are deleted in any case, all else is written only where the leases still hold. `broken` is
        given up."""
        settled = [m for m, verdict in result.verdicts if isinstance(verdict, Settle)]
        fenced = [
            (m, verdict)
            for m, verdict in result.verdicts
            if m.held or isinstance(verdict, Hold | Bury | Block)
        ]
        if self._settlement is not None:
            return await self._write_with(self._settlement, epochs, result, settled, fenced, broken)
        seqs = [message.seq for message in settled]
        if not fenced and not broken and not self._owes_answers(settled):
            if settled:
                async with self._deleting.begin() as connection:
                    await self._store.settle(connection, seqs)
            return Written(len(settled))
        written = Written()
        async with self._engine.begin() as connection:
            if fenced or broken:
                written = await self._write_fenced(connection, epochs, fenced, broken)
            if settled:
                await self._store.settle(connection, seqs)
                await self._hand_over(connection, result, settled)
        return replace(written, settled=len(settled))

    async def _write_with(
        self,
        settlement: Settlement,
        epochs: Mapping[int, int],
        result: Round,
        settled: Sequence[Pending],
        fenced: Sequence[tuple[Pending, Verdict]],
        broken: Sequence[Unreadable],
    ) -> Written:
        written = Written()
        if settled:
            answers = [(message, result.answers[message.seq]) for message in settled]
            self._settling = [it for it in self._settling if not it[0].is_set()]
            size = sum(size_of(message) + _size_of(reply) for message, reply in answers)
            self._settling.append((settlement.take(self._destination, answers), size))
            if sum(size for _, size in self._settling) > self._settings.fetch_bytes:
                # Memory is meant for no more of them, so the courier sends nothing before they are
                # decided.
                await self.settled()
        if fenced or broken:
            async with self._engine.begin() as connection:
                written = await self._write_fenced(connection, epochs, fenced, broken)
        return replace(written, settled=len(settled))

    def _owes_answers(self, settled: Sequence[Pending]) -> bool:
        return self._sink is not None and any(m.envelope.reply_to is not None for m in settled)

    async def _hand_over(
        self, connection: AsyncConnection, result: Round, settled: Sequence[Pending]
    ) -> None:
        answers: list[tuple[Envelope, Reply]] = []
        accepted: list[Envelope] = []
        for message in settled:
            if message.envelope.reply_to is None:
                continue
            match result.answers[message.seq]:
                case Reply() as reply:
                    answers.append((message.envelope, reply))
                case Accepted():
                    accepted.append(message.envelope)
                case other:
                    assert_never(other)
        if answers and self._sink is not None:
            await self._sink.replied(connection, answers)
        if accepted and self._sink is not None:
            await self._sink.accepted(connection, accepted)

    async def _write_fenced(
        self,
        connection: AsyncConnection,
        epochs: Mapping[int, int],
        verdicts: Sequence[tuple[Pending, Verdict]],
        broken: Sequence[Unreadable],
    ) -> Written:
        """Write holds, burials and the ends of holds, as far as the leases still hold."""
        destination = self._destination
        await self._store.limit_idleness(connection, self._settings.lease / 4)
        buckets = {m.bucket for m, _ in verdicts} | {row.bucket for row in broken}
        wanted = {bucket: epochs[bucket] for bucket in sorted(buckets)}
        ours = await self._store.fence(connection, destination, wanted)
        buried = 0
        freed: set[tuple[int, str]] = set()
        resting: set[tuple[int, str]] = set()
        for row in broken:
            if row.bucket not in ours:
                continue
            if self._settings.on_exhaustion is OnExhaustion.BLOCK_KEY:
                resting.add((row.bucket, row.key))
                await self._block(connection, HeldKey(row.bucket, row.key, row.id, 1), row.reason)
                continue
            await self._bury_row(connection, row.seq, 1, row.reason)
            freed.add((row.bucket, row.key))
            buried += 1
        for message, verdict in verdicts:
            if message.bucket not in ours:
                continue
            match verdict:
                case Hold() if message.key not in resting:
                    resting.add(message.key)
                    await self._hold(connection, message, verdict)
                case Block() if message.key not in resting:
                    resting.add(message.key)
                    if message.held and not await self._holds.is_there(
                        connection, destination, message
                    ):
                        continue  # its key was freed with it; blocked, it would wait for nothing
                    head = HeldKey(*message.key, message.envelope.id, verdict.attempts)
                    await self._block(connection, head, verdict.error, fields_of(message.envelope))
                case Bury():
                    await self._bury(connection, message, verdict)
                    freed.add(message.key)
                    buried += 1
                case Settle() if message.held:
                    freed.add(message.key)
                case Leave() if message.held:
                    await self._holds.undo_trial(connection, destination, message)
                case Settle() | Leave() | Hold() | Block():
                    # Settled without a hold, or a later message of a key that rests already.
                    pass
        over = sorted(freed - resting)
        if over:
            await self._holds.free(connection, destination, over)
        return Written(0, len(resting), buried, frozenset(bucket for bucket, _ in over))

    async def _hold(self, connection: AsyncConnection, message: Pending, verdict: Hold) -> None:
        log.warning(
            "message %s to %s rests for %.1f s after %d attempts: %s",
            message.envelope.id,
            self._destination,
            verdict.delay,
            verdict.attempts,
            verdict.error,
            extra=fields_of(message.envelope),
        )
        await self._holds.hold(
            connection,
            self._destination,
            HeldKey(*message.key, message.envelope.id, verdict.attempts),
            delay=verdict.delay,
            error=verdict.error,
            park=verdict.delay >= self._settings.park_after,
        )

    async def _block(
        self,
        connection: AsyncConnection,
        head: HeldKey,
        error: str,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        log.error(
            "message %s to %s blocks its key %r until an operator redrives or drops it, after %d "
            "attempts: %s",
            head.head_id,
            self._destination,
            head.key,
            head.attempts,
            error,
            extra=about,
        )
        await self._holds.hold(
            connection, self._destination, head, delay=None, error=error, park=True
        )

    async def _bury(self, connection: AsyncConnection, message: Pending, verdict: Bury) -> None:
        about = fields_of(message.envelope)
        await self._bury_row(connection, message.seq, verdict.attempts, verdict.reason, about)
        told = self._settlement or self._sink
        if message.envelope.reply_to is not None and told is not None:
            await told.buried(connection, message.envelope, verdict.reason)

    async def _bury_row(
        self,
        connection: AsyncConnection,
        seq: int,
        attempts: int,
        reason: str,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        name = self._destination
        log.error("message %d to %s became a dead letter: %s", seq, name, reason, extra=about)
        await self._store.bury(connection, self._destination, seq, attempts=attempts, reason=reason)


def _size_of(answer: Reply | Accepted) -> int:
    return answer.size if isinstance(answer, Reply) else 0
