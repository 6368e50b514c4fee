"""What a run sends, as rows of the outbox and as messages for a courier.

Pure. Everything that a run sends goes into the buckets of its own shard, so that the node which
owns the shard is the only one that adds to them and sends from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from orchestrator.machine.transition import Dispatch
from outbox.contract import SagaEnded
from outbox.coordination.leases import BUCKETS_PER_LANE, Lane
from outbox.ids import derive
from outbox.relay.verdicts import Pending
from outbox.wire.codec import encode
from outbox.wire.envelope import Envelope, headers_json

SOURCE = "orchestrator"
"""The name by which participants know who sends, and where answers go."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message to be sent. `repeats` tells that it was sent before."""

    destination: str
    bucket: int
    envelope: Envelope
    repeats: bool = False

    def pending(self, seq: int) -> Pending:
        """The same once its row has that number."""
        return Pending(seq, self.bucket, self.envelope)

    def row(self) -> dict[str, Any]:
        """Its row, but for times and ids, which the store writes in its database's way."""
        envelope = self.envelope
        return {
            "id": envelope.id,
            "destination": self.destination,
            "bucket": self.bucket,
            "aggregatetype": envelope.type.partition(".")[0],
            "aggregateid": envelope.key,
            "type": envelope.type,
            "payload": envelope.data.decode(),
            "headers": headers_json(envelope),
            "occurred_at": envelope.time,
        }


def bucket(lane: Lane, shard: int) -> int:
    """The bucket of a shard in that lane."""
    return lane * BUCKETS_PER_LANE + shard


@cache
def buckets(shard: int) -> tuple[int, ...]:
    """All buckets of a shard."""
    return tuple(bucket(lane, shard) for lane in Lane)


def command(
    dispatch: Dispatch,
    saga_id: str,
    shard: int,
    now: datetime,
    *,
    number: str | None,
    trace: str,
    repeats: bool,
) -> Letter:
    """A command of the run, in its trace. `number` is the run's."""
    return Letter(
        destination=dispatch.participant,
        bucket=bucket(Lane.URGENT if dispatch.urgent else Lane.NORMAL, shard),
        envelope=Envelope(
            id=dispatch.id,
            source=SOURCE,
            type=dispatch.type,
            key=dispatch.key,
            time=now,
            data=dispatch.data,
            correlation=saga_id,
            trace=trace,
            reply_to=SOURCE,
            undoes=dispatch.undoes,
            expires=dispatch.expires,
            due=dispatch.due,
            run_number=number,
        ),
        repeats=repeats,
    )


def ended(
    saga_id: str,
    status: str,
    originator: str,
    shard: int,
    now: datetime,
    *,
    start_id: str | None,
    trace: str,
) -> Letter:
    """The news of the end of a run, or of a start that came to nothing, for whoever asked.

    It answers the message `start_id`, and its id follows from that: told again, it is the same
    message, and the answer to another start is another one. Where old code has not kept that
    message, the id follows from the run's, as it did then.
    """
    event = SagaEnded(saga_id, status)
    return Letter(
        destination=originator,
        bucket=bucket(Lane.NORMAL, shard),
        envelope=Envelope(
            id=derive(start_id or saga_id, "ended"),
            source=SOURCE,
            type=str(event.message_type),
            key=saga_id,
            time=now,
            data=encode(event),
            correlation=saga_id,
            trace=trace,
            due=now,
        ),
    )
