"""What the errors of Kafka mean to a sender."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from aiokafka import errors  # type: ignore[import-untyped]  # it ships no types

from outbox.transports.brokers.broker import (
    UNREADABLE,
    BrokerAway,
    BrokerRefused,
    PacketRefused,
    unreadable,
)

Trouble = BrokerAway | BrokerRefused | PacketRefused

FAILURES = (errors.KafkaError, *UNREADABLE)
"""What the library raises of a request that got no answer, or one that cannot be read."""
_MAY_BE_THERE = (
    errors.KafkaStorageError,
    errors.NotEnoughReplicasAfterAppendError,
    errors.NotLeaderForPartitionError,  # it may have appended before it was leader no more
    errors.RequestTimedOutError,
    errors.UnknownTopicOrPartitionError,
)
_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_FORBIDDEN = (
    errors.ClusterAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.TopicAuthorizationFailedError,
)
_WRONG_CREDENTIALS = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.IllegalSaslStateError,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
)


def worst(troubles: Sequence[Trouble], is_any_there: bool) -> Trouble:
    """What is told of a batch: the others of it may be there."""
    refused = next((it for it in troubles if isinstance(it, PacketRefused)), None)
    if refused is not None:
        return refused
    away = next((it for it in troubles if isinstance(it, BrokerAway) and it.sent), None)
    if away is not None or not is_any_there:
        return away or troubles[0]
    return BrokerAway(str(troubles[0]), sent=True)


def trouble(error: BaseException, name: str, *, sent: bool) -> Trouble:
    """The error as those above this module know it. `sent` is for one that says nothing of it."""
    if isinstance(error, _TOO_LARGE):
        return PacketRefused(f"{name} takes no message of that size: {error}")
    if isinstance(error, _MAY_BE_THERE):
        return BrokerAway(f"{name} does not say that all replicas have it: {error}", sent=sent)
    if isinstance(error, _FORBIDDEN):
        return BrokerRefused(
            f"{name} does not let this user: {error}",
            next_step="grant what docs/operate/kafka.md lists",
        )
    if isinstance(error, _WRONG_CREDENTIALS):
        return BrokerRefused(
            f"{name} refuses the credentials: {error}",
            next_step="write them into the address, with sasl= as the listener has it",
        )
    if any(isinstance(it, ssl.SSLCertVerificationError) for it in (error, error.__cause__)):
        return BrokerRefused(
            f"the certificate of {name} is not trusted: {error}",
            next_step="name the file of its authority with ca= in the address",
        )
    if isinstance(error, errors.UnsupportedCodecError):
        return BrokerRefused(
            f"{name} has records that are compressed in a way which cannot be read here: {error}",
            next_step="pip install 'sagabox[kafka]', which brings what lz4, snappy and zstd need",
        )
    if isinstance(error, errors.BrokerResponseError):
        if error.retriable:
            return BrokerAway(f"{name} takes nothing now: {error}", sent=False)
        return BrokerRefused(
            f"{name} refuses that: {error}",
            next_step="look into its log; the topic may be compacted, or of an old format",
        )
    if isinstance(error, UNREADABLE):
        return unreadable(name, error, sent=sent)
    return BrokerAway(f"{name} is away: {str(error) or 'it does not answer'}", sent=sent)
