"""The checks of a database, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from orchestrator.cli.doctor import clocks, server
from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding
from orchestrator.cli.doctor.later import pending
from orchestrator.cli.doctor.leases import leases
from orchestrator.cli.doctor.names import names
from orchestrator.cli.doctor.pauses import pauses
from orchestrator.cli.doctor.schema import migrations, rights

Check: TypeAlias = Callable[[Asked], Awaitable[list[Finding]]]

OF_SERVER: tuple[Check, ...] = (
    server.of_server,
    clocks.of_database,
    server.connections,
    server.pooler,
)
"""Checks of any database that can be reached. What stands between a service and its server belongs
here, too."""
OF_TABLES: tuple[Check, ...] = (rights, migrations)
OF_ROWS: tuple[Check, ...] = (leases, pauses, pending, names)
"""Checks of a database that has the library's tables."""
