"""Sidecars speak mutual TLS with each other, and let no one else in."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions
from tests.support.fixtures import DatabaseFactory
from tests.support.mesh.certificates import Authority, context
from tests.support.mesh.sidecars import SERVICES, Sidecars, beside
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.timeout(400)]


@pytest.fixture
async def sidecars(blog: RunningBlog, tmp_path: Path) -> AsyncIterator[Sidecars]:
    async with beside(blog, tmp_path / "sidecars") as made:
        yield made


@pytest.mark.parametrize("over_grpc", [False, True], ids=["http", "grpc"])
async def test_p4_p9_deletions_end_rightly_through_sidecars(
    database_factory: DatabaseFactory, tmp_path: Path, over_grpc: bool
) -> None:
    async with (
        running_blog(database_factory, tmp_path, over_grpc=over_grpc) as blog,
        beside(blog, tmp_path / "sidecars") as sidecars,
    ):
        deletions = Deletions(blog)
        await deletions.prepare(4)
        await deletions.ask()
        await deletions.assert_ended_rightly()
        await assert_agreement(blog.databases)
        path = "/sagabox.v1.Messages/Deliver" if over_grpc else "/messages"
        for name in SERVICES:
            await until(partial(_is_told, sidecars, name, path, deletions.asked), what="the log")


def _is_told(sidecars: Sidecars, name: str, path: str, sagas: Sequence[str]) -> bool:
    """Whether the log of that sidecar has these sagas and no others."""
    lines = sidecars.of[name].envoy.access_log()
    came = [
        it["sagas"] for it in lines if (it["path"], it["to"], it["status"]) == (path, name, 200)
    ]
    return {saga for each in came if each for saga in each.split()} == {*sagas}


async def refused(url: str, tls: ssl.SSLContext | bool, path: str = "/livez") -> bool:
    """Whether a caller gets no connection with that certificate."""
    async with httpx.AsyncClient(verify=tls, timeout=60, trust_env=False) as client:
        try:
            await client.get(url + path)
        # With TLS 1.3 the refusal may come after the handshake of the caller: while it reads.
        except (httpx.TransportError, ssl.SSLError):
            return True
    return False


async def test_a_caller_without_a_certificate_of_a_service_is_refused(
    sidecars: Sidecars, tmp_path: Path
) -> None:
    url, own = sidecars.inbound("comments"), sidecars.folders["articles"]
    strange = Authority("strangers", tmp_path / "strange").folder_of("spiffe://sagabox/articles")
    outside = sidecars.authority.folder_of("spiffe://elsewhere/intruder")
    assert not await refused(url, context(own))
    assert await refused(url, context(own, shows=False)), "none"
    assert await refused(url, context(strange, trusts=own)), "of another authority"
    assert await refused(url, context(outside, trusts=own)), "of another name"
    assert await refused(sidecars.inbound("comments", "http"), True), "without TLS"
    port = sidecars.of["comments"].inbound
    counted = await sidecars.of["comments"].envoy.stats(f"listener.127.0.0.1_{port}.ssl.")
    assert counted["fail_verify_no_cert"] == 1
    assert counted["fail_verify_error"] >= 1
    assert counted["fail_verify_san"] == 1


async def test_only_a_service_may_send_messages(sidecars: Sidecars) -> None:
    edge = sidecars.authority.folder_of("spiffe://sagabox/edge")
    url = sidecars.inbound("comments")
    for folder, status in ((edge, 403), (sidecars.folders["orchestrator"], 401)):
        async with httpx.AsyncClient(
            base_url=url, verify=context(folder), timeout=60, trust_env=False
        ) as client:
            assert (await client.get("/livez")).status_code == 200
            for path in ("/messages", "/%6dessages", "/messages?again=1"):
                # A service comes as far as the signature, which this request has not.
                assert (await client.post(path)).status_code == status, path
