"""A bank as a service in a process of its own, on a synchronous engine: for tests of that which
runs services.

Each booking that takes effect is told to the peer `press`. A booking whose entry names a pipe
(`pipe:PATH`) waits in its handler until a writer has opened and closed that pipe.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

import outbox
from tests.support.outbox.inboxes import Book, Booked, Noted, ledger

_PIPE = "pipe:"

service = outbox.Service(
    "bank", create_engine(os.environ["BANK_DATABASE_URL"]), routes={Noted: ["press"]}
)


@service.on(Book)
def book(session: Session, command: Book, context: outbox.Context) -> Booked:
    """Enter it in the ledger, and tell the press."""
    if command.entry.startswith(_PIPE):
        Path(command.entry.removeprefix(_PIPE)).read_bytes()
    session.execute(insert(ledger).values(entry=command.entry, by=context.id))
    outbox.add(session, Noted(command.account, command.entry))
    return Booked(1)
