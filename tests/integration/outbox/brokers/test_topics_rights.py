"""What a user must be allowed where a service sends to a topic of others, or follows one: as the
pages say, and no more."""

from __future__ import annotations

import os
import re

import nats
import pytest

from outbox.replacing import replace
from outbox.transports.brokers.broker import BrokerRefused
from outbox.transports.brokers.topics.clients import client_of
from outbox.transports.brokers.topics.port import EventPacket, Start, TakenInPart
from outbox.transports.brokers.topics.topic import Topic
from tests.support.brokers.nats_server import NatsServer, a_nats_server
from tests.support.brokers.rabbitmq_server import shared_rabbit
from tests.support.brokers.strangers import at_rabbit
from tests.support.brokers.traffic import read
from tests.support.checkout import ROOT

PACKET = EventPacket(0, {"content-type": "text/plain", "ce-id": "1"}, b"7", "ann", "press.noted")
USERS = """
authorization {
  users: [
    { user: all, password: secret }
    { user: shop, password: secret, permissions: { publish: [%s], subscribe: ["_INBOX.>"] } }
  ]
}
"""


async def sends(topic: Topic) -> None:
    client = client_of(topic)
    try:
        await client.require(topic)
        await client.publish_to(topic, [PACKET])
    finally:
        await client.aclose()


async def follows(topic: Topic) -> None:
    client = client_of(topic)
    try:
        for _ in range(2):
            reading = await client.follow(topic, "press", Start.FIRST)
            assert await read(reading, 1) == [7]
            await reading.aclose()
        reading = await client.follow(topic, "press", Start.FIRST)
        assert await read(reading, 1) == [7]
        await reading.done(1)
        await reading.aclose()
        await client.behind(topic, "press")
    finally:
        await client.aclose()


def rights_at_nats(what: str) -> list[str]:
    """The subjects that the page lists."""
    page = (ROOT / "docs" / "operate" / "nats.md").read_text("utf-8")
    (row,) = [it for it in page.splitlines() if it.startswith(f"| {what} it |")]
    return [it for it in re.findall("`([^`]+)`", row) if " " not in it]


async def at_nats(rights: list[str], act: str) -> None:
    with a_nats_server(USERS % ", ".join(f'"{it}"' for it in rights)) as server:
        await make_stream(server)
        topic = Topic(server.url(access="shop:secret"), "shop.orders")
        await (sends(topic) if act == "send to" else follows(topic))


async def make_stream(server: NatsServer) -> None:
    """The stream of the page, with a message."""
    client = await nats.connect(server.url(access="all:secret"))
    context = client.jetstream()
    await context.add_stream(name="SHOP", subjects=["shop.>"])
    await context.publish("shop.orders", b"7")
    await client.close()


@pytest.mark.parametrize("act", ["send to", "follow"])
async def test_at_nats_the_rights_on_the_page_suffice_and_each_is_needed(act: str) -> None:
    rights = rights_at_nats(act)
    await at_nats(rights, act)
    for missing in rights:
        with pytest.raises(BrokerRefused, match="permissions violation"):
            await at_nats([it for it in rights if it != missing], act)


async def test_at_rabbitmq_it_is_to_write_to_their_exchange_or_to_read_their_queue() -> None:
    user = f"user-{os.urandom(3).hex()}"
    own = r"^sagabox\\."
    server = shared_rabbit()
    server.add_user(user, rights=None)

    def allow(*rights: str) -> None:
        """To configure, write and read."""
        told = ", ".join(f'<<"{it}">>' for it in (user, "/", *rights, "test"))
        server.run(f"rabbit_auth_backend_internal:set_permissions({told})")

    async with at_rabbit() as stranger:
        await stranger.make()
        await stranger.send(b"7")
        url = server.url(user=f"{user}:{user}")
        written, followed = Topic(url, stranger.topic.name), Topic(url, stranger.followed.name)
        allow(own, own, own)
        for act, right in (
            (sends(written), f"let the user write to {written.name} with"),
            (follows(followed), f"let the user read {followed.name} with"),
        ):
            with pytest.raises(BrokerRefused, match="ACCESS_REFUSED") as refused:
                await act
            assert right in refused.value.next_step
        allow(own, f"{own}|^{written.name}$", f"{own}|^{followed.name}$")
        await sends(written)
        await follows(followed)


async def test_at_rabbitmq_a_right_that_one_routing_key_lacks_holds_up_no_other_event() -> None:
    """And none of those is sent again and again."""
    user = f"user-{os.urandom(3).hex()}"
    server = shared_rabbit()
    server.add_user(user)
    packets = [replace(PACKET, key=str(it), type=f"press.{it}") for it in range(4)]
    async with at_rabbit() as stranger:
        await stranger.make()
        topic = Topic(server.url(user=f"{user}:{user}"), stranger.topic.name)
        names = ", ".join(
            f'<<"{it}">>' for it in (user, "/", topic.name, r"^press\\.[023]$", ".*", "test")
        )
        server.run(f"rabbit_auth_backend_internal:set_topic_permissions({names})")
        client = client_of(topic)
        try:
            with pytest.raises(TakenInPart, match=r"access to topic 'press\.1'") as part:
                await client.publish_to(topic, packets)
            assert part.value.taken == {0, 2, 3}
            with pytest.raises(BrokerRefused, match=r"access to topic 'press\.1'") as refused:
                await client.publish_to(topic, packets[1:2])
            assert "set_topic_permissions" in refused.value.next_step
            await client.publish_to(topic, packets[2:])
        finally:
            await client.aclose()
