"""Results of a call that ask again what happened, or give up asking: for calls that the library
makes itself, by a protocol that it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outbox.replies import Refused
from outbox.wire import strict_json


@dataclass(frozen=True, slots=True)
class Working:
    """The provider works on it: asked again after `retry_after` seconds. `kept` is JSON-ready, and
    is what the next attempt gets as `context.before`; it is stored before that begins. With
    `in_doubt` nothing else tells what became of it."""

    kept: Any
    note: str
    retry_after: float
    in_doubt: bool = False

    def stored(self) -> str:
        """What is kept, as JSON."""
        return strict_json.dumps(self.kept).decode()


@dataclass(frozen=True, slots=True)
class Certain:
    """A refusal that counts also after a doubt: it is known that no earlier attempt took effect."""

    refused: Refused


@dataclass(frozen=True, slots=True)
class Unknowable:
    """It is not known what happened, and no repetition finds it out: an operator must look."""

    reason: str
