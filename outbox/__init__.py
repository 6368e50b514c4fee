"""Reliable messaging for one service, in its own database.

    outbox.install(sessions, source="articles", routes={ArticlePublished: ["comments"]})

    async with sessions.begin() as session:
        session.add(article)
        outbox.add(session, article.publish())

A message leaves if and only if the transaction that added it commits (`add`, `Relay`), and takes
effect once, however often it is delivered (`Handlers`, `Inbox`, `receiver`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox import sqlite
    from outbox.bell import Bell
    from outbox.clock import Clock, SystemClock
    from outbox.crashpoints import Crash, crashpoint
    from outbox.envelope import Envelope
    from outbox.errors import (
        AutocommitRefused,
        BelongsToSaga,
        InvalidHandlers,
        InvalidKeyring,
        InvalidMessage,
        InvalidSelection,
        IsolationRefused,
        MalformedEnvelope,
        MessagesLeftBehind,
        MessageTooLarge,
        NoSuchMessage,
        NotInTransaction,
        OutboxError,
        OutboxNotInstalled,
        SchemaError,
        SchemaMissing,
        SchemaNewer,
        SchemaOlder,
        TransactionLost,
        UnconfiguredSQLite,
        Unrouted,
        UntrustedRequest,
    )
    from outbox.handlers import Context, Handlers
    from outbox.ids import Ids
    from outbox.inbox import Inbox
    from outbox.inbox_limits import InboxLimits, Pace
    from outbox.installation import Installation, Routes, install
    from outbox.leases import Lane
    from outbox.messages import Command, Event, Message, MessageType
    from outbox.outbox import add
    from outbox.receiver import receiver
    from outbox.relay import Relay
    from outbox.relay_settings import RelaySettings
    from outbox.replies import Done, Locked, Ongoing, Outcome, Refused, Reply
    from outbox.retention import Settled
    from outbox.retry import RetryPolicy
    from outbox.settler import ReplySink
    from outbox.signing import Keyring

__all__ = [
    "add",
    "AutocommitRefused",
    "Bell",
    "BelongsToSaga",
    "Clock",
    "Command",
    "Context",
    "Crash",
    "crashpoint",
    "Done",
    "Envelope",
    "Event",
    "Handlers",
    "Ids",
    "Inbox",
    "InboxLimits",
    "install",
    "Installation",
    "InvalidHandlers",
    "InvalidKeyring",
    "InvalidMessage",
    "InvalidSelection",
    "IsolationRefused",
    "Keyring",
    "Lane",
    "Locked",
    "MalformedEnvelope",
    "Message",
    "MessagesLeftBehind",
    "MessageTooLarge",
    "MessageType",
    "NoSuchMessage",
    "NotInTransaction",
    "Ongoing",
    "OutboxError",
    "OutboxNotInstalled",
    "Outcome",
    "Pace",
    "receiver",
    "Refused",
    "Relay",
    "RelaySettings",
    "Reply",
    "ReplySink",
    "RetryPolicy",
    "Routes",
    "SchemaError",
    "SchemaMissing",
    "SchemaNewer",
    "SchemaOlder",
    "Settled",
    "sqlite",
    "SystemClock",
    "TransactionLost",
    "UnconfiguredSQLite",
    "Unrouted",
    "UntrustedRequest",
]

_HOMES = {
    "add": "outbox.outbox",
    "AutocommitRefused": "outbox.errors",
    "Bell": "outbox.bell",
    "BelongsToSaga": "outbox.errors",
    "Clock": "outbox.clock",
    "Command": "outbox.messages",
    "Context": "outbox.handlers",
    "Crash": "outbox.crashpoints",
    "crashpoint": "outbox.crashpoints",
    "Done": "outbox.replies",
    "Envelope": "outbox.envelope",
    "Event": "outbox.messages",
    "Handlers": "outbox.handlers",
    "Ids": "outbox.ids",
    "Inbox": "outbox.inbox",
    "InboxLimits": "outbox.inbox_limits",
    "install": "outbox.installation",
    "Installation": "outbox.installation",
    "InvalidHandlers": "outbox.errors",
    "InvalidKeyring": "outbox.errors",
    "InvalidMessage": "outbox.errors",
    "InvalidSelection": "outbox.errors",
    "IsolationRefused": "outbox.errors",
    "Keyring": "outbox.signing",
    "Lane": "outbox.leases",
    "Locked": "outbox.replies",
    "MalformedEnvelope": "outbox.errors",
    "Message": "outbox.messages",
    "MessagesLeftBehind": "outbox.errors",
    "MessageTooLarge": "outbox.errors",
    "MessageType": "outbox.messages",
    "NoSuchMessage": "outbox.errors",
    "NotInTransaction": "outbox.errors",
    "Ongoing": "outbox.replies",
    "OutboxError": "outbox.errors",
    "OutboxNotInstalled": "outbox.errors",
    "Outcome": "outbox.replies",
    "Pace": "outbox.inbox_limits",
    "receiver": "outbox.receiver",
    "Refused": "outbox.replies",
    "Relay": "outbox.relay",
    "RelaySettings": "outbox.relay_settings",
    "Reply": "outbox.replies",
    "ReplySink": "outbox.settler",
    "RetryPolicy": "outbox.retry",
    "Routes": "outbox.installation",
    "SchemaError": "outbox.errors",
    "SchemaMissing": "outbox.errors",
    "SchemaNewer": "outbox.errors",
    "SchemaOlder": "outbox.errors",
    "Settled": "outbox.retention",
    "sqlite": "outbox.sqlite",
    "SystemClock": "outbox.clock",
    "TransactionLost": "outbox.errors",
    "UnconfiguredSQLite": "outbox.errors",
    "Unrouted": "outbox.errors",
    "UntrustedRequest": "outbox.errors",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES, modules=("sqlite",))
