"""The messages that were added in one transaction, and what savepoints do to them.

A list that grows, and that a rollback to a savepoint cuts back. Its first part is written to the
database, the rest still waits for the commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from outbox.messages import Message

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from outbox.coordination.bell import Bell
    from outbox.tables import Tables

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Staged:
    """One message, encoded: a row for each of its destinations, ready to be inserted."""

    message_class: type[Message]
    data: bytes
    rows: Sequence[Row]
    order: str | None
    """The lane and key within which it keeps its order. None for a scheduled message."""


class Mark(NamedTuple):
    """The number of messages when a savepoint began, and how many of them were written."""

    length: int = 0
    written: int = 0


@dataclass(eq=False)
class Staging:
    """The messages that one transaction of one session has added so far."""

    ordered: bool = True
    bell: Bell | None = None
    tables: Tables | None = None
    engine: Engine | None = None
    """Where the messages go; this and the tables are None before the first of them."""
    is_over: bool = False
    """The session's transaction has ended."""
    holds_an_answer: bool = False
    """The transaction answers a command, in the same database."""
    messages: list[Staged] = field(default_factory=list)
    is_closing: bool = False
    """The commit has begun and the messages were drained: what comes now is inserted at once."""
    announced: object | None = None
    """The savepoint that was innermost when the end of something was announced last."""
    _written: int = 0
    _savepoints: dict[object, Mark] = field(default_factory=dict)

    @property
    def pending(self) -> Sequence[Staged]:
        """The messages that are not in the database yet."""
        return self.messages[self._written :]

    @property
    def has_pending(self) -> bool:
        """Whether some messages are not in the database yet."""
        return self._written < len(self.messages)

    @property
    def must_be_whole(self) -> bool:
        """Whether all that the session writes must be kept together."""
        return self.holds_an_answer or any(message.rows for message in self.messages)

    def wrote(self, count: int) -> None:
        """Note that the first `count` pending messages were inserted."""
        self._written += count

    def mark(self) -> Mark:
        """The mark of the present moment, to which a later rollback cuts back."""
        return Mark(len(self.messages), self._written)

    def cut(self, mark: Mark) -> None:
        """Forget the messages added since; those written since must be written again."""
        del self.messages[mark.length :]
        self._written = min(self._written, mark.written)

    def begin_savepoint(self, savepoint: object, mark: Mark | None = None) -> None:
        """Note that a savepoint of the session begins, or began at `mark`."""
        self._savepoints[savepoint] = self.mark() if mark is None else mark

    def release_savepoint(self, savepoint: object) -> None:
        """Give the savepoint's messages to the savepoint or transaction around it."""
        self._savepoints.pop(savepoint, None)

    def end_savepoint(self, savepoint: object) -> None:
        """End the savepoint; unless it was released, its messages go with it."""
        mark = self._savepoints.pop(savepoint, None)
        if mark is not None:
            self.cut(mark)
