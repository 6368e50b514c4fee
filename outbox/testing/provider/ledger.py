"""The state of a fake provider, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from outbox.testing.provider.effects import EFFECTS, SCHEMA, Answer, Request, told
from outbox.testing.provider.modes import FAULTS, KINDS, Fault, Kind, Modes


@dataclass(frozen=True)
class Turn:
    """What one request has to expect."""

    modes: Modes
    fault: Fault | None


@dataclass(frozen=True)
class Webhook:
    """One call of a URL."""

    number: int
    url: str
    body: str


class Ledger:
    """The file `path`, made where it is not there. Every method is one transaction, on a connection
    of its own, so that nothing is to be closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._transaction() as connection:
            for statement in SCHEMA:
                connection.execute(statement)
            for kind in KINDS:
                connection.execute(
                    "INSERT INTO modes VALUES (?, ?) ON CONFLICT DO NOTHING",
                    (kind, Modes().dumps()),
                )

    def modes(self, kind: Kind) -> Modes:
        """The modes of that kind of request from now on."""
        with self._transaction() as connection:
            return _modes(connection, kind)

    def change_modes(self, kind: Kind, changes: Mapping[str, Any]) -> None:
        """Change these modes. Raises ValueError where one is none."""
        with self._transaction() as connection:
            _set_modes(connection, kind, _modes(connection, kind).changed(changes))

    def open_account(self, account: str, limit: int) -> None:
        """Make the account, or give it another limit."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (account, limit))

    def begin(self, kind: Kind, key: str) -> Turn:
        """Note that this was asked for under that key, and tell how it will fare."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO asked VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                (kind, key),
            )
            modes = _modes(connection, kind)
            fault = next((it for it in FAULTS if getattr(modes, it)), None)
            if fault is not None:
                _set_modes(connection, kind, replace(modes, **{fault: getattr(modes, fault) - 1}))
            return Turn(modes, fault)

    def perform(self, kind: Kind, key: str, body: Mapping[str, Any], now: datetime) -> Answer:
        """Let it take effect; a key that was seen gets the answer that it got. Raises ValueError
        where the body is not as it should be."""
        text = json.dumps(body, sort_keys=True)
        with self._transaction() as connection:
            modes = _modes(connection, kind)
            if modes.keyed and (seen := _seen(connection, kind, key, modes, now)):
                if seen["request"] != text:
                    return Answer(422, {"code": "other-request", "message": "the key is used"})
                return Answer(seen["status"], json.loads(seen["answer"]))
            if modes.refuse:
                _set_modes(connection, kind, replace(modes, refuse=modes.refuse - 1))
                answer = Answer(modes.refuse_status, {"code": "refused", "message": "it says no"})
            else:
                answer = EFFECTS[kind](Request(connection, key, body, modes, now.timestamp()))
                if kind == "orders" and modes.reject:
                    _set_modes(connection, kind, replace(modes, reject=modes.reject - 1))
            connection.execute(
                "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)",
                (kind, key, text, answer.status, json.dumps(answer.body), now.timestamp()),
            )
            return answer

    def told(self) -> dict[str, Any]:
        """All charges and orders, and what became of them."""
        with self._transaction() as connection:
            return told(connection)

    def next_webhook(self, now: datetime) -> Webhook | None:
        """The next that is due."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT number, url, body FROM webhooks WHERE due <= ? ORDER BY due, number",
                (now.timestamp(),),
            ).fetchone()
            return None if row is None else Webhook(**row)

    def webhook_taken(self, webhook: Webhook) -> None:
        """It needs no other call."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM webhooks WHERE number = ?", (webhook.number,))

    def webhook_failed(self, webhook: Webhook, now: datetime, pause: float) -> None:
        """It is called again, `pause` seconds later."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE webhooks SET due = ? WHERE number = ?",
                (now.timestamp() + pause, webhook.number),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            # What was committed outlives the process, if not a loss of power.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")


def _modes(connection: sqlite3.Connection, kind: Kind) -> Modes:
    ((stored,),) = connection.execute("SELECT modes FROM modes WHERE kind = ?", (kind,))
    return Modes(**json.loads(stored))


def _set_modes(connection: sqlite3.Connection, kind: Kind, modes: Modes) -> None:
    connection.execute("UPDATE modes SET modes = ? WHERE kind = ?", (modes.dumps(), kind))


def _seen(
    connection: sqlite3.Connection, kind: Kind, key: str, modes: Modes, now: datetime
) -> sqlite3.Row | None:
    """What was answered under the key, if it is not forgotten."""
    oldest = 0.0
    if modes.forget_keys_after is not None:
        oldest = now.timestamp() - modes.forget_keys_after
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM keys WHERE kind = ? AND key = ? AND first_at >= ?", (kind, key, oldest)
    ).fetchone()
    return row
