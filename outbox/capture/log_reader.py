"""`outbox.LogReader`: a destination whose messages are read from PostgreSQL's log.

service = outbox.Service(
    "articles",
    engine,
    peers={"kafka": outbox.LogReader("articles_outbox")},
    routes={Published: ["kafka"]},
)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from outbox.adding.installation import destination
from outbox.errors import InvalidService, OutboxError

SCHEME = "log://"
"""What the text of a log reader begins with, before the name of its slot."""

_LONGEST_NAME = 63
_SLOT = re.compile(rf"[a-z0-9_]{{1,{_LONGEST_NAME}}}")


@dataclass(frozen=True)
class LogReader:
    """A reader of PostgreSQL's log, such as Debezium, that gets a destination's messages without
    being sent them. It gets events alone, each at least once, in the order of the commits.

    `slot` is the name of its logical replication slot, in the database of the service, and
    `publication` that of what it reads by `pgoutput`; without it the slot's name. The row of a
    message is deleted if the publication shows it, once the reader has confirmed the slot beyond
    it, and no earlier than `keep` seconds after it was added. Raises InvalidService where one of
    them cannot be.
    """

    slot: str
    publication: str | None = None
    keep: float = 0.0

    def __post_init__(self) -> None:
        if not _SLOT.fullmatch(self.slot):
            raise InvalidService(
                f"{self.slot!r} is no name of a replication slot",
                next_step="use 1 to 63 small letters, digits and underscores, as PostgreSQL does",
            )
        if self.publication is not None and not 0 < len(self.publication) <= _LONGEST_NAME:
            raise InvalidService(
                f"{self.publication!r} is no name of a publication",
                next_step=f"use a text of 1 to {_LONGEST_NAME} characters, as PostgreSQL does",
            )
        if not 0 <= self.keep < float("inf"):
            raise InvalidService(
                f"keep={self.keep:g} seconds, for the reader of the slot {self.slot}, is no time",
                next_step="choose 0 or more",
            )

    @property
    def shown_by(self) -> str:
        """The name of its publication."""
        return self.slot if self.publication is None else self.publication

    @classmethod
    def parse(cls, text: str) -> LogReader:
        """The reader in a text such as `log://articles_outbox`, whose publication has the name of
        its slot. Raises InvalidService."""
        return cls(text.removeprefix(SCHEME))


def readers_in(text: str) -> tuple[str, dict[str, LogReader]]:
    """The peers in "name=address,..." without the log readers, and these by name. Raises ValueError
    that names the part which is wrong."""
    others: list[str] = []
    found: dict[str, LogReader] = {}
    for part in text.split(","):
        name, _, address = (it.strip() for it in part.partition("="))
        if not address.startswith(SCHEME):
            others.append(part)
            continue
        if name in found:
            raise ValueError(f"{name} has two addresses")
        try:
            found[destination(name)] = LogReader.parse(address)
        except OutboxError as error:
            raise ValueError(f"{name}: {error}") from None
    return ",".join(others), found
