"""Every error of this package. Each says what happened, why, and the next step.

OutboxError
├── NotInTransaction          outbox.add() outside a transaction
├── OutboxNotInstalled        outbox.add() on a session without an installed outbox
├── AutocommitRefused         outbox.add(), or an inbox, on an AUTOCOMMIT connection
├── Unrouted                  a message that has no destination
├── MessagesLeftBehind        a commit that would have dropped staged messages
├── SeveralDatabases          a commit in two databases, of which one could fail
├── InvalidMessage            a message or declaration that cannot be put on the wire
│   └── MessageTooLarge       a message above the size limit
├── MalformedEnvelope         bytes that are no CloudEvents envelope of ours
├── UntrustedRequest          a request whose signature is absent, wrong, stale or unknown
├── InvalidKeyring            secrets that cannot sign, or are too short to
├── InvalidHandlers           a wrong registration of a handler
├── InvalidService            a service with a name, an address or a database that cannot be
├── ExtraMissing              something asked for a library that is not installed
├── InvalidWebhook            a webhook with an address, a secret or an option that cannot be
├── UnconfiguredSQLite        a SQLite engine without the settings that keep the promises
├── IsolationRefused          an inbox on sessions that do not see what others committed
├── TransactionLost           the database silently ended the transaction
├── CannotComplete            a pending command that cannot be answered so, or not now
│   ├── NotPendingYet         it is not there (yet)
│   ├── TooLate               it was undone before
│   ├── AlreadyAnswered       it has another answer
│   └── CallUnderWay          the library calls the outside for it just now
├── InvalidInvariant          a declaration of what must hold that cannot be meant so
├── InvalidSelection          an id, cursor or limit that selects nothing
├── NoSuchMessage             a dead letter or held key that is not there
├── BelongsToSaga             a saga's command, which only its saga may send again
├── ForgottenByReceiver       a dead letter whose receiver cannot tell whether it took effect
└── SchemaError               a database that this code must not run on
    ├── FeatureMissing        or whose server lacks what PostgreSQL has
    ├── GrantMissing          or in which its role may not do what it must
    ├── SchemaMissing
    ├── SchemaOlder
    ├── SchemaNewer
    └── TablesOfAnother       tables that belong to a service with another name
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime


class ExplainedError(Exception):
    """An error with its remedy: `problem` says what happened and why, `next_step` what to do about
    it, and `str()` gives both."""

    def __init__(self, problem: str, *, next_step: str) -> None:
        super().__init__(problem, next_step)
        self.problem = problem
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.problem}; {self.next_step}"

    def __reduce__(self) -> tuple[object, ...]:
        # The constructors take other arguments than Exception's own pickling hands them, and an
        # error that cannot be pickled breaks the process pool in which it was raised.
        return _restored, (type(self), self.problem, self.next_step), self.__dict__


def _restored(cls: type[ExplainedError], problem: str, next_step: str) -> ExplainedError:
    error = cls.__new__(cls)
    ExplainedError.__init__(error, problem, next_step=next_step)
    return error


class OutboxError(ExplainedError):
    """Base of all errors of this package."""


class NotInTransaction(OutboxError):
    """`outbox.add()` and `complete` need an open transaction, since what they write commits
    together with it."""

    def __init__(self, opening: str, used_by: str = "outbox.add()") -> None:
        super().__init__(
            f"{used_by} needs an open transaction, and there is none",
            next_step=f'wrap the work in "{opening}"',
        )


class OutboxNotInstalled(OutboxError):
    """The session or connection does not come from the sessions of a Service, nor from a
    sessionmaker or engine given to install()."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"outbox.add() does not know where this {what}'s messages go",
            next_step="take a session from service.sessions, if there is an outbox.Service; else "
            f"give what makes the {what} to outbox.install(..., source=..., routes=...), once at "
            "start",
        )


class AutocommitRefused(OutboxError):
    """On an AUTOCOMMIT connection a message would leave, or count as handled, although the work
    failed."""

    def __init__(self, used_by: str = "outbox.add()") -> None:
        super().__init__(
            f"{used_by} works on an AUTOCOMMIT connection, where a message cannot commit together "
            "with the work",
            next_step="use a transactional isolation level, such as READ COMMITTED",
        )


class Unrouted(OutboxError):
    """The message has no destination; adding it would lose it silently."""

    @classmethod
    def no_peer(cls, name: str, source: str, peers: Collection[str]) -> Unrouted:
        """The error where the service `source` has no peer of that name, only these."""
        known = ", ".join(sorted(peers)) or "none"
        return cls(
            f"{source} has no peer {name}, so that messages to it never leave; it has: {known}",
            next_step=f"give the address of {name} in SAGABOX_PEERS, or among the peers that the "
            "code names; or correct the name",
        )


class InvalidService(OutboxError):
    """A service was declared with a name, an address or a database that cannot be."""


class InvalidWebhook(OutboxError):
    """A webhook was declared with an address, a secret or an option that cannot be."""


class MessagesLeftBehind(OutboxError):
    """A commit was stopped because messages staged in its transaction had not been written."""


class SeveralDatabases(OutboxError):
    """A session with messages, or with the answer to one, wrote to a second database, too. Each
    database commits by itself, so that one of the two could be kept alone. Nothing was committed.
    """

    def __init__(self, own: str, other: str) -> None:
        super().__init__(
            f"the session wrote to {other}, or locked rows there, and its messages are in {own}: "
            "each commits by itself, so that one could be kept without the other",
            next_step="write in one database for each transaction: the engine of those tables must "
            "be that of the library's, too; or use sessionmaker(..., twophase=True)",
        )


class InvalidMessage(OutboxError):
    """The message, or its declaration, cannot be put on the wire or read from it."""


class MessageTooLarge(InvalidMessage):
    """The encoded message is above the limit."""

    def __init__(self, message_type: str, size: int, limit: int) -> None:
        super().__init__(
            f"{message_type} is {size} bytes when encoded, and the limit is {limit}",
            next_step="send a reference to the data instead of the data itself",
        )


class MalformedEnvelope(OutboxError):
    """The bytes are not a CloudEvents 1.0 envelope as this package writes them."""


class UntrustedRequest(OutboxError):
    """The request's signature is absent, wrong, stale, or made with an unknown key."""


class InvalidKeyring(OutboxError):
    """The secrets for signing are malformed, too short, or lack the one that signs."""


class InvalidHandlers(OutboxError):
    """A handler was registered twice, for no message type, or with a wrong signature."""


class ExtraMissing(OutboxError):
    """What was asked for needs libraries that `pip install sagabox` leaves out."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs libraries that are not installed",
            next_step=f"pip install 'sagabox[{extra}]'",
        )


class UnconfiguredSQLite(OutboxError):
    """SQLite's defaults lose writes; the engine must be configured first."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the SQLite engine for {url} runs with SQLite's defaults, under which concurrent "
            "writes are lost",
            next_step="call outbox.sqlite.configure(engine) right after create_engine",
        )


class IsolationRefused(OutboxError):
    """Above READ COMMITTED a transaction looks at the past, where the library must see what others
    have just committed."""

    @classmethod
    def of_inbox(cls, level: str) -> IsolationRefused:
        """The error where the sessions of an inbox have that level."""
        return cls(
            f"the inbox's sessions are {level.upper()}, under which a copy of a message that was "
            "just purged would run again",
            next_step="give the inbox a sessionmaker of its own at READ COMMITTED",
        )

    @classmethod
    def of_engine(cls, level: str) -> IsolationRefused:
        """The error where a relay is given an engine with such execution options."""
        return cls(
            f"the relay's engine has the execution option isolation_level={level!r}, and its "
            "transactions must see what others have just committed",
            next_step="give that level to create_engine(), which the relay passes over, or give "
            "the relay the engine without that option",
        )

    @classmethod
    def of_answer(cls, level: str, used_by: str) -> IsolationRefused:
        """The error where a pending command is answered in such a transaction."""
        return cls(
            f"{used_by} works in a transaction that is {level.upper()}, under which a call to the "
            "outside that has just begun is not seen, so that the answer would count beside it",
            next_step="answer the command in a transaction of its own at READ COMMITTED",
        )


class TransactionLost(OutboxError):
    """The database ended the transaction by itself; nothing of it was kept."""


class CannotComplete(OutboxError):
    """A command that cannot be completed so, or not now. Nothing was written, and the caller's
    transaction can go on."""


class NotPendingYet(CannotComplete):
    """The command is not known here: its handler has not committed yet, or it never came."""

    def __init__(self, id: str) -> None:
        super().__init__(
            f"the command {id} is not pending here: its handler may not have committed yet",
            next_step="try again in a moment; if it stays so, check the id, and that this is the "
            "database of the service that handled the command",
        )


class TooLate(CannotComplete):
    """The command was undone, or is being undone, before its answer came."""

    def __init__(self, id: str, state: str, by: str | None) -> None:
        super().__init__(
            f"the command {id} is {state}, by the command {by}: its answer comes too late",
            next_step="keep your own writes if they are true, and give back what came for it",
        )


class AlreadyAnswered(CannotComplete):
    """The command has another answer already."""

    def __init__(self, id: str, outcome: str) -> None:
        super().__init__(
            f"the command {id} was answered before, with another answer ({outcome})",
            next_step="look which of the two is true; an answer that was given is not taken back",
        )


class CallUnderWay(CannotComplete):
    """The library makes the command's call to the outside just now, and will answer it."""

    def __init__(self, id: str, until: datetime | None) -> None:
        super().__init__(
            f"the command {id} is calling the outside, which may take until {until}",
            next_step="try again after that time, if it is still pending then",
        )


class InvalidInvariant(OutboxError):
    """What a service declares about its data cannot be meant so."""


class InvalidSelection(OutboxError):
    """An id, a cursor or a limit that cannot select anything; nothing was changed."""


class NoSuchMessage(OutboxError):
    """There is no such dead letter, or the key is not held; nothing was changed."""


class BelongsToSaga(OutboxError):
    """A command of a saga is sent again by its saga alone, which may have given it up since."""


class ForgottenByReceiver(OutboxError):
    """The receiver has forgotten what it took at that time, so that it takes the message only as a
    new one; nothing was changed."""


class SchemaError(OutboxError):
    """The database's schema is not one that this code may run on."""


class FeatureMissing(SchemaError):
    """The server speaks PostgreSQL's protocol, and lacks a feature that the library needs."""

    @classmethod
    def of(cls, service: str, feature: str, used_for: str, words: str) -> FeatureMissing:
        """The error where that feature is missing; `words` are the server's."""
        return cls(
            f"the database of {service} lacks the feature {feature!r} ({words}), which is needed: "
            f"{used_for}",
            next_step="use a server that has it; docs/operate/databases.md tells of each product",
        )


class GrantMissing(SchemaError):
    """The role of the service may not do in the database what the library does there."""


class SchemaMissing(SchemaError):
    """The database has no schema yet."""


class SchemaOlder(SchemaError):
    """The database stands on a revision before the one that this code needs."""


class SchemaNewer(SchemaError):
    """The database stands on a later revision, with a change that this code cannot bear."""


class TablesOfAnother(SchemaError):
    """The library's tables in the database belong to a service with another name."""
