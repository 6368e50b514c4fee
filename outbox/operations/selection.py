"""A selection of messages by filters, as conditions of a statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement

from outbox.errors import InvalidSelection
from outbox.ids import is_id

MAX_AT_ONCE = 1000
"""The most messages without ids that one transaction moves or deletes, and the most ids of a
selection."""
_ANY = "*"


@dataclass(frozen=True)
class Selection:
    """The messages that fit every filter that is given; without any, all of them.

    A `type` that ends with `*` stands for all that begin so. `older_than` and `newer_than` are
    moments (aware): of the burial of a dead letter, else of the making of a message. Raises
    InvalidSelection where a filter can fit nothing.
    """

    destination: str | None = None
    type: str | None = None
    key: str | None = None
    ids: tuple[str, ...] = ()
    older_than: datetime | None = None
    newer_than: datetime | None = None

    def __post_init__(self) -> None:
        if len(self.ids) > MAX_AT_ONCE:
            raise InvalidSelection(
                f"{len(self.ids)} ids were given", next_step=f"give at most {MAX_AT_ONCE}"
            )
        for each in self.ids:
            if not is_id(each):
                raise InvalidSelection(
                    f"{each[:50]!r} is not the id of a message",
                    next_step="give whole ids, as the lists show them",
                )
        for moment in (self.older_than, self.newer_than):
            if moment is not None and moment.tzinfo is None:
                raise InvalidSelection(
                    f"{moment.isoformat()} has no time zone, so it is no moment",
                    next_step="give the time with its zone, such as 2030-01-31T12:00:00Z",
                )
        for text in (self.destination, self.type, self.key):
            if text is not None and "\0" in text:
                raise InvalidSelection(
                    "a filter holds a NUL character, which no message has",
                    next_step="leave the character out",
                )

    @property
    def most_at_once(self) -> int | None:
        """The most messages of one transaction; None with ids, of which all are in one."""
        return None if self.ids else MAX_AT_ONCE

    @property
    def is_everything(self) -> bool:
        """Whether no filter is given."""
        return self == Selection()

    def conditions(
        self,
        *,
        destination: ColumnElement[str],
        type: ColumnElement[str],
        key: ColumnElement[str],
        id: ColumnElement[str],
        moment: ColumnElement[datetime],
    ) -> Sequence[ColumnElement[bool]]:
        """The conditions on these columns."""
        found: list[ColumnElement[bool]] = []
        if self.destination is not None:
            found.append(destination == self.destination)
        if self.type is not None and self.type.endswith(_ANY):
            found.append(type.startswith(self.type.removesuffix(_ANY), autoescape=True))
        elif self.type is not None:
            found.append(type == self.type)
        if self.key is not None:
            found.append(key == self.key)
        if self.ids:
            found.append(id.in_(self.ids))
        if self.older_than is not None:
            found.append(moment < self.older_than)
        if self.newer_than is not None:
            found.append(moment >= self.newer_than)
        return found

    def of(self, table: Any, moment: str) -> Sequence[ColumnElement[bool]]:
        """The conditions on a table that holds whole messages, with that column as the moment."""
        return self.conditions(
            destination=table.c.destination,
            type=table.c.type,
            key=table.c.aggregateid,
            id=table.c.id,
            moment=table.c[moment],
        )
