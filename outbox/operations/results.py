"""What the operations did, or would do, in the words of programs.

Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from outbox.wire.attributes import written


@dataclass(frozen=True)
class Changed:
    """The messages that an operation changed, or with `is_dry_run` would change: dead letters,
    messages that held their keys, and scheduled ones. `of_sagas` and `too_old` are those that fit
    and stay; `new_ids` has the new ids by the old ones."""

    is_dry_run: bool
    dead_letters: int = 0
    held_messages: int = 0
    scheduled: int = 0
    of_sagas: int = 0
    too_old: int = 0
    new_ids: Mapping[str, str] = field(default_factory=dict)


def as_json(item: Any) -> dict[str, Any]:
    """A dataclass of this room for programs: its times in RFC 3339."""
    return {
        it.name.removeprefix("is_"): _value(getattr(item, it.name))
        for it in dataclasses.fields(item)
    }


def _value(value: object) -> object:
    match value:
        case datetime():
            return written(value)
        case Mapping():
            return dict(value)
        case Enum():
            return value.value
        case _:
            return value
