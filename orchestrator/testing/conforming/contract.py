"""The trial commands, which a participant offers while `sagabox conform` tries it.

A participant keeps entries: an account, an amount, and the id of the command that made the entry.
docs/reference/wire.md has the same for other languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from outbox.messages import Command


@dataclass(frozen=True)
class Added:
    """The value of an entry that was made: the sum of its account's entries, with it."""

    balance: int


@dataclass(frozen=True)
class Entries:
    """What an account has: the sum of its entries, and the commands that made them, in order."""

    balance: int
    commands: list[str]


@dataclass(frozen=True)
class Add(Command[Added], type="conform.add.v1", key="account"):
    """Make an entry."""

    account: str
    amount: int


@dataclass(frozen=True)
class Remove(Command[None], type="conform.remove.v1", key="account"):
    """The undo of every other command: delete the entries of the actions that are in effect."""

    account: str


@dataclass(frozen=True)
class Refuse(Command[Added], type="conform.refuse.v1", key="account"):
    """Make an entry, and then refuse, with the code `no`: so the entry must not stay."""

    account: str
    amount: int


@dataclass(frozen=True)
class Fail(Command[Added], type="conform.fail.v1", key="account"):
    """Make an entry; then fail, as long as the account `gate` has no entry."""

    account: str
    amount: int
    gate: str


@dataclass(frozen=True)
class Busy(Command[Added], type="conform.busy.v1", key="account"):
    """Make an entry; then be locked, as long as the account `gate` has no entry."""

    account: str
    amount: int
    gate: str


@dataclass(frozen=True)
class Later(Command[Added], type="conform.later.v1", key="account"):
    """Make an entry, and let the answer come later."""

    account: str
    amount: int


@dataclass(frozen=True)
class Complete(Command[None], type="conform.complete.v1", key="account"):
    """Answer the pending `command`: `done` with the balance, or `refused` with the code `no`, and
    without its entry.

    This itself is refused with `not-pending`, `too-late` or `already-answered`, where the command
    is not known, undone, or has another answer.
    """

    account: str
    command: str
    outcome: Literal["done", "refused"]


@dataclass(frozen=True)
class Read(Command[Entries], type="conform.read.v1", key="account"):
    """Tell what the account has."""

    account: str


COMMANDS = (Add, Remove, Refuse, Fail, Busy, Later, Complete, Read)
"""All of them."""
