"""The revisions of one service, oldest first, and the names that a person may use for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from alembic.script import Script, ScriptDirectory

from migrations.errors import MigrationError
from migrations.services import Service

BASE = "base"
HEAD = "head"


class Kind(StrEnum):
    """The kind of a revision, by its effect on code that does not know it yet."""

    EXPAND = "expand"
    """The code of the revision before runs on it: something was added."""
    CONTRACT = "contract"
    """The code of the revision before must not run on it: something was taken away or changed."""


@dataclass(frozen=True)
class Revision:
    """One step of a history. `summary` is the first line of its file."""

    id: str
    kind: Kind
    summary: str


@dataclass(frozen=True)
class History:
    """All revisions of a service. A place in it is a revision's id, or None before the first."""

    service: str
    revisions: Sequence[Revision]

    @property
    def head(self) -> str:
        """The newest revision."""
        return self.revisions[-1].id

    def position(self, place: str | None) -> int:
        """How many revisions have been applied at that place. Raises KeyError for unknown ones."""
        if place is None:
            return 0
        for number, revision in enumerate(self.revisions, start=1):
            if revision.id == place:
                return number
        raise KeyError(place)

    def knows(self, place: str | None) -> bool:
        """Whether `place` is in this history."""
        return place is None or any(it.id == place for it in self.revisions)

    def resolve(self, text: str, current: str | None) -> str | None:
        """The place that `text` names: an id, `head`, `base`, or +N and -N counted from `current`.

        Raises MigrationError where there is no such place.
        """
        if text == BASE:
            return None
        if text == HEAD:
            return self.head
        if self.knows(text):
            return text
        if not re.fullmatch(r"[+-]\d{1,9}", text):
            raise self._unknown(text)
        wanted = self.position(current) + int(text)
        if not 0 <= wanted <= len(self.revisions):
            raise MigrationError(
                f"{self.service} has no revision {text} from {current or BASE}",
                f"the history goes from {BASE} to {self.head}",
                f"sagabox migrate history {self.service}",
            )
        return self.revisions[wanted - 1].id if wanted else None

    def _unknown(self, text: str) -> MigrationError:
        known = ", ".join(it.id for it in self.revisions[-5:])
        return MigrationError(
            f"{self.service} has no revision {text!r}",
            f"a revision is one of {BASE}, {HEAD}, +N, -N or an id such as {known}",
            f"sagabox migrate history {self.service}",
        )


def history_of(service: Service) -> History:
    """Read the service's revision files. Raises MigrationError where they are no single line."""
    scripts = ScriptDirectory(str(service.folder))
    heads = scripts.get_heads()
    newest_first = list(scripts.walk_revisions())
    if len(heads) != 1 or any(it.is_merge_point for it in newest_first):
        raise MigrationError(
            f"the history of {service.name} is not one line",
            f"it ends in {', '.join(heads) or 'nothing'}",
            f"give each file in {service.folder / 'versions'} the one before it as down_revision",
        )
    return History(
        service.name,
        [Revision(it.revision, kind_of(it), it.doc) for it in reversed(newest_first)],
    )


def kind_of(script: Script) -> Kind:
    """The kind that a revision's file declares. Raises MigrationError where it declares none."""
    declared = getattr(script.module, "kind", None)
    if declared not in list(Kind):
        raise MigrationError(
            f"{script.path} does not say what kind of change it is",
            f"kind is {declared!r}, and services decide by it whether they can start",
            "write kind = 'expand' or kind = 'contract' beside its down_revision",
        )
    return Kind(declared)
