"""The messages of a run, as rows of the outbox and as a courier takes them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.machine.transition import Dispatch
from orchestrator.store.sharding import bucket
from outbox.contract import SagaEnded, SagaStuck
from outbox.ids import derive
from outbox.lanes import Lane
from outbox.messages import Event
from outbox.relay.verdicts import Pending
from outbox.replacing import quick
from outbox.wire.codec import encode
from outbox.wire.envelope import Envelope
from outbox.wire.outbox_row import to_row


@quick
@dataclass(frozen=True, slots=True)
class OutgoingMessage:
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
        return to_row(self.envelope, self.destination, self.bucket)


def command(
    dispatch: Dispatch,
    saga_id: str,
    shard: int,
    now: datetime,
    *,
    number: str | None,
    trace: str,
    source: str,
    repeats: bool,
) -> OutgoingMessage:
    """A command of the run, in its trace. `number` is the run's, `source` the orchestrator's name,
    to which the answer goes."""
    return OutgoingMessage(
        destination=dispatch.participant,
        bucket=bucket(Lane.URGENT if dispatch.urgent else Lane.NORMAL, shard),
        envelope=Envelope(
            id=dispatch.id,
            source=source,
            type=dispatch.type,
            key=dispatch.key,
            time=now,
            data=dispatch.data,
            correlation=saga_id,
            trace=trace,
            reply_to=source,
            undoes=dispatch.undoes,
            expires=dispatch.expires,
            due=dispatch.due,
            run_number=number,
        ),
        repeats=repeats,
    )


def ended(
    event: SagaEnded,
    originator: str,
    shard: int,
    now: datetime,
    *,
    start_id: str | None,
    trace: str,
    source: str,
) -> OutgoingMessage:
    """The event SagaEnded of a run, or of a start that began none, for the service that asked.

    It answers the message `start_id`, and its id follows from that: told again, it is the same
    message, and the answer to another start is another one. Where old code has not kept that
    message, the id follows from the run's, as it did then.
    """
    id = derive(start_id or event.instance_id, "ended")
    return _event(
        event, event.instance_id, originator, shard, now, id=id, trace=trace, source=source
    )


def stuck(
    event: SagaStuck,
    destination: str,
    shard: int,
    now: datetime,
    *,
    number: int,
    trace: str,
    source: str,
) -> OutgoingMessage:
    """The event SagaStuck of a run, whose id follows from the `number` of its line in the
    history."""
    id = derive(event.instance_id, "stuck", str(number), destination)
    return _event(
        event, event.instance_id, destination, shard, now, id=id, trace=trace, source=source
    )


def _event(
    event: Event,
    saga_id: str,
    destination: str,
    shard: int,
    now: datetime,
    *,
    id: str,
    trace: str,
    source: str,
) -> OutgoingMessage:
    return OutgoingMessage(
        destination=destination,
        bucket=bucket(Lane.NORMAL, shard),
        envelope=Envelope(
            id=id,
            source=source,
            type=str(event.message_type),
            key=saga_id,
            time=now,
            data=encode(event),
            correlation=saga_id,
            trace=trace,
            due=now,
        ),
    )
