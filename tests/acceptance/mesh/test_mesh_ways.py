"""The ways through the edge: gRPC, streams, and what is not let in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from orchestrator.api_grpc.v1 import runs_pb2
from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions, assert_gone
from tests.support.fixtures import DatabaseFactory
from tests.support.mesh.meshed import Mesh, meshed
from tests.support.orchestrator.streams import shows_all_there_is
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.timeout(400)]


@pytest.fixture
async def mesh(blog: RunningBlog, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with meshed(blog, tmp_path / "envoy") as made:
        await made.start_all(each=1)
        yield made


async def test_a_stream_is_not_held_up_and_the_log_has_the_ids_of_sagas(mesh: Mesh) -> None:
    blog = mesh.blog
    article = await blog.publish()
    await blog.until_known(article)
    await blog.children["comments"].kill()  # so that the run does not end
    answer = await blog.ask("articles", "DELETE", f"/articles/{article}")
    saga = answer.json()["saga_id"]
    assert answer.headers["location"] == f"{mesh.public}/sagas/{saga}"
    url, shown = blog.fronts["orchestrator"]
    assert await shows_all_there_is(f"{url}/sagas/{saga}", shown)
    await blog.start("comments")
    assert await blog.until_ended(saga) == "COMPLETED"
    await assert_gone(blog, article)
    for line in (
        {"path": f"/articles/{article}", "method": "DELETE"},
        {"path": f"/sagas/{saga}/events", "cluster": "orchestrator"},
        {"path": "/messages", "to": "articles", "sagas": saga},
        {"path": "/messages", "to": "comments", "sagas": saga},
        {"path": "/messages", "to": "orchestrator", "sender": "sagabox (articles)"},
    ):
        assert (await mesh.envoy.logged(**line))["sagas"] == saga


async def test_messages_and_figures_do_not_pass_the_public_side(mesh: Mesh) -> None:
    async with httpx.AsyncClient(base_url=mesh.public, timeout=60, trust_env=False) as client:
        for path in ("/messages", "/%6dessages", "//messages", "/metrics", "/docs", "/readyz"):
            assert (await client.post(path)).status_code == 404, path
            assert (await client.get(path)).status_code == 404, path
        # And the orchestrator asks those who came this way for a key.
        assert (await client.get("/sagas")).status_code == 401
    async with httpx.AsyncClient(
        base_url=f"http://{mesh.messages}", timeout=60, trust_env=False
    ) as client:
        assert (await client.get("/sagas")).status_code == 404
        named = {"ce-sagaboxto": "strangers"}
        assert (await client.post("/messages", headers=named)).status_code == 404
        named = {"ce-sagaboxto": "comments"}
        assert (await client.post("/messages", headers=named)).status_code == 401


async def test_p4_p9_all_of_it_goes_over_grpc_as_well(
    database_factory: DatabaseFactory, tmp_path: Path
) -> None:
    async with (
        running_blog(database_factory, tmp_path, over_grpc=True) as blog,
        meshed(blog, tmp_path / "envoy") as mesh,
    ):
        await mesh.start_all()
        for name in ("orchestrator-grpc", "articles-grpc", "comments-grpc"):
            await mesh.envoy.until_well(name, *mesh.hosts[name.removesuffix("-grpc")])
        deletions = Deletions(blog)
        await deletions.prepare(4)
        await deletions.ask()
        await deletions.assert_ended_rightly()
        article = await blog.publish()
        run = await _started(mesh, article)
        assert run.status == "COMPLETED"
        await assert_gone(blog, article)
        await assert_agreement(blog.databases)
        deliver = {"path": "/sagabox.v1.Messages/Deliver", "grpc_status": "OK"}
        for name in ("articles", "comments"):
            line = await mesh.envoy.logged(**deliver, to=name, sagas=run.id)
            assert line["cluster"] == f"{name}-grpc"
        hosts = await mesh.envoy.hosts("articles-grpc")
        assert all(of["requests"] > 0 for of in hosts.values()), hosts
        assert not [it for it in mesh.envoy.access_log() if it["path"] == "/messages"]


async def _started(mesh: Mesh, article: str) -> runs_pb2.Run:
    """The run of a deletion that was started over gRPC, by the public address; it has ended."""
    _, shown = mesh.blog.fronts["orchestrator"]
    asked = runs_pb2.StartRequest(
        saga="delete-article", input=b'{"article_id": "%s"}' % article.encode(), wait=30
    )
    async with grpc.aio.insecure_channel(mesh.public.removeprefix("http://")) as channel:
        start: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        start = channel.unary_unary("/sagabox.v1.Runs/Start")
        answers: list[bytes] = []

        async def started() -> bool:
            try:
                answers.append(await start(asked.SerializeToString(), metadata=[*shown.items()]))
            except grpc.aio.AioRpcError as error:
                # A node that has just started has no part of the runs yet, and says so.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            return bool(answers)

        await until(started, deadline=60, what="a node begins the run")
    return runs_pb2.Run.FromString(answers[0])
