"""Which imports the design forbids. Each rule gives its violations as sentences."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.repository import rooms
from tests.support.repository.imports import Import, Sources, within

PACKAGES = ("outbox", "orchestrator", "articles", "comments", "migrations")

PURE = (
    "orchestrator.cli.audit.divergences",
    "orchestrator.cli.doctor.findings",
    "orchestrator.cli.terminal.sse",
    "orchestrator.cli.terminal.times",
    "orchestrator.errors",
    "orchestrator.rest_calls.kept",
    "orchestrator.retention.policy",
    "orchestrator.retention.remembering",
    "orchestrator.store.outgoing",
    "orchestrator.store.records",
    "orchestrator.store.sharding",
    "orchestrator.store.signal_rows",
    "orchestrator.testing.coverage",
    "outbox.adding.staging",
    "outbox.contract",
    "outbox.coordination.leases",
    "outbox.coordination.progress",
    "outbox.destinations.pauses",
    "outbox.errors",
    "outbox.inbox.barrier",
    "outbox.inbox.batches",
    "outbox.inbox.limits",
    "outbox.inbox.outside.finding_out",
    "outbox.inbox.outside.rules",
    "outbox.inbox.pending.completion",
    "outbox.inbox.pending.pended",
    "outbox.inbox.pending.voiding",
    "outbox.inbox.retention",
    "outbox.inbox.rows",
    "outbox.invariants",
    "outbox.lanes",
    "outbox.messages",
    "outbox.relay.breaker",
    "outbox.relay.low_watermarks",
    "outbox.relay.memory_queue",
    "outbox.relay.settings",
    "outbox.relay.verdicts",
    "outbox.replies",
    "outbox.retry",
    "outbox.safe_text",
    "outbox.transports.addresses.address",
    "outbox.transports.addresses.destination",
    "outbox.transports.addresses.rotation",
    "outbox.transports.addresses.standing",
    "outbox.transports.http.signing",
    "outbox.transports.webhooks.signing",
)
"""Modules that only turn values into values, beside all those of the pure rooms."""

PLANNED: tuple[str, ...] = ()
"""Pure modules that are not written yet. One that exists belongs into PURE."""

HANDED = ("outbox.ids", "outbox.replacing")
"""What pure modules may import beside each other: the first is handed its clock and its randomness,
the second compiles constructors as `dataclasses` does."""

CONTRACT_MAY_IMPORT = (
    "__future__",
    "collections.abc",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "outbox.messages",
    "typing",
    "uuid",
)
PURE_MAY_IMPORT = (
    *("__future__", "abc", "base64", "binascii", "bisect", "collections", "copy", "dataclasses"),
    *("datetime", "decimal", "enum", "functools", "graphlib", "hashlib", "heapq", "hmac"),
    *("itertools", "json", "math", "operator", "pprint", "re", "reprlib", "string", "struct"),
    *("textwrap", "types", "typing", "urllib.parse", "uuid", "zlib"),
    *("orjson", "pydantic", "pydantic_core"),
)
_READS_THE_WORLD = {
    "now": "the time",
    "utcnow": "the time",
    "today": "the date",
    "uuid1": "the time and the machine",
    "uuid4": "randomness",
    "uuid6": "the time",
    "uuid7": "the time",
    "getnode": "the machine",
}
_DOES_INPUT_OR_OUTPUT = ("open", "print", "input", "exec", "eval", "breakpoint")


@dataclass(frozen=True)
class Rule:
    """Modules of `who` import nothing of `forbidden`, modules of `but` excepted."""

    who: str
    forbidden: tuple[str, ...]
    why: str
    but: tuple[str, ...] = ()


RULES = (
    Rule(
        "outbox",
        ("orchestrator", "articles", "comments", "migrations"),
        "the library knows nothing of sagas or of any service",
    ),
    Rule(
        "outbox",
        ("outbox.chassis",),
        "the library works without the chassis that the reference services stand on",
        but=("outbox.chassis", "outbox.integrations"),
    ),
    Rule(
        "articles",
        ("comments", "orchestrator", "migrations"),
        "a service answers commands, and does not know who else there is",
    ),
    Rule(
        "comments",
        ("articles", "orchestrator", "migrations"),
        "a service answers commands, and does not know who else there is",
    ),
    Rule(
        "orchestrator",
        ("articles", "comments"),
        "only orchestrator.sagas names the contracts of services",
        but=("orchestrator.sagas",),
    ),
    Rule(
        "orchestrator",
        ("migrations",),
        "only the command line runs migrations",
        but=("orchestrator.cli",),
    ),
    *(
        Rule(
            package, ("tests", "benchmarks", "examples"), "what ships depends on nothing beside it"
        )
        for package in PACKAGES
    ),
)


def wrong_directions(sources: Sources) -> Iterator[str]:
    """Imports against the one way that they run."""
    for found in sources.all_imports():
        for rule in RULES:
            if (
                within(found.importer, rule.who)
                and within(found.imported, *rule.forbidden)
                and not within(found.importer, *rule.but)
            ):
                yield _sentence(found, rule.why)


def more_than_contracts(sources: Sources) -> Iterator[str]:
    """What sagas import of services beside their contracts."""
    for found in sources.all_imports():
        if (
            within(found.importer, "orchestrator.sagas")
            and within(found.imported, "articles", "comments")
            and found.imported not in ("articles.contract", "comments.contract")
        ):
            yield _sentence(found, "a saga knows the contract of a service, and nothing else")


def heavy_contracts(sources: Sources) -> Iterator[str]:
    """What contracts import that plain declarations do not need."""
    for found in sources.all_imports():
        if found.importer.endswith(".contract") and found.imported not in CONTRACT_MAY_IMPORT:
            yield _sentence(
                found, f"a contract imports only these: {', '.join(CONTRACT_MAY_IMPORT)}"
            )


def pure_modules(sources: Sources) -> tuple[str, ...]:
    """The modules of the pure rooms, and those of PURE that there are."""
    stand = {module: rooms.room_of(module) for module in sources.files}
    inside = (module for module, room in stand.items() if room is not None and room.is_pure)
    return tuple(sorted({*inside, *(module for module in PURE if module in sources.files)}))


def impurities(sources: Sources, pure: tuple[str, ...]) -> Iterator[str]:
    """Imports, calls and coroutines by which a pure module would read or change the world."""
    for module in pure:
        for found in sources.imports_of(module):
            if not found.for_types_only and not within(
                found.imported, *pure, *HANDED, *PURE_MAY_IMPORT
            ):
                yield _sentence(found, "a pure module is handed what it needs as an argument")
        yield from _impure_syntax(sources, module)


def missing(sources: Sources) -> Iterator[str]:
    """Entries of PURE and PLANNED that do not fit the tree."""
    for module in PURE:
        if module not in sources.files:
            yield f"{module} is listed in PURE, and there is no such module: rename or remove it"
    for module in PLANNED:
        if module in sources.files:
            yield f"{module} is listed in PLANNED, and exists: move it to PURE"


def _impure_syntax(sources: Sources, module: str) -> Iterator[str]:
    file = module.replace(".", "/") + ".py"
    for node in ast.walk(ast.parse(sources.files[module].read_text("utf-8"))):
        match node:
            case ast.Attribute(attr=name) if name in _READS_THE_WORLD:
                yield (
                    f"{file}:{node.lineno}: the pure module {module} reads "
                    f"{_READS_THE_WORLD[name]} by {name}: take it as an argument"
                )
            case ast.Call(func=ast.Name(id=name)) if name in _DOES_INPUT_OR_OUTPUT:
                yield (
                    f"{file}:{node.lineno}: the pure module {module} calls {name}(): "
                    "leave that to the caller"
                )
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield (
                    f"{file}:{node.lineno}: the pure module {module} waits for something: "
                    "its functions take values and return values"
                )
            case _:
                pass


def _sentence(found: Import, why: str) -> str:
    return f"{found.where}: {found.importer} imports {found.imported}: {why}"
