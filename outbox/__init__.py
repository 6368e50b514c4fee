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
    from outbox.adding.add import add
    from outbox.adding.installation import Installation, Routes, install
    from outbox.capture.log_reader import LogReader
    from outbox.clock import Clock, SystemClock
    from outbox.coordination.bell import Bell
    from outbox.crashpoints import Crash, crashpoint
    from outbox.database.address.passwords import ask_password
    from outbox.errors import (
        AlreadyAnswered,
        AutocommitRefused,
        BelongsToSaga,
        CallUnderWay,
        CannotComplete,
        FeatureMissing,
        ForgottenByReceiver,
        GrantMissing,
        InvalidHandlers,
        InvalidKeyring,
        InvalidMessage,
        InvalidSelection,
        InvalidService,
        InvalidWebhook,
        IsolationRefused,
        MalformedEnvelope,
        MessagesLeftBehind,
        MessageTooLarge,
        NoSuchMessage,
        NotInTransaction,
        NotPendingYet,
        OutboxError,
        OutboxNotInstalled,
        SchemaError,
        SchemaMissing,
        SchemaNewer,
        SchemaOlder,
        SeveralDatabases,
        TablesOfAnother,
        TooLate,
        TransactionLost,
        UnconfiguredSQLite,
        Unrouted,
        UntrustedRequest,
    )
    from outbox.ids import Ids
    from outbox.inbox.handlers import Context, Handlers
    from outbox.inbox.inbox import Inbox
    from outbox.inbox.limits import InboxLimits
    from outbox.inbox.pending.listing import PendingCommand
    from outbox.integrations.operations import operator_app
    from outbox.lanes import Lane
    from outbox.messages import Command, Event, Message, MessageType, SagaRef
    from outbox.relay.ports import ReplySink
    from outbox.relay.relay import Relay
    from outbox.relay.settings import DestinationSettings, RelaySettings
    from outbox.replies import Done, Locked, Ongoing, Outcome, Pending, Refused, Reply
    from outbox.retry import OnExhaustion, RetryPolicy
    from outbox.runtime import Runtime
    from outbox.service.service import Service
    from outbox.tables import Tables
    from outbox.transports.brokers.held.policy import HeldPolicy
    from outbox.transports.brokers.topics.foreign import ForeignMessage
    from outbox.transports.brokers.topics.topic import Topic
    from outbox.transports.http.receiver import receiver
    from outbox.transports.http.signing import Keyring
    from outbox.transports.webhooks.webhook import Webhook
    from outbox.wire.envelope import Envelope
    from outbox.wire.settled import EndedSagas

__all__ = [
    "add",
    "AlreadyAnswered",
    "ask_password",
    "AutocommitRefused",
    "Bell",
    "BelongsToSaga",
    "CallUnderWay",
    "CannotComplete",
    "Clock",
    "Command",
    "Context",
    "Crash",
    "crashpoint",
    "DestinationSettings",
    "Done",
    "EndedSagas",
    "Envelope",
    "Event",
    "FeatureMissing",
    "ForeignMessage",
    "ForgottenByReceiver",
    "GrantMissing",
    "Handlers",
    "HeldPolicy",
    "Ids",
    "Inbox",
    "InboxLimits",
    "install",
    "Installation",
    "InvalidHandlers",
    "InvalidKeyring",
    "InvalidMessage",
    "InvalidSelection",
    "InvalidService",
    "InvalidWebhook",
    "IsolationRefused",
    "Keyring",
    "Lane",
    "Locked",
    "LogReader",
    "MalformedEnvelope",
    "Message",
    "MessagesLeftBehind",
    "MessageTooLarge",
    "MessageType",
    "NoSuchMessage",
    "NotInTransaction",
    "NotPendingYet",
    "OnExhaustion",
    "Ongoing",
    "operator_app",
    "OutboxError",
    "OutboxNotInstalled",
    "Outcome",
    "Pending",
    "PendingCommand",
    "receiver",
    "Refused",
    "Relay",
    "RelaySettings",
    "Reply",
    "ReplySink",
    "RetryPolicy",
    "Routes",
    "Runtime",
    "SagaRef",
    "SchemaError",
    "SchemaMissing",
    "SchemaNewer",
    "SchemaOlder",
    "Service",
    "SeveralDatabases",
    "sqlite",
    "SystemClock",
    "Tables",
    "TablesOfAnother",
    "TooLate",
    "Topic",
    "TransactionLost",
    "UnconfiguredSQLite",
    "Unrouted",
    "UntrustedRequest",
    "Webhook",
]

_HOMES = {
    "add": "outbox.adding.add",
    "AlreadyAnswered": "outbox.errors",
    "ask_password": "outbox.database.address.passwords",
    "AutocommitRefused": "outbox.errors",
    "Bell": "outbox.coordination.bell",
    "BelongsToSaga": "outbox.errors",
    "CallUnderWay": "outbox.errors",
    "CannotComplete": "outbox.errors",
    "Clock": "outbox.clock",
    "Command": "outbox.messages",
    "Context": "outbox.inbox.handlers",
    "Crash": "outbox.crashpoints",
    "crashpoint": "outbox.crashpoints",
    "DestinationSettings": "outbox.relay.settings",
    "Done": "outbox.replies",
    "EndedSagas": "outbox.wire.settled",
    "Envelope": "outbox.wire.envelope",
    "Event": "outbox.messages",
    "ForeignMessage": "outbox.transports.brokers.topics.foreign",
    "FeatureMissing": "outbox.errors",
    "ForgottenByReceiver": "outbox.errors",
    "GrantMissing": "outbox.errors",
    "Handlers": "outbox.inbox.handlers",
    "HeldPolicy": "outbox.transports.brokers.held.policy",
    "Ids": "outbox.ids",
    "Inbox": "outbox.inbox.inbox",
    "InboxLimits": "outbox.inbox.limits",
    "install": "outbox.adding.installation",
    "Installation": "outbox.adding.installation",
    "InvalidHandlers": "outbox.errors",
    "InvalidKeyring": "outbox.errors",
    "InvalidMessage": "outbox.errors",
    "InvalidSelection": "outbox.errors",
    "InvalidService": "outbox.errors",
    "InvalidWebhook": "outbox.errors",
    "IsolationRefused": "outbox.errors",
    "Keyring": "outbox.transports.http.signing",
    "Lane": "outbox.lanes",
    "Locked": "outbox.replies",
    "LogReader": "outbox.capture.log_reader",
    "MalformedEnvelope": "outbox.errors",
    "Message": "outbox.messages",
    "MessagesLeftBehind": "outbox.errors",
    "MessageTooLarge": "outbox.errors",
    "MessageType": "outbox.messages",
    "NoSuchMessage": "outbox.errors",
    "NotInTransaction": "outbox.errors",
    "NotPendingYet": "outbox.errors",
    "OnExhaustion": "outbox.retry",
    "Ongoing": "outbox.replies",
    "operator_app": "outbox.integrations.operations",
    "OutboxError": "outbox.errors",
    "OutboxNotInstalled": "outbox.errors",
    "Outcome": "outbox.replies",
    "Pending": "outbox.replies",
    "PendingCommand": "outbox.inbox.pending.listing",
    "receiver": "outbox.transports.http.receiver",
    "Refused": "outbox.replies",
    "Relay": "outbox.relay.relay",
    "RelaySettings": "outbox.relay.settings",
    "Reply": "outbox.replies",
    "ReplySink": "outbox.relay.settler",
    "RetryPolicy": "outbox.retry",
    "Routes": "outbox.adding.installation",
    "Runtime": "outbox.runtime",
    "SagaRef": "outbox.messages",
    "SchemaError": "outbox.errors",
    "SchemaMissing": "outbox.errors",
    "SchemaNewer": "outbox.errors",
    "SchemaOlder": "outbox.errors",
    "Service": "outbox.service.service",
    "SeveralDatabases": "outbox.errors",
    "sqlite": "outbox.sqlite",
    "SystemClock": "outbox.clock",
    "Tables": "outbox.tables",
    "TablesOfAnother": "outbox.errors",
    "TooLate": "outbox.errors",
    "Topic": "outbox.transports.brokers.topics.topic",
    "TransactionLost": "outbox.errors",
    "UnconfiguredSQLite": "outbox.errors",
    "Unrouted": "outbox.errors",
    "UntrustedRequest": "outbox.errors",
    "Webhook": "outbox.transports.webhooks.webhook",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES, modules=("sqlite",))
