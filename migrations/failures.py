"""A database's own errors, explained to the person at the terminal, with their remedies."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from migrations.errors import MigrationError, Unreachable
from outbox.database.address.poolers import BY_TRANSACTION, has_no_transactions
from outbox.database.troubles import is_of_database
from outbox.errors import OutboxError

_NOTHING_CHANGED = "nothing was changed"
_STARTING = "57P03"  # the server starts, recovers or stops, and takes no connection now


def missing_folder(path: Path) -> MigrationError:
    """The error for a SQLite file in a folder that does not exist."""
    folder = path.parent.absolute()
    return MigrationError(
        f"{path} cannot be opened",
        f"the folder {folder} does not exist",
        shlex.join(["mkdir", "-p", str(folder)]),
    )


def of_connect(error: Exception, url: URL) -> MigrationError | None:
    """The error for a failed connection; None where the failure is not a database's."""
    if url.get_backend_name() == "sqlite":
        return _of_sqlite(error, Path(url.database or ""))
    server = f"{url.host or 'localhost'}:{url.port or 5432}"
    name, user = url.database or "", url.username or ""
    text = _told(error)
    state = _state(error)
    if has_no_transactions(error):
        return MigrationError("the pooler is in statement mode", text, BY_TRANSACTION)
    if state == "3D000" or f'database "{name}" does not exist' in text:
        return MigrationError(
            f"the database {name!r} does not exist",
            f"the PostgreSQL server at {server} answered that it has none of that name",
            shlex.join(["createdb", *_address(url), name]),
        )
    if state in ("28P01", "28000") or "authentication failed" in text:
        return MigrationError(
            f"the PostgreSQL server at {server} refused the login of {user!r}",
            text,
            "put the right user and password into the address: "
            f"postgresql://USER:PASSWORD@{server}/{name}",
        )
    if (state is None and is_of_database(error)) or state == _STARTING:
        return Unreachable(
            f"the PostgreSQL server at {server} cannot be reached",
            text or f"no answer ({type(error).__name__})",
            f"start the server, or correct the address; {shlex.join(['pg_isready', *_host(url)])} "
            "tells whether it answers",
        )
    return _other(error, "the connection failed")


def of_statement(error: Exception, url: URL) -> MigrationError | None:
    """The error for failed work on a connection; None where the failure is not a database's."""
    if url.get_backend_name() == "sqlite":
        return _of_sqlite(error, Path(url.database or ""))
    text = _told(error)
    match _state(error):
        case "55P03":
            return MigrationError(
                f"a table was in use for longer than the lock timeout, so {_NOTHING_CHANGED}",
                f"another transaction holds it ({text})",
                "run the command again when that transaction has ended, or with a longer "
                "--lock-timeout SECONDS",
            )
        case "42501":
            return MigrationError(
                f"the user {url.username!r} may not do this, so {_NOTHING_CHANGED}",
                text,
                "migrate as the owner of the database, or let its owner run: GRANT CREATE, USAGE "
                f'ON SCHEMA public TO "{url.username}"',
            )
        case "25006":
            return MigrationError(
                f"the database {url.database!r} takes no writes, so {_NOTHING_CHANGED}",
                f"{text}; it may be a standby",
                "give the address of the primary server",
            )
        case "42P07" | "42710" | "42701":
            return _in_the_way(text)
        case _:
            return _other(error, f"the database refused a statement, so {_NOTHING_CHANGED}")


def is_lock_timeout(error: DBAPIError) -> bool:
    """Whether PostgreSQL gave up waiting for a lock."""
    return _state(error) == "55P03"


def other_migration(seconds: float) -> MigrationError:
    """The error where another process held the migration lock for the whole time."""
    return MigrationError(
        f"another migration of this database has been running for {seconds:g} s",
        f"one runs at a time, and {_NOTHING_CHANGED} by this one",
        "run the command again when it has ended",
    )


def of_sqlite(error: sqlite3.Error, path: Path) -> MigrationError:
    """The error for SQLite's own failure with the file."""
    return _of_sqlite(error, path) or _unknown(error, "SQLite refused a statement")


def _of_sqlite(error: Exception, path: Path) -> MigrationError | None:
    text = _told(error)
    match _sqlite_code(error):
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return MigrationError(
                f"{path} cannot be written, so {_NOTHING_CHANGED}",
                f"{text}: SQLite writes the file, and two more beside it in its folder",
                f"let this user write in {path.parent.absolute()}, or choose another folder",
            )
        case sqlite3.SQLITE_NOTADB:
            return MigrationError(
                f"{path} is not a SQLite database",
                "its first bytes are something else",
                "give the path of another file",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return MigrationError(
                f"{path} is in use, so {_NOTHING_CHANGED}",
                "another process has been writing to it all the time that this one waited",
                "run the command again when that process has finished or been stopped",
            )
        case sqlite3.SQLITE_FULL:
            return MigrationError(
                f"the disk of {path} is full, so {_NOTHING_CHANGED}",
                text,
                "make room, and run the command again",
            )
        case _ if "already exists" in text:
            return _in_the_way(text)
        case _:
            return _other(error, f"SQLite refused a statement, so {_NOTHING_CHANGED}")


def _in_the_way(text: str) -> MigrationError:
    return MigrationError(
        f"something with the same name is in the database already, so {_NOTHING_CHANGED}",
        f"{text}; it was not made by these migrations",
        "use a database of its own for each service, or remove what is in the way",
    )


def _other(error: Exception, happened: str) -> MigrationError | None:
    if isinstance(error, OutboxError):
        return MigrationError(happened, error.problem, error.next_step)
    if isinstance(error, DBAPIError) or _state(error) is not None:
        return _unknown(error, happened)
    return None


def _unknown(error: Exception, happened: str) -> MigrationError:
    return MigrationError(
        happened, _told(error), "mend what the database names, and run the command again"
    )


def _told(error: Exception) -> str:
    """The database's own first line, without SQLAlchemy's additions."""
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(origin).strip().splitlines()
    text = lines[0] if lines else ""
    # The asyncpg dialect writes the class of its own error in front.
    return text.partition(">: ")[2] if text.startswith("<class ") else text


def _state(error: BaseException) -> str | None:
    """The SQLSTATE, wherever the driver put it."""
    return next((it for it in map(_own_state, _chain(error)) if it is not None), None)


def _own_state(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _sqlite_code(error: BaseException) -> int | None:
    found = next((it for it in _chain(error) if isinstance(it, sqlite3.Error)), None)
    code = getattr(found, "sqlite_errorcode", None)
    # The low byte is the code, the rest says more about it.
    return None if code is None else code & 0xFF


def _chain(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, DBAPIError) and error.orig is not None:
        yield error.orig
    if error.__cause__ is not None:
        yield error.__cause__


def _host(url: URL) -> list[str]:
    host = ["-h", url.host] if url.host else []
    return [*host, "-p", str(url.port or 5432)]


def _address(url: URL) -> list[str]:
    return [*_host(url), "-U", url.username] if url.username else _host(url)
