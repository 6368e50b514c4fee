"""The policy by which a caller comes in: pure decisions, first without its key, then with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from outbox.chassis.access.caller import Author, Caller, Shown, is_loopback_name
from outbox.chassis.access.routes import NOTHING, Access, Opens


class Refusal(Enum):
    """Why a request does not come in."""

    UNKNOWN_HOST = "unknown-host"
    """It is addressed to a name that is none of ours: a page may have made its own lead here."""
    CROSS_SITE = "cross-site"
    """Another site's page made a browser send it."""
    NO_CREDENTIALS = "no-credentials"
    """It shows no key, and asks for what is not open without one."""
    WRONG_CREDENTIALS = "wrong-credentials"
    """The key that it shows opens nothing: forged, expired, revoked, ended."""
    FORBIDDEN = "forbidden"
    """Its key is right, and does not open this."""


@dataclass(frozen=True)
class AccessPolicy:
    """The rules of one service: the names that it is known by beside those of this machine, and
    what is open without a key, to those who are on this machine and to everybody.

    `at_home` is empty unless the operator trusts the machine: a connection from loopback says
    nothing about who sent the request, for a proxy there may have passed it on.
    """

    hosts: frozenset[str]
    at_home: Opens = NOTHING
    to_all: Opens = NOTHING


def before_the_key(caller: Caller, needs: Access, policy: AccessPolicy) -> Refusal | None:
    """What forbids the request, whatever key it shows."""
    if needs in (Access.HEALTH, Access.SIGNED):
        return None
    if not _is_known(caller, policy):
        return Refusal.UNKNOWN_HOST
    if caller.author is Author.ANOTHER:
        if caller.changes:
            return Refusal.CROSS_SITE
        # A link may lead here; what a page loads by itself, it must not load with our trust.
        if caller.credential.shown is not Shown.BEARER and not caller.navigates:
            return Refusal.CROSS_SITE
    return None


def asks_for_a_key(needs: Access) -> bool:
    """Whether the route looks at keys at all."""
    return needs not in (Access.HEALTH, Access.SIGNED, Access.OPEN)


def is_ignorable(caller: Caller, needs: Access, policy: AccessPolicy) -> bool:
    """Whether the key that is shown, if it is wrong, counts as none: a cookie, which a browser goes
    on sending by itself, where the same request without one would come in."""
    return caller.credential.shown is Shown.COOKIE and _is_open(caller, needs, policy)


def is_uncounted(caller: Caller, policy: AccessPolicy) -> bool:
    """Whether its caller may send any number of requests: one on this machine, where that one is
    trusted."""
    return caller.is_of_this_machine and policy.at_home != NOTHING


def with_the_key(
    caller: Caller, needs: Access, policy: AccessPolicy, opened: Opens | None
) -> Refusal | None:
    """What forbids the request now that `opened` is known: what its key opens, or None where there
    is no such key."""
    if not asks_for_a_key(needs):
        return None
    if caller.credential.shown is Shown.NOT:
        return None if _is_open(caller, needs, policy) else Refusal.NO_CREDENTIALS
    if opened is None:
        return None if is_ignorable(caller, needs, policy) else Refusal.WRONG_CREDENTIALS
    # A browser sends a cookie by itself, so that it has to say that one of our own pages asks.
    by_itself = caller.credential.shown is Shown.COOKIE and caller.changes
    if by_itself and caller.author is not Author.OURSELVES:
        return Refusal.CROSS_SITE
    return None if needs in opened else Refusal.FORBIDDEN


def _is_open(caller: Caller, needs: Access, policy: AccessPolicy) -> bool:
    return needs in policy.to_all or (caller.is_of_this_machine and needs in policy.at_home)


def _is_known(caller: Caller, policy: AccessPolicy) -> bool:
    host = caller.host
    if host is None:
        return False
    # No name server can make the address itself lead elsewhere.
    return is_loopback_name(host) or host in policy.hosts or host == caller.local
