"""The provider of `examples/travel` in a world of one process, where it calls no webhooks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from outbox.testing.provider import provider


def in_process(path: Path) -> httpx.AsyncClient:
    """A provider in this process, with its state at that path."""
    transport = httpx.ASGITransport(provider(path))
    return httpx.AsyncClient(transport=transport, base_url="http://provider")


def forget(path: Path) -> None:
    """Let that provider forget what it did."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("keys", "voided", "asked", "charges", "refunds", "orders", "webhooks"):
            connection.execute(f"DELETE FROM {table}")
