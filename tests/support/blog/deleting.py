"""Articles to be deleted, some of them on legal hold, and what must have become of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.orchestrator.saga_writers import assert_histories_are_whole, rows
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

SERVICES = ("orchestrator", "articles", "comments")
_AT_ONCE = 20


@dataclass
class Kept:
    """An article on legal hold with its comments, as they were before its deletion."""

    article: dict[str, Any]
    comments: list[dict[str, Any]]


async def start_all(blog: RunningBlog) -> None:
    """Start the three services."""
    await asyncio.gather(*(blog.start(name) for name in SERVICES))


async def commented(blog: RunningBlog, count: int = 3) -> str:
    """A new article with so many comments."""
    article = await blog.publish()
    await blog.until_known(article)
    for number in range(count):
        await blog.comment(article, f"comment {number}")
    return article


async def kept(blog: RunningBlog, article: str) -> Kept:
    """How both stand now."""
    shown = await blog.ask("articles", "GET", f"/articles/{article}")
    assert shown.status_code == 200, shown.text
    return Kept(shown.json(), await blog.comments_of(article))


async def assert_gone(blog: RunningBlog, article: str) -> None:
    """P9: there is neither the article nor a comment, and none is accepted."""
    assert (await blog.ask("articles", "GET", f"/articles/{article}")).status_code == 410
    assert await blog.comments_of(article) == []
    comment = {"article_id": article, "author": "bob", "content": "late"}
    assert (await blog.ask("comments", "POST", "/comments", json=comment)).status_code == 410


async def until_published(blog: RunningBlog, article: str) -> None:
    """The news of the end travels behind the end."""

    async def published() -> bool:
        shown = await blog.ask("articles", "GET", f"/articles/{article}")
        return bool(shown.json()["status"] == "published")

    await until(published, deadline=30, what="the article is published again")


async def until_all_have_ended(blog: RunningBlog, deadline: float = 60) -> None:
    """Wait until no run of any caller is live."""
    live = "SELECT id FROM saga WHERE ended_at IS NULL"
    await until(
        lambda: not rows(blog.databases["orchestrator"], live), deadline, "every run has ended"
    )


async def asked_again(blog: RunningBlog, article: str) -> str | None:
    """The saga of a deletion whose answer was lost: the same one as long as it is under way, and
    none where the article is gone already."""
    answer = await blog.ask("articles", "DELETE", f"/articles/{article}")
    assert answer.status_code in {202, 410}, answer.text
    return answer.json()["saga_id"] if answer.status_code == 202 else None


class Deletions:
    """Articles whose deletion was asked for: every second one is on legal hold.

    `sagas` has the saga of each deletion that was accepted; None stands for one that was accepted
    although its answer was lost, and whose saga has ended before anybody could ask again.
    """

    def __init__(self, blog: RunningBlog) -> None:
        self._blog = blog
        self._doomed: list[str] = []
        self.held: dict[str, Kept] = {}
        self.sagas: dict[str, str | None] = {}

    @property
    def asked(self) -> Sequence[str]:
        """The sagas that are known."""
        return [saga for saga in self.sagas.values() if saga is not None]

    async def prepare(self, count: int, comments: int = 1) -> None:
        """So many more articles with comments."""
        articles: list[str] = []
        while (left := count - len(articles)) > 0:
            # Hundreds that asked at once for the news of their article would hold it up themselves.
            some = (commented(self._blog, comments) for _ in range(min(left, _AT_ONCE)))
            articles += await asyncio.gather(*some)
        self._doomed += articles[::2]
        for article in articles[1::2]:
            await self._blog.hold(article)
            self.held[article] = await kept(self._blog, article)

    async def ask(self) -> None:
        """Ask for the deletion of those for which no caller has yet."""
        for article in self._left():
            self.sagas[article] = await self._blog.delete(article)

    async def ask_all_at_once(self, deadline: float = 60) -> None:
        """The same at one moment; each is asked for again until it is accepted, as it has to be
        where services and databases come and go."""
        await asyncio.gather(*(self._ask_until_accepted(it, deadline) for it in self._left()))

    async def ask_once(self) -> None:
        """Ask, and leave those that no service answers for `ask_all_at_once`."""
        for article in self._left():
            try:
                self.sagas[article] = await self._blog.delete(article)
            except httpx.TransportError:
                continue

    async def assert_ended_rightly(self, deadline: float = 60) -> None:
        """P4, P9: both are gone, or exactly as they were, and each saga has ended once."""
        for article in self._doomed:
            saga = self.sagas[article]
            assert saga is None or await self._blog.until_ended(saga, deadline) == "COMPLETED"
            await assert_gone(self._blog, article)
        for article, before in self.held.items():
            saga = self.sagas[article]
            assert saga is not None
            assert await self._blog.until_ended(saga, deadline) == "COMPENSATED"
            await until_published(self._blog, article)
            assert await kept(self._blog, article) == before
        await until_all_have_ended(self._blog, deadline)
        assert_histories_are_whole(self._blog.databases["orchestrator"])

    def _left(self) -> list[str]:
        return [it for it in [*self._doomed, *self.held] if it not in self.sagas]

    async def _ask_until_accepted(self, article: str, deadline: float) -> None:
        refused = ""

        async def accepted() -> bool:
            nonlocal refused
            try:
                answer = await self._blog.ask("articles", "DELETE", f"/articles/{article}")
            except httpx.TransportError as error:
                refused = repr(error)
                await asyncio.sleep(0.1)  # as people do who ask again
                return False
            if answer.status_code in {202, 410}:
                self.sagas[article] = (
                    answer.json()["saga_id"] if answer.status_code == 202 else None
                )
                return True
            refused = answer.text
            assert answer.status_code == 503, f"{answer.status_code}: {refused}"
            await asyncio.sleep(0.1)  # likewise
            return False

        try:
            await until(accepted, deadline, f"the deletion of {article} is accepted")
        except AssertionError as error:
            error.add_note(f"the last answer: {refused}")
            raise
