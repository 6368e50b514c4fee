"""The access that each route asks for, and the accesses that each key opens.

A service's routes stand in one table, `RouteAccess`. An address that is not in it is for
administrators alone, so a forgotten route stays closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum

Opens = frozenset["Access"]
"""The accesses that a caller's key opens."""


class Access(StrEnum):
    """The access that a route asks of its callers, the most open first."""

    HEALTH = "health"
    """Open to all, under any Host: for a supervisor."""
    SIGNED = "signed"
    """A service's signature, which the route itself checks."""
    OPEN = "open"
    """No key, but a Host that is known, and no other site as the author of a change."""
    PUBLIC = "public"
    """The service's own token, unless the operator opened the route without one."""
    VIEWER = "viewer"
    """A key that may look."""
    OPERATOR = "operator"
    """A key that may start and steer runs."""
    ADMIN = "admin"
    """A key that may do what cannot be undone."""


class Role(StrEnum):
    """The role of a person's token; each may do what the one before may."""

    VIEWER = "viewer"
    """Looks at everything, and changes nothing."""
    OPERATOR = "operator"
    """Starts, cancels, retries, skips, resolves, pauses and resumes."""
    ADMIN = "admin"
    """Terminates, and sends dead letters again, too."""

    @property
    def opens(self) -> Opens:
        """The accesses that it has."""
        return _OPENS[self]


_OPENS: Mapping[Role, Opens] = {
    Role.VIEWER: frozenset({Access.VIEWER}),
    Role.OPERATOR: frozenset({Access.VIEWER, Access.OPERATOR}),
    Role.ADMIN: frozenset({Access.VIEWER, Access.OPERATOR, Access.ADMIN}),
}

NOTHING: Opens = frozenset()
"""The accesses without a key, unless the operator opens more."""
EVERYTHING: Opens = frozenset(Access)
"""The accesses of a service that asks for no key."""

_STRICTEST_LAST = tuple(Access)
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")

Table = Mapping[tuple[str, str], Access]
"""Method and path, as the route declares it, with what it asks for."""

COMMON: Table = {
    ("GET", "/livez"): Access.HEALTH,
    ("GET", "/readyz"): Access.HEALTH,
    ("POST", "/messages"): Access.SIGNED,
    ("GET", "/metrics"): Access.VIEWER,
    ("GET", "/docs"): Access.VIEWER,
    ("GET", "/docs/start.js"): Access.VIEWER,
    ("GET", "/docs/{name}"): Access.VIEWER,
    ("GET", "/openapi.json"): Access.VIEWER,
}
"""The routes that every service has."""


class RouteAccess:
    """The table of one service's routes: its own, and those that all services have."""

    def __init__(self, own: Table) -> None:
        self.table: Table = {**COMMON, **own}
        self._patterns = [
            (method, _pattern(path), access)
            for (method, path), access in self.table.items()
            if _PARAMETER.search(path)
        ]
        self._plain = {
            (method, path): _strictest({access, *self._matching(method, path)})
            for (method, path), access in self.table.items()
            if not _PARAMETER.search(path)
        }

    def needed(self, method: str, path: str) -> Access:
        """The access that a request needs: the strictest where several rows fit, ADMIN where none
        does."""
        method = "GET" if method == "HEAD" else method
        plain = self._plain.get((method, path))
        if plain is not None:
            return plain
        return _strictest(set(self._matching(method, path)) or {Access.ADMIN})

    def _matching(self, method: str, path: str) -> Iterator[Access]:
        for known, pattern, access in self._patterns:
            if known == method and pattern.fullmatch(path):
                yield access


def _strictest(found: set[Access]) -> Access:
    return max(found, key=_STRICTEST_LAST.index)


def _pattern(path: str) -> re.Pattern[str]:
    """The pattern of a path whose parameters match one segment each, or with :path all the rest."""
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(path):
        pattern += re.escape(path[end : parameter.start()])
        pattern += ".*" if parameter[2] else "[^/]+"
        end = parameter.end()
    return re.compile(pattern + re.escape(path[end:]), re.DOTALL)
