"""The three services in one process, asked through their public addresses alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

import articles.app
import comments.app
from articles.settings import ArticlesSettings
from comments.settings import CommentsSettings
from orchestrator import Saga, create_app
from orchestrator.engine.engine import Engine
from outbox.clock import Clock
from outbox.replies import Outcome, Reply
from outbox.transports.base import Transport
from outbox.transports.memory import MemoryTransport
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.blog.blog import ORCHESTRATOR, SECRETS, Running, running
from tests.support.databases.databases import Database
from tests.support.orchestrator.orchestrating import PARTICIPANTS, orchestrator_settings
from tests.support.processes.waiting import until

QUICK: dict[str, Any] = {"secrets": SECRETS, "poll_interval": 0.2, "trust_loopback": True}


@dataclass
class WholeBlog:
    """While `open` is not set, no command of a saga reaches a service. What `loses` says is lost
    between services: its sender takes it for delivered."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    loses: Callable[[Envelope], bool] = lambda _: False
    services: dict[str, Running] = field(default_factory=dict)

    def way_to(self, name: str) -> MemoryTransport:
        async def receive(batch: Sequence[Envelope], settled: EndedSagas | None) -> Sequence[Reply]:
            if batch[0].source == "orchestrator":
                await self.open.wait()
                settled = self.settled()
            left = [it for it in batch if not self.loses(it)]
            taken = await self.services[name].chassis.service.inbox.receive(left, settled)
            told = dict(zip((it.id for it in left), taken, strict=True))
            return [told.get(it.id, Reply(Outcome.DONE)) for it in batch]

        return MemoryTransport(receive, timeout=60)

    def settled(self) -> EndedSagas | None:
        """What the orchestrator says of its sagas with each delivery."""
        return self.engine.settled()

    @property
    def engine(self) -> Engine:
        """The orchestrator's."""
        engine = self.services["orchestrator"].chassis.service.carrier
        assert isinstance(engine, Engine)
        return engine

    async def ask(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.services[name].http.request(method, path, **options)

    async def publish(self) -> str:
        """An article with a comment; its id."""
        article = await self.publish_alone()
        comment = {"article_id": article, "author": "Bob", "content": "Well said."}

        async def taken() -> bool:
            answer = await self.ask("comments", "POST", "/comments", json=comment)
            return answer.status_code == 201

        await until(taken, what="comments knows the article")
        return article

    async def publish_alone(self) -> str:
        """An article, which comments may not know yet; its id."""
        new = {"title": "Tides", "body": "High and low.", "author": "Ada"}
        article: str = (await self.ask("articles", "POST", "/articles", json=new)).json()["id"]
        return article

    async def saga(self, id: str) -> dict[str, Any]:
        answer = await self.ask("orchestrator", "GET", f"/sagas/{id}")
        found: dict[str, Any] = answer.json()
        return found

    async def until_ended(self, id: str) -> dict[str, Any]:
        async def ended() -> bool:
            return (await self.saga(id)).get("ended_at") is not None

        await until(ended, deadline=20, what=f"{id} has ended")
        return await self.saga(id)

    async def start(self, article: str, **headers: str) -> httpx.Response:
        body = {"article_id": article}
        return await self.ask(
            "orchestrator", "POST", "/sagas/delete-article", json=body, headers=headers
        )

    async def tell(self, id: str, verb: str, **body: str) -> httpx.Response:
        return await self.ask(
            "orchestrator", "POST", f"/sagas/{id}/{verb}", json={"reason": "lunch", **body}
        )


@asynccontextmanager
async def whole_blog(
    databases: Mapping[str, Database],
    sagas: Sequence[Saga[Any]],
    *,
    ways: Mapping[str, Transport] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[WholeBlog]:
    """The services on these databases, at work. The first saga takes an `article_id`. The
    orchestrator's commands go by `ways`, if those are given, and `clock` is the orchestrator's."""
    blog = WholeBlog()
    blog.open.set()
    orchestrator = create_app(
        orchestrator_settings(databases["orchestrator"], **QUICK),
        sagas=sagas,
        participants=PARTICIPANTS,
        transports=ways or {name: blog.way_to(name) for name in PARTICIPANTS},
        clock=clock,
    )
    of_articles = articles.app.create_app(
        ArticlesSettings(database_url=databases["articles"].url, **QUICK),
        transports={name: blog.way_to(name) for name in ("comments", "orchestrator")},
    )
    of_comments = comments.app.create_app(
        CommentsSettings(
            database_url=databases["comments"].url, peers=f"orchestrator={ORCHESTRATOR}", **QUICK
        ),
        transports={"orchestrator": blog.way_to("orchestrator")},
    )
    apps = {"orchestrator": orchestrator, "articles": of_articles, "comments": of_comments}
    # Over a queue no consumer is at work yet, so that the first run does not end.
    async with _at_work(blog, apps, wait=5 if ways is None else 0):
        yield blog


@asynccontextmanager
async def blog_at_broker(
    databases: Mapping[str, Database],
    sagas: Sequence[Saga[Any]],
    broker: str,
    *,
    clock: Clock | None = None,
) -> AsyncIterator[WholeBlog]:
    """The same, made by settings alone: its messages go through that broker."""
    blog = WholeBlog()
    at_broker: dict[str, Any] = {
        **QUICK,
        "broker": broker,
        "peers": ",".join(f"{name}={broker}" for name in ("orchestrator", *PARTICIPANTS)),
    }
    orchestrator = create_app(
        orchestrator_settings(databases["orchestrator"], **at_broker),
        sagas=sagas,
        participants=dict.fromkeys(PARTICIPANTS, broker),
        clock=clock,
    )
    of_articles = articles.app.create_app(
        ArticlesSettings(
            database_url=databases["articles"].url,
            public_url_orchestrator=ORCHESTRATOR,
            **at_broker,
        )
    )
    of_comments = comments.app.create_app(
        CommentsSettings(database_url=databases["comments"].url, **at_broker)
    )
    apps = {"orchestrator": orchestrator, "articles": of_articles, "comments": of_comments}
    async with _at_work(blog, apps, wait=5):
        yield blog


@asynccontextmanager
async def _at_work(blog: WholeBlog, apps: Mapping[str, FastAPI], wait: int) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for name, app in apps.items():
            blog.services[name] = await stack.enter_async_context(running(app))
        for app in reversed([*apps.values()]):
            await stack.enter_async_context(app.router.lifespan_context(app))

        async def ready() -> bool:
            return (await blog.start("no-article", prefer=f"wait={wait}")).status_code < 300

        await until(ready, what="the engine has its shards")
        yield
