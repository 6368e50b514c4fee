"""A service that is made from its settings, on a database that Alembic's migrations made."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from outbox.adding.installation import Routes
from outbox.chassis.settings import ServiceSettings
from outbox.clock import Clock
from outbox.database.opening import Database, open_database
from outbox.errors import SchemaMissing, SchemaOlder
from outbox.schema import require_revision
from outbox.service.service import Service
from outbox.transports.base import Transport


class ConfiguredService(Service[async_sessionmaker[AsyncSession]]):
    """An `outbox.Service` with these settings, on a database of its own.

    `revision` is the database revision that its code needs, and `history` the name of its
    migrations, where that is not its own name; `to_upgrade` says how else they are applied.
    `database` replaces what `database_url` names, and `peers` those that the settings name; the
    rest is as for `outbox.Service`. Raises InvalidSettings, and InvalidService.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        *,
        database_url: str,
        revision: str,
        database: Database | None = None,
        history: str | None = None,
        to_upgrade: str | None = None,
        routes: Routes | None = None,
        peers: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        transports: Mapping[str, Transport] | None = None,
    ) -> None:
        self.settings = settings
        self.database = database or open_database(
            database_url,
            name=f"sagabox-{name}",
            pool_size=settings.pool_size,
            pool_overflow=settings.pool_overflow,
            tables=settings.tables,
            password=settings.database_password(),
        )
        self.history = self._kind = history or name
        """The name of the migrations of its database, which also begins the types of its commands:
        one kind of service may have several names."""
        self._revision = revision
        self._to_upgrade = to_upgrade
        super().__init__(
            name,
            self.database.sessions,
            routes=routes,
            peers=settings.peer_addresses() if peers is None else peers,
            transports=transports,
            secrets=settings.keyring(),
            clock=clock,
            limits=settings.inbox_limits(),
            relay=settings.relay_settings(),
            purge_interval=settings.purge_interval,
            drain_seconds=settings.drain_seconds,
            tables=self.database.tables,
        )
        self.entrance.concurrency = settings.receive_concurrency
        for address in settings.brokers():
            self.entrance.listen_broker(address)
        if (listen := settings.grpc_listen()) is not None:
            self.entrance.listen_grpc(
                listen.port, host=listen.host, certificate=listen.certificate, key=listen.key
            )

    async def check_tables(self) -> None:
        """Raises a SchemaError where this code may not run on the database's revision, or its role
        may not use the tables."""
        try:
            await require_revision(
                self.engine, service=self.history, expected=self._revision, tables=self.tables
            )
        except (SchemaMissing, SchemaOlder) as error:
            error.next_step = self._to_upgrade or error.next_step
            raise
