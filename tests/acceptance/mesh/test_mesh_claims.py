"""What a mesh may do to messages, and what it may not: each row of the page's table, on a real
Envoy with the file of `deploy/envoy`.

An effect is a row of the receiver's ledger: one that came about twice would be there twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.context import attach, detach
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from outbox import tracing
from outbox.inbox.handlers import Context
from outbox.replies import Outcome
from outbox.transports.base import Answered, Delivery, Unacceptable, Unreachable
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.mesh import rendering
from tests.support.mesh.claims import Behind, bank_at, behind
from tests.support.mesh.rendering import Config
from tests.support.outbox.inboxes import (
    Bench,
    Book,
    Booked,
    Names,
    bank,
    envelope,
    ledger_schema,
    write_entry,
)
from tests.support.processes.waiting import until
from tests.support.repository.manual import rows

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.timeout(400)]

_SHARE, _STATUS = "fault.http.abort.abort_percent", "fault.http.abort.http_status"
_BUFFER = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"
PAGE = "docs/operate/mesh.md"


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def bench(engine: AsyncEngine) -> Bench:
    return Bench(engine)


@pytest.fixture
def names() -> Names:
    return Names()


def as_it_is(config: Config) -> Config:
    return config


def route_with(**what: Any) -> Callable[[Config], Config]:
    """The route of the bank's messages has this besides."""

    def change(config: Config) -> Config:
        for each in rendering.routes(config, "messages"):
            if each.get("route", {}).get("cluster") == "bank":
                each["route"] |= what
        return config

    return change


def aborting(config: Config) -> Config:
    """Envoy answers by itself, once a test switches it on."""
    return rendering.switchable(rendering.with_faults(config, "messages"))


async def sent(it: Behind, names: Names, count: int = 10) -> tuple[list[str], int]:
    """Deliver so many messages, two of them in each request, and each request until its messages
    are done. Their entries, sorted, and how many requests there were."""
    entries = [f"entry {number:02}" for number in range(count)]
    letters = [envelope(names(), Book(entry, entry)) for entry in entries]
    asked = [until_done(it, *letters[at : at + 2]) for at in range(0, count, 2)]
    return entries, sum(await asyncio.gather(*asked))


async def until_done(it: Behind, *letters: Envelope) -> int:
    """Deliver these until they are done, as a relay does; after how many requests."""
    asked = 0

    async def are_done() -> bool:
        nonlocal asked
        asked += 1
        answer = await it.to_bank.deliver(letters)
        return isinstance(answer, Answered) and outcomes(answer) == {Outcome.DONE}

    await until(are_done, deadline=60, what="the messages are done")
    return asked


def outcomes(answer: Delivery) -> set[Outcome]:
    assert isinstance(answer, Answered), answer
    return {reply.outcome for reply in answer.replies}


def test_each_kind_of_treatment_on_the_page_has_a_test_here() -> None:
    told = {row[0] for row in rows(PAGE, "treatments")}
    tested = {name for name in globals() if name.startswith("test_")}
    named = {row[-1].strip("`") for row in rows(PAGE, "treatments")}
    assert len(told) == len(rows(PAGE, "treatments")) >= 10
    assert named <= tested


@contextmanager
def in_trace(trace: str) -> Iterator[None]:
    token = attach(tracing.context_of(trace))
    try:
        yield
    finally:
        detach(token)


async def test_mirrored_messages_take_effect_once(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    mirrored = route_with(request_mirror_policies=[{"cluster": "bank"}])
    async with behind(bench, tmp_path / "envoy", mirrored) as it:
        entries, asked = await sent(it, names)
        await until(lambda: len(it.way.came) == 2 * asked, what="each request came twice")
    assert sorted(await bench.entries()) == entries


async def test_messages_that_are_mirrored_into_another_database_take_effect_there_too(
    bench: Bench,
    names: Names,
    tmp_path: Path,
    database_factory: DatabaseFactory,
    make_engine: MakeEngine,
) -> None:
    """Unless that one has other secrets: then it refuses them."""
    others = [Bench(make_engine(database_factory(ledger_schema))) for _ in range(2)]
    strange = Keyring({"now": os.urandom(32)}, "now")
    async with bank_at(others[0]) as (same, _), bank_at(others[1], strange) as (other, refused):

        def mirrored(config: Config) -> Config:
            policies = []
            for name, address in (("same", same), ("other", other)):
                clone = {**rendering.cluster(config, "bank"), "name": name}
                where = {"address": "127.0.0.1", "port_value": httpx.URL(address).port}
                endpoint = {"endpoint": {"address": {"socket_address": where}}}
                clone["load_assignment"] = {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [endpoint]}],
                }
                config["static_resources"]["clusters"].append(clone)
                policies.append({"cluster": name})
            return route_with(request_mirror_policies=policies)(config)

        async with behind(bench, tmp_path / "envoy", mirrored) as it:
            for name in ("same", "other"):
                await it.envoy.until_well(name, "127.0.0.1")
            entries, asked = await sent(it, names)
            await until(lambda: len(refused.came) == asked, what="each request came there")

            async def is_there() -> bool:
                return sorted(await others[0].entries()) == entries

            await until(is_there, what="the messages took effect there as well")
    assert await others[1].entries() == []


async def test_retried_messages_take_effect_once(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    retried = route_with(retry_policy={"retry_on": "5xx", "num_retries": 3})
    async with behind(bench, tmp_path / "envoy", retried) as it:
        it.way.lost = 3
        entries, asked = await sent(it, names)
        assert len(it.way.came) == asked + 3
    assert sorted(await bench.entries()) == entries


async def test_hedged_messages_take_effect_once(
    engine: AsyncEngine, names: Names, tmp_path: Path
) -> None:
    """A second copy comes while the transaction of the first one is still open."""
    handlers, both = bank(without=Book), asyncio.Event()

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        await write_entry(session, command.entry, context.id)
        await both.wait()
        return Booked(balance=1)

    hedged = route_with(
        retry_policy={"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.1s"},
        hedge_policy={"hedge_on_per_try_timeout": True},
    )
    bench = Bench(engine, handlers)
    async with behind(bench, tmp_path / "envoy", hedged) as it:
        letter = envelope(names(), Book("a"))
        first = asyncio.create_task(it.to_bank.deliver([letter]))
        await until(lambda: len(it.way.came) == 2, what="the copy has come")
        both.set()
        # The answer to the copy may come first, and only say that the other one is under way.
        assert outcomes(await first) <= {Outcome.DONE, Outcome.ONGOING}
        assert (await it.envoy.stats("cluster.bank."))["upstream_rq_retry"] == 1
        await until_done(it, letter)
    assert await bench.entries() == ["an entry"]


async def test_without_a_policy_a_lost_answer_comes_back_to_the_sender_alone(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    async with behind(bench, tmp_path / "envoy", as_it_is) as it:
        it.way.lost = 1
        letter = envelope(names(), Book("a"))
        answer = await it.to_bank.deliver([letter])
        assert isinstance(answer, Unreachable)
        assert answer.sent, "it may have been taken, and it has been"
        assert len(it.way.came) == 1
        await until_done(it, letter)
        assert (await it.envoy.stats("cluster.bank."))["upstream_rq_retry"] == 0
    assert await bench.entries() == ["an entry"]


async def test_a_timeout_of_the_mesh_leaves_messages_in_doubt_and_they_take_effect_once(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    async with behind(bench, tmp_path / "envoy", route_with(timeout="1s")) as it:
        letter = envelope(names(), Book("a"))
        it.way.gate.clear()
        answer = await it.to_bank.deliver([letter])
        assert isinstance(answer, Unreachable)
        assert answer.sent
        assert "504" in answer.reason
        it.way.gate.set()
        await until_done(it, letter)
    assert await bench.entries() == ["an entry"]


async def test_aborted_messages_are_sent_again(bench: Bench, names: Names, tmp_path: Path) -> None:
    async with behind(bench, tmp_path / "envoy", aborting) as it:
        letter = envelope(names(), Book("a"))
        for status, is_sent in ((503, True), (500, True), (429, False), (403, False)):
            await it.envoy.switch({_SHARE: 100, _STATUS: status})
            answer = await it.to_bank.deliver([letter])
            assert isinstance(answer, Unreachable), status
            assert answer.sent is is_sent, status
        assert it.way.came == []
        await it.envoy.switch({_SHARE: 0})
        await until_done(it, letter)
    assert await bench.entries() == ["an entry"]


async def test_an_abort_that_blames_the_messages_condemns_them(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    async with behind(bench, tmp_path / "envoy", aborting) as it:
        for status in (400, 413, 422):
            await it.envoy.switch({_SHARE: 100, _STATUS: status})
            answer = await it.to_bank.deliver([envelope(names(), Book("a"))])
            assert isinstance(answer, Unacceptable), status


async def test_a_small_buffer_condemns_large_messages_and_a_large_one_does_no_harm(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    def buffered(most: int) -> Callable[[Config], Config]:
        kind = {"@type": _BUFFER, "max_request_bytes": most}
        filter = {"name": "envoy.filters.http.buffer", "typed_config": kind}
        return lambda config: rendering.with_filter(config, "messages", filter)

    padded = b'{"account": "a", "entry": "an entry", "pad": "%s"}' % (b"x" * 5000)
    batch = [envelope(names(), Book("a"), data=padded) for _ in range(20)]
    async with behind(bench, tmp_path / "small", buffered(64 * 1024)) as it:
        assert isinstance(await it.to_bank.deliver(batch), Unacceptable)
        assert it.way.came == []
    async with behind(bench, tmp_path / "large", buffered(1024 * 1024)) as it:
        await until_done(it, *batch)
    assert await bench.entries() == ["an entry"] * 20


@pytest.mark.parametrize(
    "change",
    [
        {"request_headers_to_remove": ["sagabox-settled", "ce-sagaboxto", "sagabox-signature"]},
        {"request_headers_to_add": [{"header": {"key": "ce-stage", "value": "test"}}]},
        {
            "request_headers_to_add": [
                {
                    "header": {"key": "content-type", "value": "application/json"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ]
        },
    ],
    ids=["taken away", "added", "changed"],
)
async def test_a_signed_header_that_is_changed_lets_nothing_in(
    bench: Bench, names: Names, tmp_path: Path, change: dict[str, Any]
) -> None:
    def changed(config: Config) -> Config:
        for each in rendering.routes(config, "messages"):
            each.update(change)
        return config

    async with behind(bench, tmp_path / "envoy", changed) as it:
        answer = await it.to_bank.deliver([envelope(names(), Book("a"))])
    assert isinstance(answer, Unreachable)
    assert "401" in answer.reason
    assert not answer.sent
    assert await bench.entries() == []


async def test_other_headers_may_be_added(bench: Bench, names: Names, tmp_path: Path) -> None:
    """Envoy adds some by itself; and the trace goes through as it came."""

    def changed(config: Config) -> Config:
        for each in rendering.routes(config, "messages"):
            each["request_headers_to_add"] = [{"header": {"key": "x-stage", "value": "test"}}]
        return config

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with behind(bench, tmp_path / "envoy", changed) as it:
        run = names()
        letter = envelope(names(), Book("a"), correlation=run)
        with in_trace(trace):
            await until_done(it, letter)
        came = it.way.came[-1]
        assert {"x-stage", "x-forwarded-for", "x-request-id"} <= came.keys()
        line = await it.envoy.logged(path="/messages", status=200)
    assert (line["sagas"], line["to"], line["cluster"]) == (run, "bank", "bank")
    assert line["traceparent"] == came["traceparent"] == trace
    assert await bench.entries() == ["an entry"]


async def test_a_path_may_lose_what_is_before_it(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    def rewritten(config: Config) -> Config:
        for each in rendering.routes(config, "messages"):
            if each.get("route", {}).get("cluster") == "bank" and "grpc" not in each["match"]:
                each["match"]["path"] = "/shop/messages"
                each["route"]["prefix_rewrite"] = "/messages"
        return config

    async with behind(bench, tmp_path / "envoy", rewritten, below="/shop") as it:
        await until_done(it, envelope(names(), Book("a")))
    assert await bench.entries() == ["an entry"]


async def test_a_caller_cannot_order_retries_by_its_headers(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    async with behind(bench, tmp_path / "envoy", as_it_is) as it:
        it.way.lost = 1
        url = it.to_bank.overview().addresses[0].address
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(
                f"{url}/messages",
                headers={
                    "ce-sagaboxto": "bank",
                    "x-envoy-retry-on": "5xx",
                    "x-envoy-max-retries": "3",
                },
            )
        assert answer.status_code == 500
        assert len(it.way.came) == 1


async def test_too_much_at_once_is_refused_by_the_circuit_breaker_and_sent_again(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    def narrow(config: Config) -> Config:
        limits = {"max_connections": 1, "max_pending_requests": 1, "max_requests": 1}
        rendering.cluster(config, "bank")["circuit_breakers"] = {"thresholds": [limits]}
        return config

    async with behind(bench, tmp_path / "envoy", narrow) as it:
        it.way.gate.clear()
        letters = [envelope(names(), Book(f"{number}", f"{number}")) for number in range(6)]
        tasks = [asyncio.create_task(it.to_bank.deliver([each])) for each in letters]
        # One is under way and one waits; the others are refused at once.
        await until(lambda: sum(each.done() for each in tasks) >= 4, what="some are refused")
        it.way.gate.set()
        answers = await asyncio.gather(*tasks)
        refused = [each for each in answers if isinstance(each, Unreachable)]
        assert len(refused) >= 4
        # The one under way may have waited for longer than Envoy does.
        assert all("503" in each.reason or "504" in each.reason for each in refused)
        for letter in letters:
            await until_done(it, letter)
    assert sorted(await bench.entries()) == [str(number) for number in range(6)]
