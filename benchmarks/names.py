"""The names under which figures stand: parts, rows and columns. Pure."""

from __future__ import annotations

POSTGRESQL, SQLITE = "PostgreSQL", "SQLite"
SLOW_FLUSHES = "PostgreSQL, 1 ms a flush"

DELETION = "deletion"
PROCESSOR = "processor ms of a deletion"
COSTS = "costs"
EDGE = "edge"
ENGINE = "engine"
RELAYING = "relaying"
ADDING = "adding"
LATENCY = "latency"
DRAINING = "draining"
OUTBOXES = "outboxes"
GROWTH = "growth"
WAITING = "waiting"
TAKEOVER = "takeover"
ADDRESSES = "addresses"
TRANSPORTS = "transports"
BROKERS = "brokers"

RATE, P50, P99 = "a second", "p50 ms", "p99 ms"
ALL = "all but clients"
MEMORY = "MB"

SAGAS = "sagas, list handlers"
ORDINARY = "sagas, ordinary handlers"
PLAIN = "plain httpx calls"
BARE = "a bare client"
DBOS = "DBOS"
RESTATE = "Restate"

STARTS, INSERTS = "starts", "single-row inserts"
RELAY, EXECUTEMANY = "relay, instant destination", "driver's executemany, 100 a transaction"
ONE_INSTANCE, ROUND_ROBIN = "one instance", "round robin over two instances"
IDLE, UNDER_LOAD = "idle", "under load"

HTTP, GRPC = "HTTP", "gRPC"
NATS = "NATS, sync_interval as it comes"
NATS_ALWAYS = "NATS, sync_interval always"
RABBITMQ = "RabbitMQ, quorum queues"
REDIS = "Redis, appendfsync always"
KAFKA = "Kafka, a mock cluster in memory"
FASTSTREAM = "faststream-outbox"
RELAYED, ALONE = "relayed a second", "client alone a second"
OF_ALONE = "relayed, of alone"
WHOLE_WAY = "whole way a second"

RUN_COUNTS = (1_000, 1_000_000)
GROWING = ("list page", "start", "run")


def at(what: str, clients: int) -> str:
    """The row of something that so many clients do."""
    return f"{what}, {clients} client{'s' if clients > 1 else ''}"


def row(contender: str, clients: int) -> str:
    """The row of a contender's deletions."""
    return f"{clients:3}, {contender}"


def with_runs(count: int) -> str:
    """The row or column of a database with so many runs."""
    return f"{count:,} runs"
