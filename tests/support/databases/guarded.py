"""A PostgreSQL that asks for a password, and one that changes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from tests.support.databases import binaries
from tests.support.databases.postgres import PostgresServer

_RULES = "host all postgres all trust\nhost all all all scram-sha-256\n"


class Rotating:
    """A server whose role `app` has a password that changes, and the source of the present one."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.present = "first"
        self.asked = 0

    @property
    def address(self) -> str:
        return f"postgresql+psycopg://app@127.0.0.1:{self.server.port}/postgres"

    def password(self) -> str:
        self.asked += 1
        return self.present

    async def password_later(self) -> str:
        return self.password()

    def rotate(self, to: str) -> None:
        """Change the password, and end all connections that were made with the old one."""
        with self.server.connect() as connection:
            change = sql.SQL("ALTER ROLE app PASSWORD {}").format(sql.Literal(to))
            connection.execute(change)
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
            )
        self.present = to


@contextmanager
def guarded_server() -> Iterator[PostgresServer]:
    """A server that asks the role `app` for its password, `first` in the beginning."""
    folder = Path(tempfile.mkdtemp(prefix="sagabox-passwords-", dir="/tmp"))
    rules = folder / "hba.conf"
    rules.write_text(_RULES)
    if (user := binaries.ordinary_user()) is not None:
        shutil.chown(folder, user)
    made = PostgresServer(settings={"hba_file": str(rules)})
    with made.connect() as connection:
        connection.execute("CREATE ROLE app LOGIN PASSWORD 'first'")
        connection.execute("GRANT CREATE ON SCHEMA public TO app")
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
