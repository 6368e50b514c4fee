"""The blog as real processes, for tests that kill them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from orchestrator.cli.processes.blog import Blog
from orchestrator.cli.processes.child import Child, Spec
from orchestrator.cli.terminal.errors import CommandError
from outbox.clock import SystemClock
from outbox.crashpoints import ENVIRONMENT_VARIABLE
from outbox.replies import Reply
from outbox.transports.base import Answered
from outbox.transports.http import HttpTransport
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from tests.support.blog.blog import articles_schema, comments_schema
from tests.support.databases.databases import Database, Schema
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.processes import zygote
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

SECRET = "test:" + base64.b64encode(b"the secret of the real processes").decode()


class RunningBlog:
    """The services, each a process of its own, and a client for their public addresses."""

    def __init__(
        self,
        databases: Mapping[str, Database],
        folder: Path,
        client: httpx.AsyncClient,
        *,
        over_grpc: bool = False,
        broker: str | None = None,
    ) -> None:
        self.databases = databases
        self.settings = {"SAGABOX_DELIVERY_TIMEOUT": "2"}
        self.participants: dict[str, str] = {}
        """Where the orchestrator finds its participants, if not where they listen."""
        self.fronts: dict[str, tuple[str, Mapping[str, str]]] = {}
        """Where people ask a service, if not where it listens, and the headers that they show."""
        self._client = client
        self._blog = Blog(
            databases={name: database.url for name, database in databases.items()},
            ports={name: free_port() for name in databases},
            secret=SECRET,
            logs=folder,
            grpc_ports={name: free_port() for name in databases} if over_grpc else {},
            broker=broker,
        )
        self.children: dict[str, Child] = {}

    async def start(
        self, name: str, crash: str | None = None, extra: Mapping[str, str] | None = None
    ) -> Child:
        """Start a service, or start it again; it is ready, or dead at its crash point already.

        `crash` is "NAME:HIT" of a crash point. What an earlier run left in the outbox can bring
        the service there before anybody has seen it ready. `extra` is added to the environment of
        this run alone.
        """
        more = {} if crash is None else {ENVIRONMENT_VARIABLE: crash}
        child = await zygote.start(self._spec(name, {**more, **(extra or {})}))
        self.children[name] = child
        try:
            await child.ready()
        except CommandError:
            if crash is None or child.ending != "SIGKILL":
                raise
        return child

    async def begin_second(self, database_url: str, crash: str | None = None) -> Child:
        """Start another orchestrator, on this address of the same database, and do not wait until
        it is ready. No service sends it anything; its log is that of `orchestrator-2`."""
        extra = {} if crash is None else {ENVIRONMENT_VARIABLE: crash}
        spec = self._second_spec(database_url, extra)
        child = self.children[spec.name] = await zygote.start(spec)
        guardian().entrust_process(child.pid)  # it may be stopped when this run is killed
        return child

    async def execute_second(self, database_url: str, extra: Mapping[str, str]) -> Child:
        """The same as a program of its own, for what a fork comes too late for. It is ready."""
        spec = self._second_spec(database_url, extra)
        child = self.children[spec.name] = await Child.start(spec)
        await child.ready()
        return child

    def _second_spec(self, database_url: str, extra: Mapping[str, str]) -> Spec:
        spec, port = self._spec("orchestrator", extra), free_port()
        return replace(
            spec,
            name="orchestrator-2",
            command=(*spec.command, "--port", str(port)),
            environment={
                **spec.environment,
                "SAGABOX_DATABASE_URL_ORCHESTRATOR": database_url,
                **({"SAGABOX_GRPC_PORT": str(free_port())} if self._blog.grpc_ports else {}),
            },
            url=f"http://127.0.0.1:{port}",
            log=spec.log.with_name("orchestrator-2.log"),
        )

    async def stop(self) -> None:
        """Stop what runs."""
        for child in self.children.values():
            await child.stop()

    def _spec(self, name: str, extra: Mapping[str, str]) -> Spec:
        """How to start a service, with `extra` in its environment."""
        extra = {"SAGABOX_POLL_INTERVAL": "0.2", **self.settings, **extra}
        if name == "orchestrator" and self.participants:
            extra["SAGABOX_PEERS"] = ",".join(f"{it}={at}" for it, at in self.participants.items())
        return self._blog.spec(name, extra=extra)

    def url(self, name: str) -> str:
        """Where the service listens."""
        return self._blog.url(name)

    def way_to(self, name: str) -> str:
        """Where the service takes messages."""
        return self._blog.way_to(name)

    def log(self, name: str) -> str:
        """What the service has printed."""
        return (self._blog.logs / f"{name}.log").read_text("utf-8")

    def transport_to(self, name: str) -> HttpTransport:
        """Speaks to a service's receiver as another service would."""
        return HttpTransport(
            self._blog.url(name),
            source="test",
            keys=Keyring.from_text(SECRET),
            clock=SystemClock(),
            timeout=60,
        )

    async def tell(self, name: str, message: Envelope) -> Reply:
        """Send one message to a service's receiver; its answer."""
        transport = self.transport_to(name)
        try:
            delivery = await transport.deliver([message])
        finally:
            await transport.aclose()
        assert isinstance(delivery, Answered), delivery
        return delivery.replies[0]

    async def ask(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to a service's public address."""
        url, shown = self.fronts.get(name, (self._blog.url(name), {}))
        options["headers"] = {**shown, **options.get("headers", {})}
        return await self._client.request(method, url + path, **options)

    async def publish(self, title: str = "Tides") -> str:
        """A new article; its id."""
        article = {"title": title, "body": "Once upon a time", "author": "ada"}
        answer = await self.ask("articles", "POST", "/articles", json=article)
        assert answer.status_code == 201, answer.text
        id_: str = answer.json()["id"]
        return id_

    async def edit(self, article: str) -> None:
        """Edit the present version of an article. Raises httpx.TransportError without an answer."""
        now = await self.ask("articles", "GET", f"/articles/{article}")
        answer = await self.ask(
            "articles",
            "PUT",
            f"/articles/{article}",
            json={"title": f"after {now.headers['etag']}", "body": "Later"},
            headers={"if-match": now.headers["etag"]},
        )
        assert answer.status_code == 200, answer.text

    async def version(self, article: str) -> int:
        """The version that articles has of an article."""
        version: int = (await self.ask("articles", "GET", f"/articles/{article}")).json()["version"]
        return version

    async def thread(self, article: str) -> dict[str, Any]:
        """What comments knows of an article."""
        answer = await self.ask("comments", "GET", f"/threads/{article}")
        if answer.status_code == 404:
            return {"version": 0, "events": 0, "out_of_order": 0, "comments": 0}
        thread: dict[str, Any] = answer.json()
        return thread

    async def comment(self, article: str, content: str) -> str:
        """A new comment; its id."""
        comment = {"article_id": article, "author": "bob", "content": content}
        answer = await self.ask("comments", "POST", "/comments", json=comment)
        assert answer.status_code == 201, answer.text
        id_: str = answer.json()["id"]
        return id_

    async def comments_of(self, article: str) -> list[dict[str, Any]]:
        """The comments that everybody sees, up to 200."""
        wanted = {"article_id": article, "limit": 200}
        answer = await self.ask("comments", "GET", "/comments", params=wanted)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def hold(self, article: str) -> None:
        """Forbid its deletion."""
        answer = await self.ask(
            "articles", "PUT", f"/articles/{article}/legal-hold", json={"reason": "a lawsuit"}
        )
        assert answer.status_code == 200, answer.text

    async def delete(self, article: str) -> str:
        """Ask for its deletion; the id of the saga. Raises httpx.TransportError if no service
        answers."""
        answer = await self.ask("articles", "DELETE", f"/articles/{article}")
        assert answer.status_code == 202, answer.text
        saga: str = answer.json()["saga_id"]
        return saga

    async def saga(self, saga: str) -> dict[str, Any] | None:
        """How the saga stands; None where the orchestrator has not heard of it, or is away."""
        try:
            answer = await self.ask("orchestrator", "GET", f"/sagas/{saga}")
        except httpx.TransportError:
            return None
        if answer.status_code != 200:
            return None
        shown: dict[str, Any] = answer.json()
        return shown

    async def until_ended(self, saga: str, deadline: float = 40) -> str:
        """Wait for the end of the saga; its status."""
        status = ""

        async def ended() -> bool:
            nonlocal status
            shown = await self.saga(saga)
            status = "" if shown is None else shown["status"]
            return shown is not None and shown["ended_at"] is not None

        try:
            await until(ended, deadline=deadline, what=f"saga {saga} ends")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {status}: {await self.saga(saga)}") from None
        return status

    async def until_known(self, article: str, version: int = 1) -> None:
        """Wait until comments knows that version of the article."""

        async def known() -> bool:
            # It has none where the service is in trouble itself.
            return bool((await self.thread(article)).get("version", 0) >= version)

        await until(known, deadline=40, what=f"comments knows version {version}")


@asynccontextmanager
async def running_blog(
    make: Callable[[Schema], Database],
    folder: Path,
    *,
    over_grpc: bool = False,
    broker: str | None = None,
) -> AsyncIterator[RunningBlog]:
    """The services' databases are there; the test starts the services. `broker` is the address of
    one through which they send."""
    databases = {
        "articles": make(articles_schema),
        "comments": make(comments_schema),
        "orchestrator": make(orchestrator_schema),
    }
    # uvicorn closes a connection that has rested for 5 s: a request must not meet that.
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2)
    async with httpx.AsyncClient(timeout=20, trust_env=False, limits=limits) as client:
        blog = RunningBlog(databases, folder, client, over_grpc=over_grpc, broker=broker)
        try:
            yield blog
        finally:
            await blog.stop()
