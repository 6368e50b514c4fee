"""The held messages of a consumer, in memory, with the real verdicts on them; and a worker for each
key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from orchestrator.testing.brokers.witness import Witness
from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.service import Tell
from orchestrator.testing.virtual.timeline import Step, Timeline
from outbox.crashpoints import Crash
from outbox.inbox.batches import order_key
from outbox.replies import DEAD_LETTER, Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.transports.brokers.held.policy import (
    Behind,
    GiveUp,
    Gone,
    HeldPolicy,
    Rest,
    Verdict,
    exhausted,
    judge,
)
from outbox.transports.brokers.held.rows import HeldRow, new_row, read_row
from outbox.wire.envelope import Envelope

_POLICY = HeldPolicy(RetryPolicy(first=0.5, ceiling=8.0, attempts=4))
_TROUBLE = 1.0

Handle = Callable[[Sequence[Envelope]], Awaitable[Sequence[Reply]]]


class VirtualHolding:
    """What a consumer set aside. `handle` is its inbox, and `tell` its way to tell that a command
    was given up."""

    is_strict = False

    def __init__(
        self,
        timeline: Timeline,
        chances: Chances,
        witness: Witness,
        now: Callable[[], datetime],
        handle: Handle,
        tell: Tell,
    ) -> None:
        self._timeline = timeline
        self._chances = chances
        self._witness = witness
        self._now = now
        self._handle = handle
        self._tell = tell
        self._rows: dict[LaneKey, list[dict[str, Any]]] = {}
        self._count = 0
        self._steps: list[Step] = []

    @property
    def left(self) -> int:
        """How many are to be tried again."""
        return sum(map(len, self._rows.values()))

    def close(self) -> None:
        """End all workers."""
        for step in self._steps:
            step.abandon()

    async def held(self, keys: Collection[LaneKey]) -> set[LaneKey]:
        """Which of these keys are held up."""
        return {key for key in keys if key in self._rows}

    async def hold(self, items: Sequence[ToHold]) -> None:
        """Set these aside, all or none."""
        if self._chances.fault(Fault.READER_CRASH):
            raise Crash("before they are held")
        for item in items:
            self._witness.set_aside(item)
            if item.envelope is not None and not item.is_dead:
                self._add(item, order_key(item.envelope))
        if self._chances.fault(Fault.READER_CRASH):
            raise Crash("after they are held")

    def _add(self, item: ToHold, key: LaneKey) -> None:
        if key not in self._rows:
            self._rows[key] = []
            self._later(key, _POLICY.retry.first)
        self._count += 1
        row = new_row(item, "simulated", self._now()) | {"seq": self._count}
        if all(it["fingerprint"] != row["fingerprint"] for it in self._rows[key]):
            self._rows[key].append(row)

    def _later(self, key: LaneKey, seconds: float) -> None:
        async def begin() -> None:
            step = Step(
                self._timeline,
                self._try(key),
                lambda pause: self._done(key, pause),
                lambda error: self._failed(key, error),
                lambda: 0.0,
            )
            self._steps.append(step)
            await step.go_on()

        self._timeline.after(seconds, begin)

    def _done(self, key: LaneKey, pause: float) -> None:
        if key in self._rows:
            self._later(key, pause)

    def _failed(self, key: LaneKey, error: BaseException) -> None:
        if not isinstance(error, Crash | Exception):
            raise error
        self._later(key, _TROUBLE)

    async def _try(self, key: LaneKey) -> float:
        """Try the rows of the key in their order; the seconds until the next trial."""
        rows = list(self._rows[key])
        read = [read_row(SimpleNamespace(**row, read_at=self._now())) for row in rows]
        # The attempt counts, also where it ends the process.
        rows[0]["attempts"] += 1
        pause = 0.0
        for row, before, verdict in zip(rows, read, await self._judged(read), strict=True):
            match verdict:
                case Gone():
                    self._rows[key].remove(row)
                case GiveUp():
                    self._rows[key].remove(row)
                    if verdict.must_tell:
                        self._tell_burial(before, verdict.reason)
                case Rest():
                    row["attempts"] = verdict.attempts
                    pause = verdict.delay
                    break
                case Behind():
                    row["attempts"] = before.attempts
                    break
        if not self._rows[key]:
            del self._rows[key]
            self._witness.freed(key)
        return pause

    async def _judged(self, rows: Sequence[HeldRow]) -> list[Verdict]:
        verdict = exhausted(rows[0], _POLICY)
        if verdict is not None:
            return [verdict, *[Behind()] * (len(rows) - 1)]
        replies = await self._handle([row.envelope() for row in rows])
        return [
            judge(row, reply, _POLICY, self._chances.number(Number.JITTER))
            for row, reply in zip(rows, replies, strict=True)
        ]

    def _tell_burial(self, row: HeldRow, reason: str) -> None:
        self._tell(row.envelope(), Reply(Outcome.REJECTED, code=DEAD_LETTER, reason=reason))
