"""Who wrote a run, and whose shard it was then: taken down by the orchestrator's own database.

A look at a database from outside the services, too.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from tests.support.databases.databases import Database, Kind

SECOND = "second_node"
"""The second orchestrator's own name at the database."""

_TAKE_DOWN = """
CREATE TABLE written (number bigint GENERATED ALWAYS AS IDENTITY, writer text, holder text,
                      shard smallint, saga_id uuid);
CREATE FUNCTION take_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO written (writer, holder, shard, saga_id)
    SELECT current_user, owner, NEW.shard, NEW.id FROM outbox_lease
    WHERE destination = 'sagas:shards' AND bucket = NEW.shard;
    RETURN NULL;
END $$;
CREATE TRIGGER take_down AFTER INSERT OR UPDATE ON saga FOR EACH ROW EXECUTE FUNCTION take_down();
"""


def connect(database: Database) -> psycopg.Connection[Any]:
    """A plain connection to a PostgreSQL database, in autocommit."""
    assert database.server is not None
    return database.server.connect(database.url.rpartition("/")[2])


def rows(database: Database, statement: str) -> Sequence[Any]:
    """What a query gives."""
    if database.kind is Kind.SQLITE:
        with contextlib.closing(sqlite3.connect(database.path, timeout=10)) as connection:
            return connection.execute(statement).fetchall()
    with connect(database) as other:
        return other.execute(statement.encode()).fetchall()


def execute(database: Database, *statements: str) -> None:
    """Change something behind the services' back."""
    if database.kind is Kind.SQLITE:
        with (
            contextlib.closing(sqlite3.connect(database.path, timeout=10)) as connection,
            connection,
        ):
            for statement in statements:
                connection.execute(statement)
        return
    with connect(database) as other:
        for statement in statements:
            other.execute(statement.encode())


def assert_histories_are_whole(database: Database) -> None:
    """Every run has ended once, and its history has neither gaps nor doubles."""
    counted = rows(
        database,
        "SELECT s.id, s.entries, count(*), min(h.number), max(h.number), "
        "sum(CASE WHEN h.happening = 'ended' THEN 1 ELSE 0 END) "
        "FROM saga s JOIN saga_history h ON h.saga_id = s.id GROUP BY s.id, s.entries",
    )
    assert counted
    wrong = [it for it in counted if not (it[1] == it[2] == it[4] and it[3] == it[5] == 1)]
    assert wrong == [], f"id, entries, lines, first, last, ends: {wrong}"


class Writers:
    """Watches an orchestrators' PostgreSQL database from before they start. `pids` has the
    processes of each of the two by the name that it writes under; the test fills it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.pids: dict[str, set[int]] = defaultdict(set)
        with connect(database) as connection:
            connection.execute(_TAKE_DOWN)
            # Roles are the server's: an earlier test may have made it.
            with contextlib.suppress(errors.DuplicateObject):
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(sql.Identifier(SECOND))
                )

    @property
    def second_url(self) -> str:
        """The database's address under the second one's name."""
        return self._database.url.replace("postgres@", f"{SECOND}@")

    def shards_of(self, pid: int) -> frozenset[int]:
        """The shards that a process holds."""
        found = rows(
            self._database,
            "SELECT bucket, split_part(owner, ':', 2) FROM outbox_lease "
            "WHERE destination = 'sagas:shards' AND expires_at > clock_timestamp()",
        )
        return frozenset(bucket for bucket, owner in found if owner == str(pid))

    def is_blocked(self, writer: str) -> bool:
        """Whether a transaction under that name waits for a lock."""
        return bool(
            rows(
                self._database,
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                f"AND usename = '{writer}' AND datname = current_database()",
            )
        )

    @contextlib.contextmanager
    def kept_from_renewing(self, pid: int) -> Iterator[None]:
        """Within the block, a process that is no longer listed among the living cannot get listed
        again, which comes before a look at its leases. It gives up after 5 seconds."""
        found = rows(
            self._database,
            f"SELECT DISTINCT holder FROM written WHERE split_part(holder, ':', 2) = '{pid}'",
        )
        ((owner,),) = found
        with connect(self._database) as connection, connection.transaction(force_rollback=True):
            connection.execute(
                "INSERT INTO outbox_relay (owner, destination, expires_at) "
                "VALUES (%s, 'sagas:shards', clock_timestamp())",
                [owner],
            )
            yield

    def wrote(self, writer: str) -> frozenset[str]:
        """The runs that were written under that name."""
        found = rows(
            self._database, f"SELECT DISTINCT saga_id FROM written WHERE writer='{writer}'"
        )
        return frozenset(str(it) for (it,) in found)

    def assert_only_holders_wrote(self, all_of_them: bool = True) -> None:
        """P7: the writer of a run held its shard in that transaction. Each of the nodes did write,
        unless not `all_of_them` need to have."""
        found = rows(
            self._database,
            "SELECT DISTINCT writer, split_part(holder, ':', 2), shard FROM written",
        )
        writers = {writer for writer, _, _ in found}
        assert writers == set(self.pids) or not all_of_them, f"only {writers} wrote"
        wrong = [it for it in found if int(it[1]) not in self.pids[it[0]]]
        assert wrong == [], f"writer, holder, shard: {wrong}; their processes: {self.pids}"
