"""What each kind of request does to the ledger of a fake provider."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from outbox.testing.provider.modes import Kind, Modes

SCHEMA = tuple(
    f"CREATE TABLE IF NOT EXISTS {table}"
    for table in (
        "modes (kind TEXT PRIMARY KEY, modes TEXT NOT NULL)",
        "accounts (id TEXT PRIMARY KEY, most INTEGER NOT NULL)",
        "asked (kind TEXT, key TEXT, times INTEGER NOT NULL, PRIMARY KEY (kind, key))",
        "keys (kind TEXT, key TEXT, request TEXT NOT NULL, status INTEGER NOT NULL,"
        " answer TEXT NOT NULL, first_at REAL NOT NULL, PRIMARY KEY (kind, key))",
        "voided (kind TEXT, key TEXT, PRIMARY KEY (kind, key))",
        "charges (id TEXT PRIMARY KEY, key TEXT NOT NULL, reference TEXT NOT NULL,"
        " account TEXT NOT NULL, amount INTEGER NOT NULL)",
        "refunds (id TEXT PRIMARY KEY, key TEXT NOT NULL, charge TEXT NOT NULL UNIQUE)",
        "orders (id TEXT PRIMARY KEY, key TEXT NOT NULL, reference TEXT NOT NULL,"
        " item TEXT NOT NULL, status TEXT NOT NULL)",
        "webhooks (number INTEGER PRIMARY KEY, url TEXT NOT NULL, body TEXT NOT NULL,"
        " due REAL NOT NULL)",
    )
)


@dataclass(frozen=True)
class Answer:
    """What the caller gets."""

    status: int
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One request, within the transaction that it takes effect in. `now` is in seconds."""

    connection: sqlite3.Connection
    key: str
    body: Mapping[str, Any]
    modes: Modes
    now: float

    def text(self, name: str) -> str:
        """That field of the body. Raises ValueError where it is none."""
        value = self.body.get(name)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name!r} must be a text, and is {value!r}")
        return value

    def cents(self, name: str) -> int:
        """That field of the body. Raises ValueError where it is none."""
        value = self.body.get(name)
        if type(value) is not int or value <= 0:
            raise ValueError(f"{name!r} must be an integer above 0, and is {value!r}")
        return value

    def is_voided(self, kind: Kind) -> bool:
        """Whether nothing of that kind may come under this key any more."""
        return bool(self.all("SELECT 1 FROM voided WHERE kind = ? AND key = ?", kind, self.key))

    def void(self, kind: Kind, key: str) -> Answer:
        """From now on nothing of that kind comes under that key."""
        self.run("INSERT OR IGNORE INTO voided VALUES (?, ?)", kind, key)
        return Answer(200, {"voided": key})

    def new_id(self, table: str) -> str:
        """For a row of that table."""
        ((count,),) = self.all(f"SELECT count(*) FROM {table}")
        return f"{table[:-1]}-{count + 1}"

    def all(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """The rows."""
        return self.connection.execute(statement, values).fetchall()

    def run(self, statement: str, *values: object) -> None:
        """Write."""
        self.connection.execute(statement, values)


def _charge(it: Request) -> Answer:
    account, amount, reference = it.text("account"), it.cents("amount"), it.text("reference")
    if it.is_voided("charges"):
        return _no(409, "voided", "it was refunded before it was charged")
    limits = it.all("SELECT most FROM accounts WHERE id = ?", account)
    if not limits:
        return _no(404, "unknown-account", f"there is no account {account}")
    ((charged,),) = it.all(
        "SELECT coalesce(sum(amount), 0) FROM charges WHERE account = ?"
        " AND id NOT IN (SELECT charge FROM refunds)",
        account,
    )
    if charged + amount > limits[0]["most"]:
        return _no(402, "limit-exceeded", f"the account does not bear {amount} cents")
    id = it.new_id("charges")
    it.run("INSERT INTO charges VALUES (?, ?, ?, ?, ?)", id, it.key, reference, account, amount)
    return Answer(201, {"id": id, "account": account, "amount": amount, "reference": reference})


def _refund(it: Request) -> Answer:
    name = it.text("charge")
    charges = it.all("SELECT id, amount FROM charges WHERE ? IN (id, key) ORDER BY rowid", name)
    if not charges:
        return it.void("charges", name)
    charge = charges[0]
    if it.all("SELECT 1 FROM refunds WHERE charge = ?", charge["id"]):
        return _no(409, "already-refunded", f"{charge['id']} was refunded before")
    id = it.new_id("refunds")
    it.run("INSERT INTO refunds VALUES (?, ?, ?)", id, it.key, charge["id"])
    return Answer(201, {"id": id, "charge": charge["id"], "amount": charge["amount"]})


def _order(it: Request) -> Answer:
    reference, item, url = it.text("reference"), it.text("item"), it.text("webhook")
    if it.is_voided("orders"):
        return _no(409, "voided", "it was cancelled before it was ordered")
    id, status = it.new_id("orders"), "rejected" if it.modes.reject else "confirmed"
    it.run("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", id, it.key, reference, item, status)
    news = [
        {
            **{"order": id, "key": it.key, "reference": reference, "item": item},
            **{"number": number, "status": each},
        }
        for number, each in enumerate(("received", status), 1)
    ]
    if it.modes.webhook_backwards:
        news.reverse()
    due = it.now + it.modes.webhook_after
    for each in news * it.modes.webhook_times:
        it.run("INSERT INTO webhooks (url, body, due) VALUES (?, ?, ?)", url, json.dumps(each), due)
    return Answer(202, {"id": id, "reference": reference, "status": "received"})


def _cancel(it: Request) -> Answer:
    key = it.text("order")
    it.run("UPDATE orders SET status = 'cancelled' WHERE key = ?", key)
    return it.void("orders", key)


def _no(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"code": code, "message": message})


EFFECTS: Mapping[Kind, Callable[[Request], Answer]] = {
    "charges": _charge,
    "refunds": _refund,
    "orders": _order,
    "cancels": _cancel,
}


def told(connection: sqlite3.Connection) -> dict[str, Any]:
    """All charges and orders, and what became of them."""
    times = {(kind, key): count for kind, key, count in connection.execute("SELECT * FROM asked")}
    refunds = connection.execute("SELECT * FROM refunds ORDER BY rowid").fetchall()
    charges = connection.execute("SELECT * FROM charges ORDER BY rowid").fetchall()
    orders = connection.execute("SELECT * FROM orders ORDER BY rowid").fetchall()
    return {
        "charges": [
            {
                **charge,
                "asked": times["charges", charge["key"]],
                "refunds": [
                    {**refund, "asked": times["refunds", refund["key"]]}
                    for refund in refunds
                    if refund["charge"] == charge["id"]
                ],
            }
            for charge in map(dict, charges)
        ],
        "orders": [
            {**order, "asked": times["orders", order["key"]]} for order in map(dict, orders)
        ],
        "asked": [{"kind": kind, "key": key, "times": it} for (kind, key), it in times.items()],
    }
