"""How long runs stand still when the node that has them is killed, or hangs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import orjson

from benchmarks.blog import services
from benchmarks.blog.services import Services
from benchmarks.figures import Figures
from benchmarks.measuring import Load, closed_loop
from benchmarks.names import TAKEOVER
from benchmarks.places import Place
from orchestrator.cli.processes.child import Child
from orchestrator.tables import PLAIN
from outbox.relay.settings import RelaySettings
from tests.support.processes.waiting import free_port, until

_JSON = {"content-type": "application/json"}
_CLIENTS = 64
_ENDED_WITHIN = 120.0


async def _kill(node: Child) -> None:
    await node.kill()


async def _freeze(node: Child) -> None:
    node.freeze()


_ENDINGS: dict[str, Callable[[Child], Awaitable[None]]] = {
    # A node of the same machine sees that the process is gone; the lease need not end.
    "killed": _kill,
    # As where its machine is lost: nothing but the end of the lease tells.
    "hangs": _freeze,
}


async def measure(place: Place, figures: Figures, runs: int) -> None:
    """Start `runs` runs at one of two nodes, end that one right after, and wait until the other
    one has ended them all: in seconds, and in leases."""
    for name, ending in _ENDINGS.items():
        async with services.running(place.fresh, place.folder) as blog:
            left, seconds = await _measured(blog, ending, runs)
        figures.add(
            (place.name, TAKEOVER, f"one of two nodes {name}"),
            {
                "runs left": float(left),
                "seconds to the last end": seconds,
                "in leases": seconds / RelaySettings.lease,
            },
        )


async def _measured(
    blog: Services, ending: Callable[[Child], Awaitable[None]], runs: int
) -> tuple[int, float]:
    articles = await blog.publish(runs)
    second = await services.start(blog.blog, "orchestrator", port=free_port())
    first = blog.children["orchestrator"]
    try:
        await second.ready()
        await _start(blog, articles)
        await ending(first)
        began = time.monotonic()
        left = await blog.count("orchestrator", PLAIN.saga, PLAIN.has_begun)
        await until(lambda: _all_ended(blog), _ENDED_WITHIN, what="all runs have ended")
        return left, time.monotonic() - began
    finally:
        await first.kill()
        await second.stop()


async def _start(blog: Services, articles: list[str]) -> Load:
    connections = await blog.connect("orchestrator", _CLIENTS)

    def client(number: int) -> services.Client:
        async def start(article: str) -> None:
            body = orjson.dumps({"article_id": article})
            await connections[number].request("POST", "/sagas/delete-article", _JSON, body)

        return start

    load = await closed_loop(articles, [client(it) for it in range(_CLIENTS)])
    await services.close_all(connections)
    return load


async def _all_ended(blog: Services) -> bool:
    return await blog.count("orchestrator", PLAIN.saga, PLAIN.has_begun) == 0
