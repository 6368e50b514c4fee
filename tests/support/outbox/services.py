"""Services under test, such as `till`, and requests to the application that one is attached to."""

from __future__ import annotations

import base64
from typing import Any

import httpx
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

import outbox

SECRETS = "one:" + base64.b64encode(b"s" * 32).decode()
NOWHERE = "http://127.0.0.1:1"


def make_service(engine: Any, name: str = "till", **options: Any) -> outbox.Service:
    """A service with signing keys, and without peers unless the options name some."""
    return outbox.Service(name, engine, **{"secrets": SECRETS, "peers": {}, **options})


def make_plain_service(
    engine: Engine, name: str = "till", **options: Any
) -> outbox.Service[sessionmaker[Session]]:
    """The same on a synchronous database."""
    return outbox.Service(name, engine, **{"secrets": SECRETS, "peers": {}, **options})


def client_of(app: Any) -> httpx.AsyncClient:
    """A client whose requests go to that application."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://till")
