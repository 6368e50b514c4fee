"""`sagabox demo`: the services in a folder of their own, killed while they work, and checked."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.binding import free_port
from orchestrator.cli.blog import Blog
from orchestrator.cli.databases import bring_up_to_date
from orchestrator.cli.errors import CommandError
from orchestrator.cli.processes import Child
from orchestrator.cli.secrets import shared_secret
from orchestrator.cli.services import SERVICES

if TYPE_CHECKING:
    import httpx

ARTICLES = 3
COMMENTS = 200
EDITS = 20
"""Edits of each article, each time somebody is killed."""

_PATIENCE = 30.0  # seconds for everything to arrive
_AT_ONCE = 8


def demo(
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep the databases and logs there, instead of removing them."),
    ] = None,
) -> None:
    """Write articles and comments through the public addresses, kill services meanwhile, and check
    that every event arrived once and in order.

    Ends with 0 only if every check held, and leaves nothing running.
    """
    console = Console(highlight=False)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        checks = asyncio.run(_in_folder(folder.resolve(), console))
    else:
        with tempfile.TemporaryDirectory(prefix="sagabox-demo-") as made:
            checks = asyncio.run(_in_folder(Path(made), console))
    console.print(_report(checks))
    if not all(check.held for check in checks):
        raise CommandError(
            "the demo found a promise broken",
            "; ".join(check.name for check in checks if not check.held),
            "run it again with --folder demo, and look at demo/logs",
        )


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was expected, and what was found."""

    name: str
    expected: object
    found: object

    @property
    def held(self) -> bool:
        """Whether it is as it was expected to be."""
        return self.expected == self.found


async def _in_folder(folder: Path, console: Console) -> Sequence[Check]:
    import httpx

    blog = Blog(
        databases={name: f"sqlite:///{folder / name}.sqlite" for name in SERVICES},
        ports={name: free_port() for name in ("orchestrator", *SERVICES)},
        secret=shared_secret(folder / "secret"),
        logs=folder / "logs",
    )
    for database in blog.databases.values():
        if Path(database.removeprefix("sqlite:///")).exists():
            raise CommandError(
                f"{folder} has databases already",
                "the demo counts what is in them, and so needs new ones",
                "sagabox demo --folder ANOTHER",
            )
    await bring_up_to_date(blog.databases)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
        story = _Story(blog, client, console)
        stack.push_async_callback(story.stop)
        await story.tell()
        return await story.checks(folder)


class _Story:
    """What happens in the demo, and what is known of it."""

    def __init__(self, blog: Blog, client: httpx.AsyncClient, console: Console) -> None:
        self._blog = blog
        self._client = client
        self._console = console
        self._children: dict[str, Child] = {}
        self._versions: dict[str, int] = {}
        self._comments = 0
        self._began = time.monotonic()

    async def tell(self) -> None:
        """Let it happen."""
        self._say(f"starting {', '.join(SERVICES)}, each with a SQLite database of its own")
        await asyncio.gather(*(self._start(name) for name in SERVICES))
        self._say(f"publishing {ARTICLES} articles; comments hears of them by their events alone")
        for number in range(ARTICLES):
            await self._publish(number)
        self._say(f"writing {COMMENTS // 2} comments")
        await self._write_comments(COMMENTS // 2)
        pid = await self._kill("comments")
        self._say(
            f"comments (pid {pid}) was killed with SIGKILL; meanwhile {ARTICLES * EDITS} edits:"
            " their events wait in the outbox of articles"
        )
        await self._edit_all(EDITS)
        await self._start("comments")
        self._say("comments is back")
        await self._write_comments(COMMENTS - COMMENTS // 2)
        self._say(f"{ARTICLES * EDITS} more edits, and articles is killed right behind the last")
        await self._edit_all(EDITS)
        pid = await self._kill("articles")
        await self._start("articles")
        self._say(f"articles (pid {pid}) was killed with SIGKILL, and is back")
        await self._until_everything_arrived()
        self._say("every event has arrived")

    async def checks(self, folder: Path) -> Sequence[Check]:
        """Look at everything through the public addresses, and count the rows in the databases."""
        threads = [await self._thread(article) for article in self._versions]
        await self.stop()
        events = sum(self._versions.values())
        return [
            Check(
                "comments knows the last version of each article",
                list(self._versions.values()),
                [thread["version"] for thread in threads],
            ),
            Check(
                "each event took effect once",
                events,
                sum(thread["events"] for thread in threads),
            ),
            Check("events out of order", 0, sum(thread["out_of_order"] for thread in threads)),
            Check("messages in the inbox of comments", events, _rows(folder, "comments", "inbox")),
            Check("messages left in the outbox", 0, _rows(folder, "articles", "outbox")),
            Check("dead letters", 0, _rows(folder, "articles", "outbox_dead")),
            Check("comments", COMMENTS, sum(thread["comments"] for thread in threads)),
        ]

    async def stop(self) -> None:
        """Stop the services that run."""
        await asyncio.gather(*(child.stop() for child in self._children.values()))

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:5.1f} s[/dim]  {text}")

    async def _start(self, name: str) -> None:
        child = await Child.start(self._blog.spec(name))
        self._children[name] = child
        await child.ready()

    async def _kill(self, name: str) -> int:
        child = self._children[name]
        await child.kill()
        return child.pid

    async def _publish(self, number: int) -> None:
        article = {"title": f"Article {number}", "body": "Once upon a time", "author": "ada"}
        answer = await self._client.post(self._blog.url("articles") + "/articles", json=article)
        answer.raise_for_status()
        self._versions[answer.json()["id"]] = 1

    async def _edit_all(self, edits: int) -> None:
        for number in range(edits):
            await asyncio.gather(*(self._edit(article, number) for article in self._versions))

    async def _edit(self, article: str, number: int) -> None:
        answer = await self._client.put(
            f"{self._blog.url('articles')}/articles/{article}",
            json={"title": f"Edit {number}", "body": "Once upon another time"},
            headers={"if-match": f'"{self._versions[article]}"'},
        )
        answer.raise_for_status()
        self._versions[article] = answer.json()["version"]

    async def _write_comments(self, count: int) -> None:
        articles = list(self._versions)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def write(number: int) -> None:
            async with gate:
                await self._comment(articles[number % len(articles)], number)

        await asyncio.gather(*(write(number) for number in range(count)))

    async def _comment(self, article: str, number: int) -> None:
        comment = {"article_id": article, "author": "bob", "content": f"Comment {number}"}

        async def accepted() -> bool:
            answer = await self._client.post(self._blog.url("comments") + "/comments", json=comment)
            if answer.status_code == 404:  # the event of the article is still on its way
                return False
            answer.raise_for_status()
            return True

        await _until(accepted, "comments knows the article")

    async def _until_everything_arrived(self) -> None:
        async def arrived() -> bool:
            threads = [await self._thread(article) for article in self._versions]
            return [it["version"] for it in threads] == list(self._versions.values())

        await _until(arrived, "every event has arrived")

    async def _thread(self, article: str) -> dict[str, Any]:
        answer = await self._client.get(f"{self._blog.url('comments')}/threads/{article}")
        answer.raise_for_status()
        thread: dict[str, Any] = answer.json()
        return thread


async def _until(predicate: Callable[[], Awaitable[bool]], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not await predicate():
        if time.monotonic() > end:
            raise CommandError(
                f"waited {_PATIENCE:g} s in vain until {what}",
                "a service does not send, or does not take in",
                "run it again with --folder demo, and look at demo/logs",
            )
        await asyncio.sleep(0.1)


def _rows(folder: Path, service: str, table: str) -> int:
    with closing(sqlite3.connect(folder / f"{service}.sqlite")) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def _report(checks: Sequence[Check]) -> Table:
    table = Table("check", "expected", "found", "")
    for check in checks:
        mark = "[green]ok[/green]" if check.held else "[red]BROKEN[/red]"
        table.add_row(check.name, str(check.expected), str(check.found), mark)
    return table
