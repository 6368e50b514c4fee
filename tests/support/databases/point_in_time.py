"""A PostgreSQL server that archives its log, and is restored from a base backup to a moment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.databases import binaries as programs
from tests.support.databases.postgres import PostgresServer, Stop
from tests.support.processes.waiting import wait_until

_ARCHIVING: Mapping[str, str | int] = {
    "archive_mode": "on",
    # A file that is there already belongs to another history, and is never overwritten.
    "archive_command": "test ! -f ../archive/%f && cp %p ../archive/%f",
    "max_wal_size": "2GB",
    "min_wal_size": "32MB",
}


class ArchivingServer(PostgresServer):
    """A server whose log is copied to a folder, segment by segment.

    `restored` makes a second server of the base backup and that log, at the same address. A shell
    runs the commands of the runbook as the user of the server, with its programs on the path.
    """

    def __init__(self, binaries: programs.Binaries | None = None) -> None:
        self._current = "data"
        super().__init__(binaries, settings=_ARCHIVING)

    @property
    def variables(self) -> Mapping[str, str]:
        """What the commands of the runbook name."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGDATA": str(self._folder / "restored"),
            "BACKUP": str(self._folder / "base"),
            "ARCHIVE": str(self._folder / "archive"),
        }

    def shell(self, script: str, **variables: str) -> str:
        """Run a block of the runbook; what it printed. Raises AssertionError where it fails."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_"))}
        path = os.pathsep.join((str(self._programs), os.environ["PATH"]))
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env={**environment, "LC_ALL": "C", "PATH": path, **self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            **self._identity,
        )
        assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
        return str(ran.stdout)

    def archive_rest(self, switch: str) -> None:
        """Run the block of the runbook that ends the present segment of the log, and wait until the
        archive has it."""
        with self.connect() as connection:
            # A segment without anything in it is not ended.
            connection.execute("SELECT pg_logical_emit_message(true, 'tests', 'the end')")
            present = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"
            row = connection.execute(present).fetchone()
        assert row is not None
        self.shell(switch)
        segment = self._folder / "archive" / row[0]
        wait_until(segment.exists, 60, what=f"segment {segment.name} is archived")

    def start_restored(self) -> None:
        """Start a second server on the restored folder, at the address of the first one, which has
        ended. Returns when it has replayed the log and takes writes."""
        if self._process is not None:
            self.stop(Stop.IMMEDIATE)
        self._current = "restored"
        self.start()
        wait_until(self._takes_writes, 60, what="the end of the recovery")

    @property
    def _data(self) -> Path:
        return self._folder / self._current

    def _takes_writes(self) -> bool:
        with self.connect() as connection:
            row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        return row is not None and not row[0]

    def _initialise(self, settings: Mapping[str, str | int]) -> None:
        (self._folder / "archive").mkdir()
        if (user := programs.ordinary_user()) is not None:
            shutil.chown(self._folder / "archive", user)
        super()._initialise(settings)
