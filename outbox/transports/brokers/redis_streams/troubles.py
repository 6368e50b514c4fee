"""What the errors of Redis mean to a sender."""

from __future__ import annotations

import ssl

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from outbox.transports.brokers.broker import BrokerAway, BrokerRefused

_AWAY_FOR_NOW = ("BUSY ", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "TRYAGAIN", "UNBLOCKED")


def trouble(error: Exception, name: str, *, sent: bool) -> BrokerAway | BrokerRefused:
    """The error as those above this module know it. `sent` is for one that says nothing of it."""
    match error:
        case AuthenticationError() | AuthorizationError():
            return BrokerRefused(
                f"{name} refuses the credentials: {error}",
                next_step="write those of its ACL into the address, as redis://user:secret@host, "
                "or redis://:secret@host where it has a password alone",
            )
        case NoPermissionError():
            return _lacks_a_right(error, name)
        case ReadOnlyError():
            return is_replica(name)
        case AskError() | ClusterDownError() | ClusterCrossSlotError():
            return is_cluster(name)
        case OutOfMemoryError():
            return BrokerAway(f"{name} is full: {error}", sent=False)
        case BusyLoadingError():
            return BrokerAway(f"{name} is reading its data", sent=False)
        case ResponseError() if str(error).startswith("The user executing the script can't"):
            return _lacks_a_right(error, name)
        case ResponseError() if str(error).startswith(_AWAY_FOR_NOW):
            return BrokerAway(f"{name} takes nothing now: {error}", sent=False)
        case ResponseError():
            return BrokerRefused(
                f"{name} refuses that: {error}",
                next_step="Redis 7.0 or newer is needed, and keys with the prefix of the address "
                "that nothing else uses",
            )
        case _ if isinstance(error.__context__, ssl.SSLCertVerificationError):
            return BrokerRefused(
                f"the certificate of {name} is not trusted: {error}",
                next_step="name the file of its authority with ca= in the address",
            )
        case _:
            return BrokerAway(f"{name} is away: {error}", sent=sent)


def _lacks_a_right(error: Exception, name: str) -> BrokerRefused:
    return BrokerRefused(
        f"{name} does not let this user: {error}",
        next_step="grant what docs/operate/redis.md lists",
    )


def is_cluster(name: str) -> BrokerRefused:
    """What is told of a cluster."""
    return BrokerRefused(
        f"{name} is a Redis cluster, and a batch goes to several streams at once",
        next_step="use a Redis that is no cluster",
    )


def is_replica(name: str) -> BrokerRefused:
    """What is told of a server that follows another one."""
    return BrokerRefused(
        f"{name} is a replica, and forgets what only it was told",
        next_step="let the address lead to the primary",
    )
