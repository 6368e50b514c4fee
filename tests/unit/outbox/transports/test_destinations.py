"""How a destination is written, and what is said of one that cannot be."""

from __future__ import annotations

import pytest

from outbox.errors import OutboxError
from outbox.transports.addresses.address import Address
from outbox.transports.addresses.destination import MAX_ADDRESSES, Destination, Source
from outbox.transports.grpc.addresses import GRPC_PORTS
from outbox.transports.http.peers import agreed, peers_in

A, B = Address("http", "a", 8002, ""), Address("https", "b", 443, "/x")


def test_one_address_or_many_are_a_list() -> None:
    assert Destination.parse("http://a:8002/") == Destination(Source.LIST, (A,))
    assert Destination.parse("http://a:8002, https://b/x/") == Destination(Source.LIST, (A, B))
    assert Destination.parse("http://a:8002").is_one_address
    assert str(Destination.parse("http://a:8002,https://b/x")) == "http://a:8002,https://b:443/x"


@pytest.mark.parametrize(
    ("text", "source", "place", "url"),
    [
        ("http+dns://comments:8002/x", Source.DNS, "http://comments:8002/x", None),
        ("HTTPS+DNS://comments", Source.DNS, "https://comments:443", None),
        ("http+srv://_c._tcp.local/x", Source.SRV, "http://_c._tcp.local:80/x", "http://local/x"),
        ("http+consul://agent/comments", Source.CONSUL, "http://agent:8500", "http://comments"),
        ("http+consul://h:1/c?prefix=/x", Source.CONSUL, "http://h:1/x", "http://c/x"),
    ],
)
def test_a_place_where_addresses_are_found_has_the_scheme_and_path_of_each(
    text: str, source: Source, place: str, url: str | None
) -> None:
    found = Destination.parse(text)
    assert (found.source, str(found.place), found.addresses) == (source, place, ())
    assert found.url == (url or place)
    assert not found.is_one_address


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no http or https address"),
        ("http://a,,http://b", "no http or https address"),
        ("http://a:1,http://a:1/", "stands in the list twice"),
        (",".join(f"http://a:{1 + it}" for it in range(MAX_ADDRESSES + 1)), "128 are used"),
        ("http+dns://a:1,http://b:1", "finds several addresses by itself"),
        ("ftp+dns://a:1", "has no scheme"),
        ("http+dns://", "no http or https address"),
        ("http+dns://a:1?server=", "its option 'server'"),
        ("http+dns://a:1?sever=x", "its option 'sever'"),
        ("http+dns://a:1?server=10.0.0.2:x", "its name server is no address"),
        ("http+srv://_c._tcp.x:80", "SRV records have theirs"),
        ("http+srv://c.x", "begin with _SERVICE._tcp"),
        ("https+srv://_c._tcp.x", "for which name a certificate is to be"),
        ("http+consul://h:8500", "names no service"),
        ("http+consul://h:8500/a/b", "names no service"),
        ("https+consul://h:8500/c", "for which name a certificate is to be"),
        ("http+consul://h:8500/c?token=hunter2", "a token is not written into an address"),
        ("http+consul://h:8500/c?agent=ftp", "asked by http or https"),
        ("http+consul://h:8500/c?prefix=x", "its prefix is no path"),
    ],
)
def test_one_that_cannot_be_is_refused_with_its_problem_and_the_next_step(
    text: str, problem: str
) -> None:
    with pytest.raises(OutboxError) as refused:
        Destination.parse(text)
    assert problem in refused.value.problem
    assert "http://HOST:PORT" in refused.value.next_step
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("text", ["grpcs+srv://_c._tcp.x", "grpcs+consul://h:8500/c"])
def test_with_tls_over_grpc_too_a_place_says_for_which_name_a_certificate_is_to_be(
    text: str,
) -> None:
    with pytest.raises(OutboxError) as refused:
        Destination.parse(text, GRPC_PORTS)
    assert "for which name a certificate is to be" in refused.value.problem
    named = Destination.parse(f"{text}?certificate=shop.example", GRPC_PORTS)
    assert named.options["certificate"] == "shop.example"


def test_a_name_among_peers_may_have_several_addresses() -> None:
    text = "a=http://x:1, http://y:2/ ,b=http+consul://h/c?tag=x,c=https://z"
    assert peers_in(text) == {
        "a": "http://x:1,http://y:2",
        "b": "http+consul://h/c?tag=x",
        "c": "https://z",
    }
    with pytest.raises(ValueError, match="'http://x:1' is not name=address"):
        peers_in("http://x:1,a=http://y:1")
    with pytest.raises(ValueError, match=r"write several of one name as a=http://HOST:PORT,"):
        peers_in("a=http://x:1,a=http://y:1")
    with pytest.raises(ValueError, match="the address of a: 'y' is not an address"):
        peers_in("a=http://x:1,ftp://ann:hunter2@y")


def test_two_variables_agree_on_several_addresses_in_the_same_order() -> None:
    told = {"X": {"a": "http://x:1,http://y:2"}, "Y": {"a": "HTTP://x:1/,http://y:2"}}
    assert agreed(told) == {"a": "http://x:1,http://y:2"}
    with pytest.raises(ValueError, match="for the peer a"):
        agreed({**told, "Z": {"a": "http://x:1"}})
