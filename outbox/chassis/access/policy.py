"""The policy by which a caller comes in: pure decisions, first without its key, then with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from outbox.chassis.access.caller import Author, Caller, Shown, is_loopback_name
from outbox.chassis.access.routes import NOTHING, Access, Opens


class Refusal(Enum):
    """The reason why a request does not come in."""

    UNKNOWN_HOST = "unknown-host"
    """Its Host is not a name of this service: a page may have made its own name lead here."""
    CROSS_SITE = "cross-site"
    """Another site's page made a browser send it."""
    NO_CREDENTIALS = "no-credentials"
    """It shows no key, and the route needs one."""
    WRONG_CREDENTIALS = "wrong-credentials"
    """The key that it shows opens nothing: forged, expired, revoked, ended."""
    FORBIDDEN = "forbidden"
    """Its key is valid, and does not open this."""


@dataclass(frozen=True)
class AccessPolicy:
    """The policy of one service: its host names beside those of this machine, and the accesses that
    are open without a key, to callers on this machine and to all callers.

    `at_home` is empty unless the operator trusts the machine: a connection from loopback does not
    tell who sent the request, for a proxy there may have passed it on.
    """

    hosts: frozenset[str]
    at_home: Opens = NOTHING
    to_all: Opens = NOTHING


def before_the_key(caller: Caller, needs: Access, policy: AccessPolicy) -> Refusal | None:
    """The refusal that the request gets with any key, None where it depends on the key."""
    if needs in (Access.HEALTH, Access.SIGNED):
        return None
    if not _is_known(caller, policy):
        return Refusal.UNKNOWN_HOST
    if caller.author is Author.ANOTHER:
        if caller.changes:
            return Refusal.CROSS_SITE
        # A link may lead here; but what a page loads by itself it must not load by the trust in
        # this machine.
        if caller.credential.shown is not Shown.BEARER and not caller.navigates:
            return Refusal.CROSS_SITE
    return None


def asks_for_a_key(needs: Access) -> bool:
    """Whether the route looks at keys at all."""
    return needs not in (Access.HEALTH, Access.SIGNED, Access.OPEN)


def is_ignorable(caller: Caller, needs: Access, policy: AccessPolicy) -> bool:
    """Whether a wrong cookie may be ignored, which a browser goes on sending by itself: yes if the
    same request would be let in without any key."""
    return caller.credential.shown is Shown.COOKIE and _is_open(caller, needs, policy)


def is_uncounted(caller: Caller, policy: AccessPolicy) -> bool:
    """Whether the caller may send any number of requests: it is on this machine, which is
    trusted."""
    return caller.is_of_this_machine and policy.at_home != NOTHING


def with_the_key(
    caller: Caller, needs: Access, policy: AccessPolicy, opened: Opens | None
) -> Refusal | None:
    """The refusal of the request, if any, now that its key was looked up: `opened` is what the key
    opens, None where there is no such key."""
    if not asks_for_a_key(needs):
        return None
    if caller.credential.shown is Shown.NOT:
        return None if _is_open(caller, needs, policy) else Refusal.NO_CREDENTIALS
    if opened is None:
        return None if is_ignorable(caller, needs, policy) else Refusal.WRONG_CREDENTIALS
    # A browser sends a cookie by itself, so it also has to say that one of our own pages asks.
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
    # No name server can redirect an address itself.
    return is_loopback_name(host) or host in policy.hosts or host == caller.local
