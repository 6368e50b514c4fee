"""Addresses from Consul, and one's own registration there: an agent that speaks its API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from outbox.errors import OutboxError
from outbox.transports.addresses import from_consul, registration, watching
from outbox.transports.addresses.address import Address, Found
from outbox.transports.addresses.destination import Destination
from outbox.transports.addresses.from_consul import ConsulHealth, by_consul
from outbox.transports.addresses.registration import Registration
from tests.support.discovery.consul_agent import Agent, agent
from tests.support.http.servers import serving
from tests.support.processes.waiting import free_port, until

ONE, TWO = "http://127.0.0.1:8002", "http://127.0.0.2:8002"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FLOOR", 0.02)
    monkeypatch.setattr(registration, "FIRST_PAUSE", 0.02)


@pytest.fixture
async def consul() -> AsyncIterator[Agent]:
    async with agent() as told:
        yield told


def at(place: str, options: str = "") -> Destination:
    return Destination.parse(f"http+consul://{place}/comments{options}")


def urls(found: Sequence[Found]) -> list[str]:
    return sorted(str(it.address) for it in found)


async def looked(destination: Destination) -> list[str]:
    health = ConsulHealth(destination)
    try:
        return urls((await health.look()).found)
    finally:
        await health.aclose()


async def test_the_healthy_instances_of_the_service_are_found_with_their_weights(
    consul: Agent,
) -> None:
    consul.add("comments", ONE, weight=3)
    consul.add("articles", "http://127.0.0.1:9")
    consul.critical.add(consul.add("comments", TWO))
    health = ConsulHealth(at(consul.place, "?prefix=/x"))
    found = (await health.look()).found
    await health.aclose()
    assert [(str(it.address), it.weight) for it in found] == [(f"{ONE}/x", 3)]
    assert consul.asked == [{"passing": "1"}]


async def test_a_change_is_told_at_once_by_a_question_that_stays_open(consul: Agent) -> None:
    gone = consul.add("comments", ONE)
    resolver = by_consul(at(consul.place, "?tag=x&dc=one"))
    consul.services[gone]["Tags"] = ["x"]
    try:
        assert urls(await resolver.found()) == [ONE]
        await until(lambda: len(consul.asked) == 2, what="a question is open")
        assert consul.asked[1] == {
            "passing": "1",
            "tag": "x",
            "dc": "one",
            "index": "11",
            "wait": "30s",
        }
        consul.services[consul.add("comments", TWO)]["Tags"] = ["x"]
        consul.remove(gone)

        async def has_moved() -> bool:
            return urls(await resolver.found()) == [TWO]

        await until(has_moved, what="the other instance is found")
    finally:
        await resolver.aclose()


async def test_an_agent_that_began_anew_is_asked_without_the_old_index(consul: Agent) -> None:
    consul.add("comments", ONE)
    health = ConsulHealth(at(consul.place))
    await health.look()
    consul.change(to_index=3)
    for _ in range(2):
        await health.look()
    await health.aclose()
    assert [it.get("index") for it in consul.asked] == [None, "11", None]


async def test_known_instances_stay_while_the_agent_is_away_or_knows_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "LONGEST_PAUSE", 0.05)
    port = free_port()
    async with agent(port) as consul:
        only = consul.add("comments", ONE)
        resolver = by_consul(at(consul.place))
        assert urls(await resolver.found()) == [ONE]
        consul.remove(only)
        await until(lambda: resolver.trouble is not None, what="its absence is told")
        assert resolver.trouble is not None
        assert "knows no passing instance of the service comments" in resolver.trouble
        assert urls(await resolver.found()) == [ONE]
    await until(lambda: "gives no answer" in (resolver.trouble or ""), what="it is away")
    async with agent(port) as consul:
        consul.add("comments", TWO)
        await until(lambda: resolver.trouble is None, what="it is back")
        assert urls(await resolver.found()) == [TWO]
        await resolver.aclose()


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (Response("<html>", 200), "an answer that cannot be read"),
        (JSONResponse({"x": 1}), "an answer that cannot be read"),
        (JSONResponse([{"Service": {"Address": "h"}}]), "an answer that cannot be read: KeyError"),
        (
            JSONResponse([{"Service": {"Address": "h", "Port": 0}}]),
            "'h' and 0 are no address and port",
        ),
        (
            JSONResponse([{"Service": {"Address": "a@b/c", "Port": 1}}]),
            "an answer that cannot be read",
        ),
        (
            JSONResponse([{"Service": {"Address": "h", "Port": 1, "Weights": {"Passing": -1}}}]),
            "-1 is no weight",
        ),
        (Response("x" * 5_000_000), "answered with more than 4194304 bytes"),
        (Response("No cluster leader", 500), "answers 500: No cluster leader; see the agent's log"),
        (Response("", 302, {"location": "http://127.0.0.1:1/"}), "answers 302"),
    ],
)
async def test_an_agent_that_answers_wrongly_is_named_with_what_it_says(
    consul: Agent, broken: Response, problem: str
) -> None:
    consul.broken = broken
    with pytest.raises(OutboxError) as refused:
        await looked(at(consul.place))
    assert problem in str(refused.value)
    assert f"the agent at {consul.address}" in refused.value.problem


async def test_an_instance_that_is_registered_wrongly_is_left_out_and_told_once(
    consul: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"Service": {"Address": "10.0.0.7", "Port": 8002}}
    consul.broken = JSONResponse([{"Service": {"Address": "h", "Port": 0}}, good])
    health = ConsulHealth(at(consul.place))
    for _ in range(2):
        assert urls((await health.look()).found) == ["http://10.0.0.7:8002"]
    await health.aclose()
    (told,) = [it.message for it in caplog.records if it.name == "outbox.relay"]
    assert "'h' and 0 are no address and port" in told


async def test_an_agent_that_is_away_is_named_with_the_next_step() -> None:
    with pytest.raises(OutboxError, match=r"gives no answer: ConnectError.*see whether it runs"):
        await looked(at(f"127.0.0.1:{free_port()}"))


async def test_an_agent_whose_answer_never_comes_to_its_end_is_named(
    consul: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of it comes in time, and the whole never does."""
    for module in (from_consul, registration):
        monkeypatch.setattr(module, "_SECONDS", 0.5)

    async def drops() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.1)  # sooner than any part of it is waited for

    consul.broken = StreamingResponse(drops())
    with pytest.raises(OutboxError, match=r"none that was whole within 0\.5 s"):
        await looked(at(consul.place))
    consul.broken = StreamingResponse(drops())
    with pytest.raises(OutboxError, match=r"none that was whole within 0\.5 s"):
        await Registration(at(consul.place), Address.parse(ONE)).deregister()


async def test_a_token_is_read_where_it_stands_and_never_told(
    consul: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consul.add("comments", ONE)
    consul.token = "hunter2"
    file = tmp_path / "token"
    file.write_text("hunter2\n")
    monkeypatch.setenv("THE_TOKEN", "hunter2")
    assert await looked(at(consul.place, f"?token=file:{file}")) == [ONE]
    assert await looked(at(consul.place, "?token=env:THE_TOKEN")) == [ONE]
    for options, problem in [
        ("", "refuses the token"),
        ("?token=env:NONE", "is to stand at env:NONE, and cannot be read"),
        (f"?token=file:{tmp_path}/none", "cannot be read there"),
    ]:
        with pytest.raises(OutboxError, match=problem) as refused:
            await looked(at(consul.place, options))
        assert "hunter2" not in str(refused.value)
    file.write_text("two\nlines")
    with pytest.raises(OutboxError, match="is no token"):
        await looked(at(consul.place, f"?token=file:{file}"))


async def test_an_instance_is_registered_while_it_runs_and_found_once_it_is_ready(
    consul: Agent,
) -> None:
    asked = []

    async def readyz(request: Request) -> Response:
        asked.append(request.url.path)
        return Response()

    async with serving(Starlette(routes=[Route("/readyz", readyz)])) as address:
        own = Address.parse(address)
        async with Registration(at(consul.place), own).held():
            await until(lambda: consul.services, what="it is registered")
            with pytest.raises(OutboxError, match="knows no passing instance"):
                await looked(at(consul.place))
            await consul.check()
            assert await looked(at(consul.place)) == [address]
        assert consul.services == {}
        assert asked == ["/readyz"]


async def test_an_agent_that_is_away_keeps_no_service_from_running_and_hears_of_it_later() -> None:
    port, own = free_port(), Address.parse(ONE)
    async with Registration(at(f"127.0.0.1:{port}"), own).held():
        await asyncio.sleep(0)  # it has begun, and did not find the agent
        async with agent(port) as consul:
            await until(lambda: consul.services, what="it is registered")


async def test_an_agent_that_forgot_hears_of_it_again(
    consul: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "AGAIN_SECONDS", 0.05)
    async with Registration(at(consul.place), Address.parse(ONE)).held():
        await until(lambda: consul.services, what="it is registered")
        consul.services.clear()
        await until(lambda: consul.services, what="it is registered again")
