"""Statements of an orchestrator about its ended sagas, and the header that carries them.

Pure: values to values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from outbox.errors import MalformedEnvelope
from outbox.ids import is_id

SETTLED_HEADER = "Sagabox-Settled"
ORIGIN_HEADER = "ce-sagaboxorigin"
"""The id of the database of which SETTLED_HEADER speaks. It is signed, as all ce-* headers are."""

MAX_LIVE = 100
MAX_TOLD = 500
"""Live sagas that one answer to a question names, at most."""
MAX_REMEMBERED = 10_000
"""Live sagas below its watermark that a participant remembers, at most."""

_HEADER = re.compile(r"(?P<before>[0-9a-f-]{36})(?:;live=(?P<live>[0-9a-f,-]*))?")


@dataclass(frozen=True, slots=True)
class EndedRange:
    """An orchestrator's answer to a question: every saga with a number from `since` to below
    `before` has ended for good, except those in `live`."""

    since: str
    before: str
    live: frozenset[str] = field(default_factory=frozenset)

    def covers(self, saga: str) -> bool:
        """Whether that saga has ended."""
        return self.since <= saga < self.before and saga not in self.live


@dataclass(frozen=True, slots=True)
class EndedSagas:
    """An orchestrator's statement: every saga of its own with a number below `before` has ended for
    good, except those in `live` (running, paused or stuck; at most MAX_LIVE).

    A saga gets its number at its begin; where a command tells none, the saga's id counts as its
    number. So `live` has both, where both are smaller than `before` and they differ.

    A saga that has ended never lives again, so two such statements never contradict each other,
    whichever came first: `join` is all that both say. Ids in `live` that are not smaller than
    `before` say nothing, and are dropped.

    `database` is the id of the database in which the sagas are, where its sender tells it. Only
    statements of one database are to be joined, and what follows from them names none.
    """

    before: str
    live: frozenset[str] = field(default_factory=frozenset)
    database: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "live", frozenset(each for each in self.live if each < self.before)
        )

    def covers(self, saga: str) -> bool:
        """Whether that saga has ended."""
        return saga < self.before and saga not in self.live

    def join(self, other: EndedSagas | None) -> EndedSagas:
        """The statement that covers exactly what at least one of the two covers."""
        if other is None:
            return self
        lower, upper = sorted((self, other), key=lambda each: each.before)
        return EndedSagas(
            upper.before,
            frozenset(saga for saga in upper.live if not lower.covers(saga)),
        )

    def extended(self, found: EndedRange) -> EndedSagas:
        """The statement that covers what this one and `found` cover. It leaves `found` out where
        there is a gap between the two, and stops after MAX_REMEMBERED live sagas."""
        if found.since > self.before:
            return self
        live = {saga for saga in self.live if not found.covers(saga)}
        beyond = sorted(saga for saga in found.live if self.before <= saga < found.before)
        room = max(0, MAX_REMEMBERED - len(live))
        reached = found.before if len(beyond) <= room else beyond[room]
        return EndedSagas(max(self.before, reached), frozenset({*live, *beyond}))

    @property
    def is_cut(self) -> bool:
        """Whether more sagas may live than a header can name, so that `before` stops at them."""
        return len(self.live) >= MAX_LIVE

    def capped(self, before: str) -> EndedSagas:
        """The same statement for sagas with numbers below `before` only."""
        return EndedSagas(min(self.before, before), self.live)

    def to_header(self) -> str:
        """The value of the header SETTLED_HEADER. Raises ValueError above MAX_LIVE live sagas: then
        `before` must be a smaller id."""
        if len(self.live) > MAX_LIVE:
            raise ValueError(f"{len(self.live)} live sagas, and the header takes {MAX_LIVE}")
        return f"{self.before};live={','.join(sorted(self.live))}" if self.live else self.before

    def to_headers(self) -> dict[str, str]:
        """The headers that carry it. Raises ValueError as `to_header`."""
        told = {} if self.database is None else {ORIGIN_HEADER: self.database}
        return {SETTLED_HEADER: self.to_header(), **told}

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> EndedSagas | None:
        """The statement in these headers, whose names are asked for in lower case; None where there
        is none. Raises MalformedEnvelope that says what is wrong."""
        text = headers.get(SETTLED_HEADER.lower())
        if text is None:
            return None
        said, origin = cls.from_header(text), headers.get(ORIGIN_HEADER)
        # A sender that names no database is an older one, or another's.
        return cls(said.before, said.live, origin if is_id(origin) else None)

    @classmethod
    def from_header(cls, text: str) -> EndedSagas:
        """Raises MalformedEnvelope that says what is wrong."""
        match = _HEADER.fullmatch(text.strip())
        live = (match["live"] or "").split(",") if match and match["live"] else []
        if match is None or not all(map(is_id, (match["before"], *live))):
            raise _malformed("is not understood")
        if len(live) > MAX_LIVE:
            raise _malformed(f"names {len(live)} live sagas, and at most {MAX_LIVE} are allowed")
        return cls(match["before"], frozenset(live))


def _malformed(problem: str) -> MalformedEnvelope:
    return MalformedEnvelope(
        f"the header {SETTLED_HEADER} {problem}",
        next_step="send BEFORE or BEFORE;live=ID,ID with the ids of sagas, or leave it out",
    )
