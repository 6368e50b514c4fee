"""The error of the commands on databases, in one form: what happened, why, what next."""

from __future__ import annotations


class MigrationError(Exception):
    """A command could not do its work, and has changed nothing.

    `next_step` is one line; where a command mends it, it is that command.
    """

    def __init__(self, happened: str, why: str, next_step: str) -> None:
        super().__init__(happened, why, next_step)
        self.happened = happened
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.happened}: {self.why}; {self.next_step}"


class Unreachable(MigrationError):
    """The database's server cannot be reached, or is still starting: it may answer later."""
