"""What is kept of a REST call between its attempts, as JSON beside the row of its command. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Found:
    """An action, as its undo found it. `is_sure` says that it took effect, and `reply` what the
    service answered. Otherwise its last request was over by `until`; `polls` is where the service
    tells of it, and `answers` what differs from the usual meaning of a status there. What is told
    there is not of an earlier request, which is `in_doubt`."""

    is_sure: bool
    reply: Any = None
    until: datetime | None = None
    polls: str | None = None
    in_doubt: bool = False
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """`actions` are those that the command undoes, by id, and `undone` the ids of those that it has
    undone. `polls` is the path where the service tells of the request itself, and `polls_for` the
    action that this is about. The last request that left a doubt was over by `doubt`. For its undo
    the action keeps whether it is `keyed`, and its `answers`."""

    actions: Mapping[str, Found]
    undone: tuple[str, ...] = ()
    polls: str | None = None
    polls_for: str | None = None
    doubt: datetime | None = None
    keyed: bool = False
    answers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, json: Any) -> Kept:
        """From its JSON; from None, nothing is kept."""
        if json is None:
            return cls({})
        actions = {
            id: Found(
                it["is_sure"],
                it["reply"],
                _time(it["until"]),
                it["polls"],
                # An earlier version has not kept these.
                it.get("in_doubt", False),
                it.get("answers", {}),
            )
            for id, it in json["actions"].items()
        }
        return cls(
            actions,
            tuple(json["undone"]),
            json["polls"],
            json["polls_for"],
            _time(json["doubt"]),
            json.get("keyed", False),
            json.get("answers", {}),
        )

    def json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "actions": {
                id: {
                    "is_sure": it.is_sure,
                    "reply": it.reply,
                    "until": None if it.until is None else it.until.isoformat(),
                    "polls": it.polls,
                    "in_doubt": it.in_doubt,
                    "answers": dict(it.answers),
                }
                for id, it in self.actions.items()
            },
            "undone": list(self.undone),
            "polls": self.polls,
            "polls_for": self.polls_for,
            "doubt": None if self.doubt is None else self.doubt.isoformat(),
            "keyed": self.keyed,
            "answers": dict(self.answers),
        }

    def with_undone(self, id: str) -> Kept:
        """After that action was undone."""
        return replace(self, undone=(*self.undone, id), polls=None, polls_for=None)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
