"""Free ports of this machine, for services that are told where to listen."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from orchestrator.cli.processes.binding import require_free
from orchestrator.cli.terminal.errors import CommandError

_FIRST_PORT, _PORTS = 20_000, 10_000


def free_ports(count: int, *, spread: int = 0) -> Sequence[int]:
    """So many ports of 127.0.0.1 at which no process listens at this moment.

    They are below those that systems give to clients: no client's connection takes the port of a
    service that is away for a moment. Other numbers for `spread` look in other places first. Raises
    CommandError where there are not so many.
    """
    found: list[int] = []
    for number in range(_PORTS):
        port = _FIRST_PORT + (spread * count + number) % _PORTS
        with contextlib.suppress(CommandError):
            require_free("127.0.0.1", port, "")
            found.append(port)
        if len(found) == count:
            return found
    raise CommandError(
        f"there are not {count} free ports of 127.0.0.1",
        f"those from {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} are taken",
        "end programs that listen there",
    )
