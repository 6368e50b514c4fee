"""What the library needs of a PostgreSQL server, and whether the one at the other end has it.

Many products speak PostgreSQL's protocol and lack a part of what PostgreSQL does. Some refuse the
statement, and some take it and do nothing. So each feature is tried at the start, by a statement
that changes nothing, and that would show both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.address.poolers import BY_TRANSACTION, has_no_transactions
from outbox.database.engines import seeing_all
from outbox.database.table_set import in_sql
from outbox.database.troubles import Trouble, trouble_in_statement, words_of
from outbox.errors import FeatureMissing
from outbox.tables import Tables

log = logging.getLogger("outbox.database")

OLDEST = 14
"""The oldest major version of PostgreSQL that is supported."""

_SPACE = 1_935_763_041  # no lock of the library's own
_NOT_ALLOWED = "42501"


@dataclass(frozen=True)
class Feature:
    """One feature: its name, the use that the library has for it, and the statement that tries it.

    The statement answers true where the feature is there, or nothing. `{lease}` and `{outbox}` in
    it are tables of the library: it is left out where they are not there. Without one that
    `is_needed` the service does not start.
    """

    name: str
    used_for: str
    probe: str
    is_needed: bool = True


FEATURES: Sequence[Feature] = (
    Feature(
        f"PostgreSQL {OLDEST}",
        "the library's statements are those of this version and later ones",
        f"SELECT CAST(current_setting('server_version_num') AS integer) >= {OLDEST}0000",
    ),
    Feature(
        "a server that takes writes",
        "each message and each answer is a row",
        "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'",
    ),
    Feature(
        "READ COMMITTED",
        "a second statement must see what others committed after the first",
        "SELECT current_setting('transaction_isolation') = 'read committed'",
    ),
    Feature(
        "transaction ids",
        "the relay finds the oldest transaction that may still add messages",
        "SELECT pg_snapshot_xmin(pg_current_snapshot()) <= pg_current_xact_id()",
    ),
    Feature(
        "advisory locks",
        "messages with one key leave in the order of their commits",
        # The lock is taken by the first part, and seen by the second.
        f"""
        WITH taken AS MATERIALIZED (
            SELECT CAST(pg_advisory_xact_lock({_SPACE}, pg_backend_pid()) AS text) AS lock)
        SELECT EXISTS (
            SELECT 1 FROM pg_locks WHERE taken.lock IS NOT NULL AND locktype = 'advisory'
            AND pid = pg_backend_pid() AND CAST(classid AS bigint) = {_SPACE} AND granted)
        FROM taken""",
    ),
    Feature(
        "FOR KEY SHARE",
        "a lease is held against a takeover, and not against its own renewal",
        "SELECT count(*) = 0 FROM (SELECT epoch FROM {lease} WHERE false FOR KEY SHARE) AS none",
    ),
    Feature(
        "FOR NO KEY UPDATE SKIP LOCKED",
        "a process passes over the leases that another one is just taking",
        "SELECT count(*) = 0 FROM (SELECT epoch FROM {lease} WHERE false "
        "FOR NO KEY UPDATE SKIP LOCKED) AS none",
    ),
    Feature(
        "WITH ... DELETE ... RETURNING",
        "one statement checks the fence and writes",
        "WITH gone AS (DELETE FROM {outbox} WHERE false RETURNING seq) "
        "SELECT count(*) = 0 FROM gone",
    ),
    Feature(
        "ON CONFLICT DO NOTHING RETURNING",
        "of two copies of a message one wins",
        "WITH made AS (INSERT INTO {lease} (destination, bucket, epoch, expires_at) "
        "SELECT destination, bucket, epoch, expires_at FROM {lease} WHERE false "
        "ON CONFLICT DO NOTHING RETURNING epoch) SELECT count(*) = 0 FROM made",
    ),
    Feature(
        "LISTEN",
        "a process is woken by the commits of others; without it, it looks every second",
        "LISTEN sagabox_probe",
        is_needed=False,
    ),
)
"""All of them, in the order in which they are tried."""


async def require_features(engine: AsyncEngine, service: str, tables: Tables) -> None:
    """Raises FeatureMissing where the server of this engine lacks what the library needs, and logs
    a warning where it lacks what it can do without. Without effect on SQLite."""
    if engine.dialect.name != "postgresql":
        return
    for missing, words in await _asked(engine, service, tables):
        if missing.is_needed:
            raise FeatureMissing.of(service, missing.name, missing.used_for, words)
        log.warning(
            "the database of %s has no %s (%s): %s",
            service,
            missing.name,
            words,
            missing.used_for,
        )


async def _asked(
    engine: AsyncEngine, service: str, tables: Tables
) -> Sequence[tuple[Feature, str]]:
    try:
        async with seeing_all(engine).connect() as connection:
            return await connection.run_sync(lacking, tables)
    except Exception as error:
        if not has_no_transactions(error):
            raise
        raise FeatureMissing(
            f"the database of {service} lacks the feature 'transactions' (the pooler before it is "
            "in statement mode), which is needed: a message is written in one transaction with the "
            "work",
            next_step=BY_TRANSACTION,
        ) from error


def lacking(connection: Connection, tables: Tables) -> list[tuple[Feature, str]]:
    """The features that the server lacks, each with what it said. Nothing is changed, and the
    transaction is rolled back."""
    found: list[tuple[Feature, str]] = []
    version = ""
    for feature in FEATURES:
        try:
            version = version or str(connection.scalar(text("SELECT version()")))
            if "{" in feature.probe and not _has(connection, tables):
                continue
            answer = connection.execute(text(_filled(feature.probe, tables)))
            if answer.returns_rows and not answer.scalar_one():
                found.append((feature, f"the server is {version:.100}"))
        except DBAPIError as error:
            if trouble_in_statement(error) is not Trouble.OWN:
                raise
            if getattr(error.orig, "sqlstate", None) != _NOT_ALLOWED:
                # What a role may not do is no feature, and told with its GRANT elsewhere.
                found.append((feature, words_of(error)))
        finally:
            connection.rollback()
    return found


def _has(connection: Connection, tables: Tables) -> bool:
    places = [in_sql(tables.outbox_lease), in_sql(tables.outbox)]
    query = text("SELECT to_regclass(:place) IS NOT NULL")
    return all(connection.scalar(query, {"place": place}) for place in places)


def _filled(probe: str, tables: Tables) -> str:
    return probe.format(lease=in_sql(tables.outbox_lease), outbox=in_sql(tables.outbox))
