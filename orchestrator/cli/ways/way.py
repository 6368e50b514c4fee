"""The way of messages that a command line names: HTTP, gRPC, or a broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.terminal.errors import CommandError

HTTP = "http"
GRPC = "grpc"
NATS = "nats"

METAVAR = "http|grpc|nats|ADDRESS"
HELP = (
    "How the services send messages to each other: over http or grpc; through a NATS that is "
    "started beside them (nats), or through the broker at that address, such as "
    "nats://127.0.0.1:4222."
)


@dataclass(frozen=True)
class Way:
    """Over HTTP, over gRPC where `is_grpc`, or through the broker at the address `broker`."""

    is_grpc: bool = False
    broker: str | None = None

    @property
    def told(self) -> str | None:
        """In words, without a secret; None for HTTP, which is usual."""
        from outbox.transports.brokers.address import BrokerAddress

        if self.broker is not None:
            return f"messages go through {BrokerAddress.parse(self.broker)}"
        return "messages go over gRPC" if self.is_grpc else None


@contextmanager
def way_named(text: str, folder: Path, command: str) -> Iterator[Way]:
    """The way of that name, while the block lasts; a NATS that it starts keeps its files in the
    folder. `command` is what errors advise to write, before the name.

    Raises CommandError, and ExtraMissing where it needs what is not installed.
    """
    from orchestrator.cli.ways.local_nats import local_nats
    from outbox.errors import ExtraMissing, OutboxError
    from outbox.transports.brokers.address import is_broker
    from outbox.transports.brokers.opening import broker_at, require_library
    from outbox.transports.grpc.extra import require

    if text == HTTP:
        yield Way()
    elif text == GRPC:
        require(f"{command} grpc")
        yield Way(is_grpc=True)
    elif text == NATS:
        require_library(NATS, f"{command} nats")
        with local_nats(folder, command) as address:
            yield Way(broker=address)
    elif is_broker(text):
        try:
            broker_at(text)
        except ExtraMissing:
            raise
        except OutboxError as error:
            happened = "the broker cannot be used"
            raise CommandError(happened, error.problem, error.next_step) from error
        yield Way(broker=text)
    else:
        raise CommandError(
            f"there is no transport {text!r}",
            "it is http, grpc, nats, or the address of a broker",
            f"{command} nats://127.0.0.1:4222",
        )
