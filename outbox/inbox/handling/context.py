"""The context of a message, which its handler gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class CallTimes:
    """The times of an attempt of a call to the outside, by the clock of the database: `began_at`,
    when it was stored. Where an earlier attempt `is_in_doubt`, and the last one ended so, it ended
    at `in_doubt_since` at the latest."""

    began_at: datetime
    is_in_doubt: bool
    in_doubt_since: datetime | None


@dataclass(frozen=True, slots=True)
class Context:
    """The context of a message for its handler.

    `attempt` counts the calls for this message from 1, as far as this process remembers. More than
    1 means that an earlier call was rolled back, but not its effects outside of the database.
    `undoes` are the commands that are to be undone now, for a compensation: id -> "ran"; "pending",
    where the answer of the command has not come; or "in-doubt", where its call to the outside ended
    without one, or a person dropped it, so that it may have had its effect, or have it later.
    For a call to the outside, `attempt` counts those that were begun, by whichever process,
    `before` is what its `before` returned, and `times` tells when.
    """

    id: str
    correlation: str | None
    causation: str | None
    attempt: int
    source: str
    trace: str | None
    undoes: Mapping[str, str] = field(default_factory=dict)
    before: Any = None
    times: CallTimes | None = None
