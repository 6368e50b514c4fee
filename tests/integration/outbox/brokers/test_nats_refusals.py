"""What NATS refuses, and what the adapter refuses of NATS: each with the next step."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from outbox.errors import InvalidService
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused
from outbox.transports.brokers.jetstream.connection import Connection
from outbox.transports.brokers.nats import NatsBroker
from outbox.transports.brokers.opening import broker_at
from tests.support.brokers.nats_server import NatsServer, a_nats_server
from tests.support.brokers.traffic import PATIENT, QUEUE, opened, packets, read
from tests.support.checkout import CERTIFICATE, ROOT

_prefixes = (f"test{number}" for number in itertools.count(1))
_PERMISSIONS = """
authorization {
  users: [
    { user: all, password: secret }
    { user: shop, password: secret, permissions: {
        publish: [%s]
        subscribe: [%s]
    } }
  ]
}
"""
SENDING = (
    "$JS.API.STREAM.INFO.sagabox_comments",
    "$JS.API.STREAM.CREATE.sagabox_comments",
    "sagabox.comments.*",
)
READING = (
    "$JS.API.CONSUMER.NAMES.sagabox_comments",
    "$JS.API.CONSUMER.CREATE.sagabox_comments.>",
    "$JS.API.CONSUMER.DELETE.sagabox_comments.*",
    "$JS.API.CONSUMER.MSG.NEXT.sagabox_comments.*",
    "$JS.ACK.sagabox_comments.>",
)
"""What a user needs beside the answers, `_INBOX.>`."""
PAGE = ROOT / "docs" / "operate" / "nats.md"
TLS = f'tls {{ cert_file: "{CERTIFICATE}", key_file: "{CERTIFICATE}" }}'


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with a_nats_server(jetstream="") as it:
        yield it


@pytest.fixture
def prefix() -> str:
    return next(_prefixes)


def with_rights(publish: Sequence[str], subscribe: Sequence[str] = ("_INBOX.>",)) -> str:
    return _PERMISSIONS % (json.dumps(publish)[1:-1], json.dumps(subscribe)[1:-1])


async def refusal(url: str, queue: str = QUEUE) -> str:
    """Sending and reading are refused alike; what sending says."""
    broker = NatsBroker(BrokerAddress.parse(url))
    try:
        async with asyncio.timeout(PATIENT):
            with pytest.raises(BrokerRefused):
                await broker.open(queue, 0)
            with pytest.raises(BrokerRefused) as refused:
                await broker.publish(queue, packets(1))
    finally:
        await broker.aclose()
    assert refused.value.next_step
    return f"{refused.value} {refused.value.next_step}"


async def works(url: str) -> None:
    broker = NatsBroker(BrokerAddress.parse(url))
    try:
        await broker.publish(QUEUE, packets(2))
        async with opened(broker) as reading:
            assert await read(reading, 2) == [0, 1]
            await reading.done(2)
        assert await broker.waiting(QUEUE) == 0
    finally:
        await broker.aclose()


class TestStreams:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"storage": "memory"}, "storage is 'memory'"),
            ({"retention": "limits"}, "retention is 'limits'"),
            ({"discard": "old"}, "discard is 'old'"),
            ({"max_age": 3_600_000_000_000}, "max_age"),
            ({"max_msgs_per_subject": 5}, "max_msgs_per_subject"),
            ({"no_ack": True}, "no_ack"),
            ({"persist_mode": "async"}, "persist_mode"),
            ({"subject_transform": {"src": ">", "dest": "elsewhere.>"}}, "other subjects"),
        ],
        ids=str,
    )
    async def test_one_that_would_lose_messages(
        self, server: NatsServer, prefix: str, changes: dict[str, Any], words: str
    ) -> None:
        config = {
            "name": f"{prefix}_{QUEUE}",
            "subjects": [f"{prefix}.{QUEUE}.{it}" for it in range(4)],
            "storage": "file",
            "retention": "workqueue",
            "discard": "new",
        }
        admin = await Connection.to(BrokerAddress.parse(server.url()))
        await admin.api(f"STREAM.CREATE.{prefix}_{QUEUE}", config | changes)
        await admin.close()
        refused = await refusal(server.url(f"partitions=4&prefix={prefix}"))
        assert words in refused
        assert f"nats stream edit {prefix}_{QUEUE}" in refused

    @pytest.mark.parametrize("others", [2, 8])
    async def test_one_with_other_partitions(
        self, server: NatsServer, prefix: str, others: int
    ) -> None:
        await works(server.url(f"partitions=4&prefix={prefix}"))
        refused = await refusal(server.url(f"partitions={others}&prefix={prefix}"))
        assert f"has 4 subjects, where the address asks for the {others} partitions" in refused
        assert "same partitions=" in refused

    async def test_subjects_that_another_stream_has(self, server: NatsServer, prefix: str) -> None:
        admin = await Connection.to(BrokerAddress.parse(server.url()))
        other = {"name": f"other{prefix}", "subjects": [f"{prefix}.>"], "storage": "memory"}
        await admin.api(f"STREAM.CREATE.other{prefix}", other)
        await admin.close()
        assert "overlap" in await refusal(server.url(f"partitions=4&prefix={prefix}"))

    async def test_a_consumer_of_another_program(self, server: NatsServer, prefix: str) -> None:
        broker = broker_at(server.url(f"partitions=4&prefix={prefix}"))
        await broker.publish(QUEUE, packets(1))
        admin = await Connection.to(BrokerAddress.parse(server.url()))
        config = {"durable_name": "audit", "ack_policy": "explicit", "deliver_policy": "all"}
        await admin.api(
            f"CONSUMER.DURABLE.CREATE.{prefix}_{QUEUE}.audit",
            {"stream_name": f"{prefix}_{QUEUE}", "config": config},
        )
        await admin.close()
        with pytest.raises(BrokerRefused, match="audit") as refused:
            await broker.open(QUEUE, 0)
        assert "nats consumer rm" in str(refused.value.next_step)
        await broker.aclose()


class TestWhoMayComeIn:
    async def test_wrong_credentials(self) -> None:
        users = 'authorization { user: shop, password: "s e:c@ret" }'
        with a_nats_server(users) as server:
            for access in ("", "shop:not-it", "not-it"):
                words = await refusal(server.url(access=access))
                assert "refuses the credentials" in words
                assert "the user, the password or the token" in words
                assert "not-it" not in words
            await works(server.url(access="shop:s%20e%3Ac%40ret"))

    async def test_a_token(self) -> None:
        with a_nats_server('authorization { token: "tok:en" }') as server:
            assert "token" in await refusal(server.url(access="other"))
            await works(server.url(access="tok%3Aen"))

    async def test_a_secret_is_in_no_error(self) -> None:
        with a_nats_server('authorization { token: "token" }') as server:
            for access in ("shop:hush-hush", "hush-hush"):
                assert "hush" not in await refusal(server.url(access=access))

    @pytest.mark.parametrize("missing", range(len(SENDING + READING)))
    async def test_a_user_without_a_right(self, missing: int) -> None:
        rights = [*SENDING, *READING]
        subject = rights.pop(missing).lower().partition("sagabox")[0]
        with a_nats_server(with_rights(rights)) as server:
            owner = broker_at(server.url(access="all:secret"))
            broker = broker_at(server.url(access="shop:secret"))
            if "create" not in subject or "consumer" in subject:
                await owner.publish(QUEUE, packets(1))
            async with asyncio.timeout(PATIENT):
                with pytest.raises(BrokerRefused, match=r"permissions violation") as refused:
                    await broker.publish(QUEUE, packets(1))
                    async with opened(broker), opened(broker) as reading:
                        assert await read(reading, 1) == [0]
                        await reading.done(1)
            assert subject in str(refused.value)
            await broker.aclose()
            await owner.aclose()

    async def test_the_rights_of_a_sender_suffice_for_sending(self) -> None:
        with a_nats_server(with_rights(SENDING)) as server:
            broker = broker_at(server.url(access="shop:secret"))
            await broker.publish(QUEUE, packets(1))
            assert await broker.waiting(QUEUE) == 1
            await broker.aclose()

    async def test_the_server_of_the_page_lets_in_whom_it_says(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("COMMENTS_PASSWORD", "secret")
        (found,) = re.findall(r"```hocon\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        with a_nats_server(found.replace("/var/lib/nats", str(tmp_path)), jetstream=None) as server:
            broker = broker_at(server.url("partitions=4", access="comments:secret"))
            for _ in range(2):
                await broker.publish("orchestrator", packets(30))
                async with opened(broker), opened(broker) as reading:
                    assert await reading.next(1, 0.05) == []
            assert await broker.waiting("orchestrator") == 60
            with pytest.raises(BrokerRefused, match=r"sagabox\.comments\.0"):
                await broker.publish(QUEUE, packets(1))
            with pytest.raises(BrokerRefused, match=r"sagabox_mail"):
                await broker.publish("mail", packets(1))
            await broker.aclose()

    async def test_one_who_may_not_hear_the_answers(self) -> None:
        with a_nats_server(with_rights(SENDING, ("other.>",))) as server:
            assert "permissions violation" in await refusal(server.url(access="shop:secret"))


class TestServers:
    async def test_one_without_jetstream(self) -> None:
        with a_nats_server(jetstream=None) as server:
            assert "store_dir" in await refusal(server.url())

    async def test_one_whose_account_has_no_jetstream(self) -> None:
        accounts = "accounts { A { users: [ { user: a, password: b } ] } }"
        with a_nats_server(accounts) as server:
            assert "account" in await refusal(server.url(access="a:b"))

    async def test_one_that_is_not_there(self) -> None:
        broker = broker_at("nats://127.0.0.1:1,127.0.0.1:2")
        for call in (broker.publish(QUEUE, packets(1)), broker.open(QUEUE, 0)):
            with pytest.raises(BrokerAway, match=r"127.0.0.1:1: .*127.0.0.1:2: ") as away:
                await call
            assert not away.value.sent
        await broker.aclose()


class TestTls:
    async def test_who_trusts_the_certificate_is_answered(self) -> None:
        with a_nats_server(TLS) as server:
            await works(server.url(f"ca={CERTIFICATE}", scheme="nats+tls"))
            assert "certificate" in await refusal(server.url(scheme="nats+tls"))

    async def test_a_client_shows_its_own(self) -> None:
        verified = TLS.replace("}", f', ca_file: "{CERTIFICATE}", verify: true }}')
        with a_nats_server(verified) as server:
            trusting = f"ca={CERTIFICATE}"
            await works(
                server.url(f"{trusting}&cert={CERTIFICATE}&key={CERTIFICATE}", scheme="nats+tls")
            )
            broker = broker_at(server.url(trusting, scheme="nats+tls"))
            with pytest.raises((BrokerRefused, BrokerAway)):
                await broker.publish(QUEUE, packets(1))
            await broker.aclose()

    async def test_no_secret_leaves_in_the_clear_where_the_address_says_tls(self) -> None:
        heard = bytearray()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576}\r\n')
            heard.extend(await reader.read(65536))
            writer.close()

        listening = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        for access in ("shop:hush@", "hush@", ""):
            refused = await refusal(f"nats+tls://{access}127.0.0.1:{port}")
            assert "TLS" in refused
        assert b"hush" not in heard
        listening.close()

    async def test_files_that_cannot_be_read_are_named(self, server: NatsServer) -> None:
        assert "/nowhere.pem" in await refusal(server.url("ca=/nowhere.pem"))


@pytest.mark.parametrize("query", ["replicas=0", "replicas=six", "colour=red"])
def test_options_that_nats_does_not_have(query: str) -> None:
    with pytest.raises(InvalidService, match=query.split("=", maxsplit=1)[0]):
        broker_at(f"nats://127.0.0.1:4222?{query}")
