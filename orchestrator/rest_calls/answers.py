"""The late answers of REST calls: signals to their runs, in the transactions that store them."""

from __future__ import annotations

from sqlalchemy import event, insert
from sqlalchemy.orm import Session

from orchestrator.machine.signals import Replied
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from orchestrator.tables import saga_tables
from outbox.adding.installation import installation_of, tables_of
from outbox.inbox.pending.pended import Pended
from outbox.replies import Reply


def tell_run(session: Session, pended: Pended, reply: Reply) -> None:
    """Let the run of a command hear that answer, if the session's transaction commits. As `Telling`
    of an inbox whose database is the orchestrator's own."""
    assert pended.saga is not None, "only commands of runs are answered"
    installed = installation_of(session)
    kind, payload = signal_rows.dump(Replied(pended.id, reply, installed.source))
    shard = shard_of(pended.saga)
    row = signal_rows.to_row(pended.saga, shard, kind, payload, installed.clock.now())
    session.execute(insert(saga_tables(tables_of(session)).saga_signal), [row])
    if not event.contains(session, "after_commit", _ring):
        event.listen(session, "after_commit", _ring)


def _ring(session: Session) -> None:
    installation_of(session).bell.ring()
