"""Messages in the transactions of Django's ORM, on PostgreSQL with psycopg 3.

SQLAlchemy is lent the connection that Django has, and inserts the message there and then. When the
transaction begins and ends is Django's business alone: so the message leaves if and only if
`transaction.atomic()` commits, and is gone with a savepoint that is rolled back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection
from sqlalchemy import Connection, NullPool, create_engine

import outbox
from orders_django.service import ROUTES, service


class _Lent:
    """Django's connection, without what would end its transaction, or would outlive the loan."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...
    def add_notice_handler(self, _: Any) -> None: ...


def _lend() -> Any:
    connection.ensure_connection()
    return _Lent(connection.connection)


engine = create_engine(
    "postgresql+psycopg://", creator=_lend, poolclass=NullPool, use_native_hstore=False
)
outbox.install(engine, source=service.name, routes=ROUTES, peers=service.peers)


@contextmanager
def joined() -> Iterator[Connection]:
    """SQLAlchemy in the transaction that Django is in."""
    with engine.begin() as lent:
        yield lent


def add(message: outbox.Message) -> str:
    """`outbox.add` within `transaction.atomic()`. Raises AutocommitRefused outside of it."""
    with joined() as lent:
        return outbox.add(lent, message)
