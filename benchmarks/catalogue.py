"""The parts of the benchmark: what each measures, where, and how much of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks import names
from benchmarks.figures import Figures
from benchmarks.parts import (
    adding,
    addresses,
    brokers,
    costs,
    deletion,
    draining,
    edge,
    engine,
    growth,
    latency,
    outboxes,
    relaying,
    takeover,
    transports,
    waiting,
)
from benchmarks.places import Place


@dataclass(frozen=True)
class Amounts:
    """How much is measured."""

    rounds: int = 3
    clients: Sequence[int] = (1, 64)
    """At these numbers of clients articles are deleted."""
    sagas: int = 320
    """Deletions by sagas at 64 clients, in a round."""
    requests: int = 1000
    messages: int = 20_000
    """Messages in an outbox that is emptied."""
    transactions: int = 400
    queued: int = 100_000
    """Messages in the outbox of a service that starts."""
    written: int = 5_000
    """Messages that are written a transaction each."""
    published: int = 2_000
    """Messages that are published at a broker, in a round."""
    events: int = 20
    """Events that are written each alone."""
    times: int = 64
    """How often something is done that is done one at a time."""


@dataclass(frozen=True)
class Part:
    """One part. It belongs to the table of goals where it is `usual`, on the databases of these
    names; by name it is measured on all. Some of its figures may stand in tables `beside` that of
    its name."""

    measure: Callable[[Place, Figures, Amounts], Awaitable[None]]
    usual: Sequence[str] = ()
    runs_on_sqlite: bool = True
    beside: Sequence[str] = ()


_BOTH = (names.POSTGRESQL, names.SQLITE)

PARTS = {
    names.DELETION: Part(
        lambda place, figures, it: deletion.measure(
            place, figures, it.clients, it.sagas, it.rounds
        ),
        usual=(names.POSTGRESQL,),
        beside=(names.PROCESSOR,),
    ),
    names.EDGE: Part(
        lambda place, figures, it: edge.measure(place, figures, it.requests, it.rounds),
        usual=(names.POSTGRESQL,),
    ),
    names.ENGINE: Part(
        lambda place, figures, it: engine.measure(place, figures, it.sagas * 3, it.rounds),
        usual=_BOTH,
    ),
    names.RELAYING: Part(
        lambda place, figures, it: relaying.measure(place, figures, it.messages, it.rounds),
        usual=_BOTH,
    ),
    names.GROWTH: Part(
        lambda place, figures, it: growth.measure(place, figures, it.times),
        usual=(names.POSTGRESQL,),
    ),
    names.WAITING: Part(
        lambda place, figures, _: waiting.measure(place, figures),
        usual=(names.POSTGRESQL,),
    ),
    names.LATENCY: Part(
        lambda place, figures, it: latency.measure(place, figures, it.events),
        usual=(names.POSTGRESQL,),
    ),
    names.BROKERS: Part(
        lambda place, figures, it: brokers.measure(
            place, figures, it.published, it.events, it.rounds
        ),
        usual=(names.POSTGRESQL,),
        runs_on_sqlite=False,
    ),
    names.DRAINING: Part(lambda place, figures, it: draining.measure(place, figures, it.queued)),
    names.COSTS: Part(
        lambda place, figures, it: costs.measure(place, figures, it.sagas),
        runs_on_sqlite=False,
    ),
    names.OUTBOXES: Part(
        lambda place, figures, it: outboxes.measure(place, figures, it.written, it.events),
        runs_on_sqlite=False,
    ),
    names.TAKEOVER: Part(lambda place, figures, it: takeover.measure(place, figures, it.sagas)),
    names.ADDRESSES: Part(
        lambda place, figures, it: addresses.measure(place, figures, it.messages, it.rounds),
        runs_on_sqlite=False,
    ),
    names.TRANSPORTS: Part(
        lambda place, figures, it: transports.measure(place, figures, it.requests, it.rounds)
    ),
    names.ADDING: Part(
        lambda place, figures, it: adding.measure(place, figures, it.transactions, it.rounds)
    ),
}
"""All of them, by name."""
