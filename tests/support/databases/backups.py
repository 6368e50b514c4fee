"""Copies of a database, to be put in its place later. No connection may be in it meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.databases.databases import Database, Kind
from tests.support.databases.postgres import PostgresServer


class Backup:
    """One copy, in `folder` or on the same server."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._name = database.url.rpartition("/")[2]
        self._file = folder / "backup.sqlite"
        if database.kind is Kind.SQLITE:
            shutil.copyfile(database.path, self._file)
        else:
            self._server.create_database(f"{self._name}_backup", self._name)

    def restore(self) -> None:
        """Put it in the place of the database. Once."""
        database = self._database
        if database.kind is Kind.SQLITE:
            for suffix in ("-wal", "-shm"):
                database.path.with_name(database.path.name + suffix).unlink(missing_ok=True)
            shutil.copyfile(self._file, database.path)
            return
        self._server.drop_database(self._name)
        self._server.create_database(self._name, f"{self._name}_backup")
        self._server.drop_database(f"{self._name}_backup")

    @property
    def _server(self) -> PostgresServer:
        assert self._database.server is not None
        return self._database.server
