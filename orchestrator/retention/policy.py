"""How long what has ended is kept.

Pure: texts to values, and values to values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from orchestrator.errors import InvalidRetention
from orchestrator.machine.instance import Status
from orchestrator.retention.remembering import REMOVED_AFTER

ENDS = (Status.COMPLETED, Status.COMPENSATED, Status.RESOLVED, Status.TERMINATED)
"""The statuses of runs that have ended."""

_DAYS_30 = timedelta(days=30)
_DAYS_90 = timedelta(days=90)
_AGE = re.compile(r"([0-9]{1,6})([dh])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}
_LONGEST = timedelta(days=36_500)
"""The longest age: a longer one may reach before the year 1, which no date tells."""
_FOREVER = "forever"
_OTHERS = {
    "history": "history",
    "dead-letters": "letters",
    "keys": "keys",
    "refused": "refused",
    "ids": "ids",
}
_ON = "on"


@dataclass(frozen=True)
class Policy:
    """The ages at which things are removed; None keeps them for ever.

    `runs` counts from the end of a run, by its status; `of_saga` says it for the runs of one saga,
    by name and status. A run goes with its aliases, and with what is there of its history.
    """

    runs: Mapping[Status, timedelta | None] = field(
        default_factory=lambda: MappingProxyType(dict.fromkeys(ENDS, _DAYS_30))
    )
    of_saga: Mapping[tuple[str, Status], timedelta | None] = field(
        default_factory=lambda: MappingProxyType({})
    )
    history: timedelta | None = None
    """The age of the histories of runs, from the end of the run; None lets them go with the
    runs."""
    letters: timedelta | None = _DAYS_90
    """The age of dead letters, from when they were given up; those of runs that live stay."""
    keys: timedelta | None = _DAYS_30
    """The age of idempotency keys of starts, from the start; those of runs that are there stay."""
    refused: timedelta | None = _DAYS_30
    """The age of starts that were refused, from the refusal."""
    ids: timedelta = _DAYS_30
    """For how long the id of a run that was removed is remembered by itself, from when the id was
    made. An older one that is absent begins no run."""

    def age(self, saga: str, status: Status) -> timedelta | None:
        """The age at which a run of that saga with that status is removed."""
        if (saga, status) in self.of_saga:
            return self.of_saga[saga, status]
        return self.runs.get(status)

    def history_age(self, saga: str, status: Status) -> timedelta | None:
        """The age at which the history of such a run is removed before the run; None where it goes
        with the run."""
        age = self.age(saga, status)
        if self.history is None or (age is not None and age <= self.history):
            return None
        return self.history

    @classmethod
    def parse(cls, text: str) -> Policy | None:
        """The policy that a setting describes; None for an empty one, by which nothing is removed.

        It is "on", one age for all ends such as "30d", or a list such as
        "COMPLETED=7d,book-trip:COMPLETED=90d,dead-letters=forever". Raises InvalidRetention.
        """
        text = text.strip()
        if not text:
            return None
        if text == _ON:
            return cls()
        if "=" not in text:
            return cls(runs=MappingProxyType(dict.fromkeys(ENDS, _age(text, text))))
        policy = cls()
        runs, of_saga = dict(policy.runs), dict[tuple[str, Status], timedelta | None]()
        others: dict[str, timedelta | None] = {}
        seen: set[str] = set()
        for part in text.split(","):
            what, _, age = (it.strip() for it in part.partition("="))
            if what in seen:
                raise InvalidRetention(f"{what!r} has two ages", next_step="leave one of them out")
            seen.add(what)
            if what in _OTHERS:
                others[_OTHERS[what]] = _age(age, part)
                continue
            saga, _, status = what.rpartition(":")
            for end in _ends(status, part):
                if saga:
                    of_saga[saga, end] = _age(age, part)
                else:
                    runs[end] = _age(age, part)
        ids = others.pop("ids", policy.ids)
        if ids is None:
            raise InvalidRetention(
                "ids=forever would let the table of removed runs grow for ever",
                next_step="give an age, such as ids=365d",
            )
        history = others.get("history", policy.history)
        if history is not None and all(
            it is not None and it <= history for it in (*runs.values(), *of_saga.values())
        ):
            raise InvalidRetention(
                "history has no effect: each run goes with its history at that age, or before",
                next_step="give it an age below that of some runs, or those a longer one",
            )
        return cls(
            runs=MappingProxyType(runs),
            of_saga=MappingProxyType(of_saga),
            history=history,
            letters=others.get("letters", policy.letters),
            keys=others.get("keys", policy.keys),
            refused=others.get("refused", policy.refused),
            ids=ids,
        )


def _ends(word: str, part: str) -> tuple[Status, ...]:
    """The statuses that a part of the setting is about."""
    if word == "*":
        return ENDS
    for end in ENDS:
        if end.value == word:
            return (end,)
    if word in {it.value for it in Status}:
        raise InvalidRetention(
            f"{part.strip()!r} is about {word}, and such a run has not ended",
            next_step="a run that has not ended is never removed: name only "
            + ", ".join(it.value for it in ENDS),
        )
    known = ", ".join([*(it.value for it in ENDS), "SAGA:STATUS", "SAGA:*", *_OTHERS])
    raise InvalidRetention(
        f"{part.strip()!r} says nothing that can be removed", next_step=f"name one of {known}"
    )


def _age(text: str, part: str) -> timedelta | None:
    if text == _FOREVER:
        return None
    match = _AGE.fullmatch(text)
    if match is None:
        raise InvalidRetention(
            f"{part.strip()!r} has no age that is understood",
            next_step="write on, 30d, 36h, forever, or a list such as COMPLETED=7d,keys=30d",
        )
    age = int(match[1]) * _UNITS[match[2]]
    if age < REMOVED_AFTER:
        raise InvalidRetention(
            f"{part.strip()!r} is less than a day",
            next_step="give 1d or more: copies of messages may be under way for as long",
        )
    if age > _LONGEST:
        raise InvalidRetention(
            f"{part.strip()[:50]!r} is more than {_LONGEST.days}d", next_step="write forever"
        )
    return age
