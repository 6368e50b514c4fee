"""Addresses from DNS: a real dnsmasq, and a name server that lies, is slow, or is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from outbox.errors import OutboxError
from outbox.transports.addresses import from_dns, watching
from outbox.transports.addresses.address import Address, Found
from outbox.transports.addresses.destination import MAX_ADDRESSES, Destination
from outbox.transports.addresses.from_dns import by_dns, look
from outbox.transports.addresses.watching import Look, Watching
from tests.support.discovery import dnsmasq
from tests.support.discovery.dns_server import (
    Wire,
    failing,
    garbage,
    name_server,
    silence,
    zone,
)
from tests.support.processes.waiting import BUSY, free_port, until

LOCAL = ["127.0.0.1", "127.0.0.2"]


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FLOOR", 0.05)

    # Longer than a name server that is busy takes to answer.
    monkeypatch.setattr(from_dns, "LOOK_SECONDS", 10 * BUSY)


@pytest.fixture
def in_a_hurry(soon_again: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For name servers that give no answer."""
    hurry(monkeypatch)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_dns, "LOOK_SECONDS", 0.6)
    monkeypatch.setattr(from_dns, "TRY_SECONDS", 0.2)


def to(server: str, form: str = "http+dns://comments.test:8002/x") -> Destination:
    return Destination.parse(f"{form}?server={server}")


def urls(found: Sequence[Found]) -> list[str]:
    return sorted(str(it.address) for it in found)


async def test_a_name_has_the_addresses_that_a_real_name_server_tells(tmp_path: Path) -> None:
    async with dnsmasq.name_server(tmp_path, {"comments.test": LOCAL}) as server:
        seen = await look(to(server.address))
        assert urls(seen.found) == ["http://127.0.0.1:8002/x", "http://127.0.0.2:8002/x"]
        assert {it.address.authority for it in seen.found} == {"comments.test:8002"}
        assert seen.again_in == 1
        with pytest.raises(OutboxError, match=r"does not know the name other\.test; correct the"):
            await look(to(server.address, "http+dns://other.test:1"))


async def test_services_have_ports_priorities_and_weights_at_a_real_name_server(
    tmp_path: Path,
) -> None:
    services = [
        "--srv-host=_c._tcp.test,one.test,8002,10,5",
        "--srv-host=_c._tcp.test,two.test,8003,10,1",
        "--srv-host=_c._tcp.test,two.test,8004,20,0",
    ]
    names = {"one.test": LOCAL[:1], "two.test": LOCAL[1:]}
    async with dnsmasq.name_server(tmp_path, names, services) as server:
        seen = await look(to(server.address, "http+srv://_c._tcp.test/x"))
        told = {(str(it.address), it.priority, it.weight) for it in seen.found}
        assert told == {
            ("http://127.0.0.1:8002/x", 10, 5),
            ("http://127.0.0.2:8003/x", 10, 1),
            ("http://127.0.0.2:8004/x", 20, 0),
        }
        with pytest.raises(OutboxError, match=r"_d\._tcp\.test"):
            await look(to(server.address, "http+srv://_d._tcp.test"))


async def test_what_moves_at_a_real_name_server_is_found_when_its_time_is_over(
    tmp_path: Path,
) -> None:
    async with dnsmasq.name_server(tmp_path, {"comments.test": LOCAL[:1]}) as server:
        resolver = by_dns(to(server.address))
        try:
            assert urls(await resolver.found()) == ["http://127.0.0.1:8002/x"]
            server.say({"comments.test": LOCAL[1:]})

            async def has_moved() -> bool:
                return urls(await resolver.found()) == ["http://127.0.0.2:8002/x"]

            await until(has_moved, what="the other address is found")
        finally:
            await resolver.aclose()


COMMENTS = ("comments.test", "A")


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (zone({}), "does not know the name comments.test"),
        (zone({("comments.test", "TXT"): ["x"]}), "has no address of comments.test"),
        (zone({COMMENTS: ["0.0.0.0"]}), "the address 0.0.0.0, where no host can be"),
        (zone({COMMENTS: ["224.0.0.1"]}), "the address 224.0.0.1, where no host can be"),
        (zone({("comments.test", "AAAA"): ["fe80::1"]}), "the address fe80::1, where no host"),
        (zone({("comments.test", "AAAA"): ["64:ff9b::"]}), "the address 64:ff9b::, where no host"),
        (zone({("comments.test", "CNAME"): ["comments.test."]}), "gives no answer about"),
        (failing(dns.rcode.SERVFAIL), "gives no answer about comments.test: .*SERVFAIL"),
        (failing(dns.rcode.REFUSED), "gives no answer about comments.test: .*REFUSED"),
        (silence, "gives no answer about comments.test"),
        (garbage, "gives no answer about comments.test"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
async def test_a_name_server_that_lies_or_fails_is_named_with_what_it_says(
    wire: Wire, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if problem.startswith("gives no answer"):
        hurry(monkeypatch)
    async with name_server(wire) as server:
        with pytest.raises(OutboxError, match=problem) as refused:
            await look(to(server.address))
        assert f"the name server {server.address}" in refused.value.problem
        assert refused.value.next_step


@pytest.mark.usefixtures("in_a_hurry")
async def test_a_name_server_that_is_away_is_named_with_the_next_step() -> None:
    with pytest.raises(OutboxError, match="see whether it runs") as refused:
        await look(to(f"127.0.0.1:{free_port()}"))
    assert "gives no answer" in refused.value.problem


async def test_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    async with name_server(zone({COMMENTS: LOCAL}, truncates=True)) as server:
        assert len((await look(to(server.address))).found) == 2


async def test_of_a_huge_answer_some_are_used_and_the_rest_is_told() -> None:
    many = [f"127.0.{it // 250}.{it % 250 + 1}" for it in range(2000)]
    async with name_server(zone({COMMENTS: many}, truncates=True)) as server:
        resolver = by_dns(to(server.address))
        try:
            assert len(await resolver.found()) == MAX_ADDRESSES
            assert resolver.trouble is not None
            assert "2000 addresses, of which 128 are used; correct the name" in resolver.trouble
        finally:
            await resolver.aclose()


async def test_a_slow_name_server_is_asked_again() -> None:
    rightly, first = zone({COMMENTS: LOCAL}), asyncio.Event()

    async def slow(question: dns.message.Message, by_tcp: bool) -> bytes | None:
        if not first.is_set():
            first.set()
            return None
        return await rightly(question, by_tcp)

    async with name_server(slow) as server:
        assert len((await look(to(server.address))).found) == 2


@pytest.mark.usefixtures("in_a_hurry")
async def test_the_answer_to_another_question_is_none() -> None:
    rightly = zone({COMMENTS: LOCAL})

    async def lying(question: dns.message.Message, by_tcp: bool) -> bytes | None:
        reply = await rightly(question, by_tcp)
        assert reply is not None
        return bytes([reply[0] ^ 1]) + reply[1:]

    async with name_server(lying) as server:
        with pytest.raises(OutboxError):
            await look(to(server.address))


async def test_targets_of_services_that_have_no_address_are_left_out() -> None:
    records = {
        ("_c._tcp.test", "SRV"): ["0 1 8002 one.test.", "0 1 8003 gone.test."],
        ("one.test", "A"): LOCAL[:1],
    }
    async with name_server(zone(records)) as server:
        destination = to(server.address, "http+srv://_c._tcp.test")
        assert urls((await look(destination)).found) == ["http://127.0.0.1:8002"]
        records["_c._tcp.test", "SRV"] = ["0 0 0 ."]
        with pytest.raises(OutboxError, match="there is no such service"):
            await look(destination)


@pytest.mark.parametrize(("ttl", "again_in"), [(0, watching.FLOOR), (7, 7), (86400, 60)])
async def test_a_time_to_live_counts_between_the_floor_and_the_ceiling(
    ttl: int, again_in: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "FLOOR", 1.0)
    async with name_server(zone({COMMENTS: LOCAL}, ttl)) as server:
        destination = to(server.address)
        resolver = Watching("x", lambda: look(destination))
        assert await resolver.look_once() == again_in


async def test_known_addresses_stay_while_the_name_server_is_away_or_says_nothing_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rightly = zone({COMMENTS: LOCAL})
    async with name_server(rightly) as server:
        destination = to(server.address)
        resolver = Watching("x", lambda: look(destination))
        await resolver.look_once()
        with monkeypatch.context() as patch:
            hurry(patch)
            for wire in (zone({}), failing(dns.rcode.SERVFAIL)):
                server.wire = wire
                await resolver.look_once()
                assert resolver.trouble is not None
                assert len(resolver.known) == 2
            pauses = [await resolver.look_once() for _ in range(3)]
            assert pauses == sorted(set(pauses))
        server.wire = rightly
        await resolver.look_once()
        assert resolver.trouble is None
        found = await resolver.found()
        await resolver.aclose()
        assert len(found) == 2


async def test_a_doubt_brings_the_next_look_forward() -> None:
    records = {COMMENTS: LOCAL[:1]}
    async with name_server(zone(records, ttl=3600)) as server:
        resolver = by_dns(to(server.address))
        try:
            await resolver.found()
            records[COMMENTS] = LOCAL[1:]
            await asyncio.sleep(0)  # the loop goes on to its wait
            resolver.doubt()

            async def has_moved() -> bool:
                return urls(await resolver.found()) == ["http://127.0.0.2:8002/x"]

            await until(has_moved, what="the other address is found")
        finally:
            await resolver.aclose()


async def test_a_doubt_that_comes_during_a_look_brings_the_next_one_forward() -> None:
    looks = 0

    async def look_slowly() -> Look:
        nonlocal looks
        looks += 1
        if looks == 1:
            resolver.doubt()
        return Look([Found(Address("http", "127.0.0.1", 8002, ""))], 3600)

    resolver = Watching("x", look_slowly)
    await resolver.found()
    await until(lambda: looks == 2, what="it looks again")
    await resolver.aclose()


async def test_a_host_of_ipv4_may_be_found_by_its_address_behind_nat64() -> None:
    async with name_server(zone({("comments.test", "AAAA"): ["64:ff9b::a00:7"]})) as server:
        found = (await look(to(server.address))).found
    assert urls(found) == ["http://[64:ff9b::a00:7]:8002/x"]
