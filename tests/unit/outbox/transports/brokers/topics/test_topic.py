"""`outbox.Topic`: what names a topic of others, in code and in settings."""

from __future__ import annotations

import pytest

from outbox import Topic
from outbox.errors import InvalidService
from outbox.transports.brokers.topics.topic import topics_in


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("topic+nats://host/shop.orders", Topic("nats://host", "shop.orders")),
        (
            "topic+nats://user:p%2Fw@one:1,two:2/a.b?mode=binary&ca=/ca.pem",
            Topic("nats://user:p%2Fw@one:1,two:2?ca=%2Fca.pem", "a.b", "binary"),
        ),
        ("topic+amqp://host/orders", Topic("amqp://host", "orders")),
        ("topic+amqp://host/v%2F1/orders", Topic("amqp://host/v%2F1", "orders")),
        (
            "topic+amqp://host/vhost/?routing-key=a.queue",
            Topic("amqp://host/vhost", "", routing_key="a.queue"),
        ),
        ("topic+redis://host/3/a%2Fb", Topic("redis://host/3", "a/b")),
        ("topic+kafka://host/orders", Topic("kafka://host", "orders")),
    ],
)
def test_a_topic_is_read_from_its_text(text: str, topic: Topic) -> None:
    assert Topic.parse(text) == topic


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nats://host/orders", "names no topic"),
        ("topic+nats://host", r"'topic\+nats://host' names no topic"),
        ("topic+nats://host/", "has no name"),
        ("topic+nats://host/a b", "no subject"),
        ("topic+nats://host/a/b", "path before the name"),
        ("topic+kafka://host/a/b", "path before the name"),
        ("topic+http://host/a", "no address of a broker"),
        ("topic+nats://host/a?mode=batch", "neither structured nor binary"),
        ("topic+redis://host/0/a?routing-key=b", "knows no routing key"),
        ("topic+amqp://host/vhost/", "needs a routing key"),
    ],
)
def test_what_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidService, match=why):
        Topic.parse(text)


@pytest.mark.parametrize("name", ["shop.*", ">", "shop.>", "*.orders"])
def test_what_stands_for_many_subjects_is_followed_and_never_sent_to(name: str) -> None:
    assert Topic.parse(f"topic+nats://host/{name}").name == name
    with pytest.raises(ValueError, match=r"others: .*many subjects of NATS"):
        topics_in(f"others=topic+nats://host/{name}")
    assert topics_in(f"others=topic+redis://host/{name}")[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("topic+nats://host/a?partitions=3", "'partitions', which has no effect on it: .*divided"),
        ("topic+kafka://host/a?prefix=shop", "'prefix', which has no effect on it"),
        ("topic+amqp://host/a?prefix=shop", "'prefix', which has no effect on it"),
        ("topic+amqp://host/a?delivery-limit=policy", "'delivery-limit', which has no effect"),
        ("topic+nats://host/a?replicas=3", "'replicas', which has no effect on it"),
        ("topic+redis://host/0/a?partitions=3", "'partitions', which has no effect on it"),
        ("topic+redis://host/0/a?colour=red", "'colour', which is not known; .* ca, cert, durable"),
        ("topic+nats://host/a?mode=binary&mode=structured", "option 'mode' twice"),
    ],
)
def test_an_option_without_effect_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidService, match=why) as refused:
        Topic.parse(text)
    assert refused.value.next_step


def test_an_option_that_counts_in_one_direction_is_refused_in_the_other() -> None:
    beside = Topic.parse("topic+redis://host/0/a?prefix=shop")
    assert beside.to_follow() is beside
    with pytest.raises(InvalidService, match="'prefix', which has no effect on what is sent"):
        beside.to_send_to()
    for option in ("mode=binary", "routing-key=b"):
        sent = Topic.parse(f"topic+amqp://host/a?{option}")
        assert sent.to_send_to() is sent
        with pytest.raises(InvalidService, match=r"has no effect on what is followed"):
            sent.to_follow()


def test_its_secret_is_shown_nowhere() -> None:
    topic = Topic.parse("topic+amqp://user:hidden@host/vhost/orders")
    assert "hidden" not in f"{topic} {topic!r}"
    with pytest.raises(InvalidService) as refused:
        Topic.parse("topic+nats://user:hidden@host")
    assert "hidden" not in str(refused.value)


def test_topics_are_taken_out_of_a_list_of_peers() -> None:
    others, topics = topics_in(
        "mail=http://a:1,http://b:2, partner=topic+kafka://one:1,two:2/orders?mode=binary,"
        "crm=webhook+https://crm.example/?a=b#secret=env:A,last=topic+nats://host/a"
    )
    assert topics == {
        "partner": Topic("kafka://one:1,two:2", "orders", "binary"),
        "last": Topic("nats://host", "a"),
    }
    assert others == (
        "mail=http://a:1,http://b:2,crm=webhook+https://crm.example/?a=b#secret=env:A"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a=topic+nats://h/a,a=topic+nats://h/b", "a has two addresses"),
        ("a=topic+nats://h", "a: "),
        ("=topic+nats://h/a", "no name of a service"),
    ],
)
def test_a_wrong_list_of_peers_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        topics_in(text)
