"""Brokers among the addresses of peers: how a list is divided, and that no secret is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from articles.settings import ArticlesSettings
from outbox.chassis.settings import InvalidSettings, load
from outbox.errors import InvalidService
from outbox.service.given import known_peers
from outbox.transports.brokers.address import BrokerAddress, addresses_in, is_broker
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.topics.topic import Topic
from outbox.transports.http.peer_lists import parts_in
from outbox.transports.http.peers import agreed, peers_in
from outbox.transports.webhooks.webhook import taken_apart
from tests.support.outbox.services import SECRETS


@pytest.mark.parametrize(
    "address",
    [
        "nats://127.0.0.1:4222",
        "nats://one:4222,two:4222,three",
        "nats://me:pa=ss@one:4222,two:4222?partitions=4&prefix=shop",
        "nats://[::1]:4222,two?prefix=shop",
        "nats://one,two/?partitions=4",
    ],
)
def test_each_part_of_a_list_keeps_all_servers_and_options_of_its_broker(address: str) -> None:
    text = f"articles=http://a:1,http://b:1,comments={address},orchestrator=http://o:1"
    assert peers_in(text) == {
        "articles": "http://a:1,http://b:1",
        "comments": address,
        "orchestrator": "http://o:1",
    }
    hook = "crm=webhook+https://crm.test/in#secret=env:CRM"
    others, hooks = taken_apart(f"{text},{hook}")
    assert peers_in(others)["comments"] == address
    assert hooks.keys() == {"crm"}


def test_what_follows_an_address_over_http_is_no_server_of_a_broker() -> None:
    assert parts_in("a=http://x:1,b:2") == ["a=http://x:1", "b:2"]
    with pytest.raises(ValueError, match="'b:2' is not name=address"):
        peers_in("a=http://x:1,b:2")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("nats://one:4222, two:4222", ["nats://one:4222,two:4222"]),
        ("nats://one?prefix=a,amqp://two/x", ["nats://one?prefix=a", "amqp://two/x"]),
    ],
)
def test_a_list_of_brokers_is_divided_at_their_schemes(text: str, found: list[str]) -> None:
    assert addresses_in(text) == found


def test_a_scheme_that_stands_twice_is_told() -> None:
    with pytest.raises(InvalidService, match="names its scheme twice"):
        BrokerAddress.parse("nats://one:4222,nats://two:4222")


def test_two_variables_that_differ_are_told_without_the_secret() -> None:
    one, other = (f"nats://me:secret@{host}:4222" for host in ("one", "two"))
    with pytest.raises(ValueError, match="nats at one:4222") as caught:
        agreed({"A": {"x": one}, "B": {"x": other}})
    assert "secret" not in str(caught.value)
    assert agreed({"A": {"x": one}, "B": {"x": one}}) == {"x": one}


SCHEMES = "http, https, grpc, grpcs, amqp, amqps, kafka, kafka+tls, nats, nats+tls, redis or rediss"


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("mqtt://me:hidden@h:1883", "mqtt"),
        ("http://a:1,MQTT://h:1883", "mqtt"),
        ("rabbitmq://h", "rabbitmq"),
        ("nats+dns://h:4222", "nats+dns"),
        ("http+tls://h", "http+tls"),
    ],
)
def test_a_scheme_that_is_not_known_is_told_with_those_that_are(address: str, scheme: str) -> None:
    with pytest.raises(ValueError, match="the address of stock") as refused:
        peers_in(f"stock={address}")
    told = str(refused.value)
    assert f"its scheme {scheme!r} is none of {SCHEMES}" in told
    assert "hidden" not in told
    with pytest.raises(InvalidService, match="of the peer stock") as also:
        known_peers({"stock": address})
    assert SCHEMES in str(also.value)


def test_a_scheme_that_no_broker_has_is_told_with_those_of_brokers() -> None:
    for refused in (broker_at, Topic.parse):
        text = "mqtt://me:hidden@h:1" if refused is broker_at else "topic+mqtt://me:hidden@h/a"
        with pytest.raises(InvalidService, match="none of amqp, amqps, kafka") as raised:
            refused(text)
        assert "'mqtt'" in raised.value.problem
        assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("read", [peers_in, BrokerAddress.parse])
def test_a_secret_before_a_scheme_is_not_taken_for_one(read: Callable[[str], object]) -> None:
    with pytest.raises((ValueError, InvalidService)) as refused:
        read("stock=me:hidden://x@h" if read is peers_in else "me:hidden://x@h")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("text", ["http://a", "grpc://a:1", "webhook+https://a", "nats", ""])
def test_other_addresses_are_none_of_a_broker(text: str) -> None:
    assert not is_broker(text)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("SAGABOX_DATABASE_URL_ARTICLES", "sqlite:////tmp/none.sqlite")
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    return monkeypatch


def test_articles_wants_an_address_that_callers_can_ask_and_shows_no_secret(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("SAGABOX_PEERS", "orchestrator=nats://me:secret@127.0.0.1:4222")
    environment.setenv("SAGABOX_BROKER", "nats://me:secret@127.0.0.1:4222")
    settings = load(ArticlesSettings)
    assert settings.brokers() == ["nats://me:secret@127.0.0.1:4222"]
    assert "me:secret" not in repr(settings)
    with pytest.raises(InvalidSettings, match="SAGABOX_PUBLIC_URL_ORCHESTRATOR") as caught:
        settings.sagas_at()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("smtp://127.0.0.1", "is no address of a broker"),
        ("nats://127.0.0.1?colour=red", "colour"),
        ("nats://127.0.0.1?partitions=99", "not a number from 1 to 32"),
    ],
)
def test_a_broker_that_cannot_be_is_told_with_its_variable(
    environment: pytest.MonkeyPatch, address: str, problem: str
) -> None:
    environment.setenv("SAGABOX_BROKER", address)
    with pytest.raises(InvalidSettings, match="SAGABOX_BROKER") as caught:
        load(ArticlesSettings)
    assert problem in str(caught.value)


def test_a_missing_library_is_told_with_its_extra_before_anything_connects(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setattr("outbox.transports.brokers.opening.find_spec", lambda _: None)
    environment.setenv("SAGABOX_BROKER", "nats://127.0.0.1")
    with pytest.raises(InvalidSettings, match=r"sagabox\[nats\]"):
        load(ArticlesSettings)
    environment.delenv("SAGABOX_BROKER")
    environment.setenv("SAGABOX_PEERS", "orchestrator=nats://127.0.0.1")
    with pytest.raises(InvalidSettings, match=r"sagabox\[nats\]"):
        load(ArticlesSettings)
