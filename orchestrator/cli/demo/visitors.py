"""The visitors of the demo's blog, people and programs, who use its public addresses alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.demo.checks import Comment
from orchestrator.cli.demo.waiting import LOOK, until
from orchestrator.cli.terminal.errors import CommandError, ExitCode

if TYPE_CHECKING:
    import httpx

    from orchestrator.cli.processes.blog import Blog

_AT_ONCE = 8  # articles, comments or deletions, where there are many
_PAGE = 200  # comments in one answer


class Visitors:
    """A visitor of one blog's services. Every method raises CommandError for an answer that it does
    not promise."""

    def __init__(self, blog: Blog, client: httpx.AsyncClient) -> None:
        self._blog = blog
        self._client = client
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def publish(self, title: str) -> str:
        """A new article; its id."""
        article = {"title": title, "body": "Once upon a time", "author": "ada"}
        async with self._gate:
            id_: str = (await self._done("articles", "POST", "/articles", json=article))["id"]
        return id_

    async def publish_all(self, titles: Sequence[str]) -> Sequence[str]:
        """New articles, of which comments has heard; their ids."""
        articles = await asyncio.gather(*(self.publish(it) for it in titles))
        for article in articles:
            await self.until_known(article)
        return articles

    async def until_known(self, article: str) -> None:
        """Wait until comments has heard of the article."""

        async def known() -> bool:
            return (await self._ask("comments", "GET", f"/threads/{article}")).status_code == 200

        await until(known, "comments knows the article")

    async def write(self, article: str, content: str) -> tuple[int, Comment]:
        """Try to comment; the status of the answer, and the comment where that is 201."""
        comment = {"article_id": article, "author": "bob", "content": content}
        answer = await self._ask("comments", "POST", "/comments", json=comment)
        return answer.status_code, answer.json()

    async def write_all(self, articles: Sequence[str], count: int) -> None:
        """So many comments, on the articles by turns."""

        async def write(number: int) -> tuple[int, Comment]:
            async with self._gate:
                return await self.write(articles[number % len(articles)], f"Comment {number}")

        answers = await asyncio.gather(*(write(it) for it in range(count)))
        refused = [body for status, body in answers if status != 201]
        if refused:
            raise _unexpected("POST /comments", refused[0])

    async def comments(self, article: str) -> Sequence[Comment]:
        """All comments of the article that are shown."""
        found: list[Comment] = []
        wanted: dict[str, Any] = {"article_id": article, "limit": _PAGE}
        while True:
            page = await self._done("comments", "GET", "/comments", params=wanted)
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            wanted["cursor"] = page["next_cursor"]

    async def article(self, article: str) -> tuple[int, Mapping[str, Any]]:
        """The status and body of the answer about the article."""
        answer = await self._ask("articles", "GET", f"/articles/{article}")
        return answer.status_code, answer.json()

    async def hold(self, article: str, reason: str) -> None:
        """Forbid its deletion."""
        path = f"/articles/{article}/legal-hold"
        await self._done("articles", "PUT", path, json={"reason": reason})

    async def release(self, article: str) -> None:
        """Allow its deletion again."""
        await self._done("articles", "DELETE", f"/articles/{article}/legal-hold")

    async def delete(self, article: str) -> str:
        """Ask for its deletion; the id of the saga."""
        async with self._gate:
            saga: str = (await self._done("articles", "DELETE", f"/articles/{article}"))["saga_id"]
        return saga

    async def saga(self, saga: str) -> Mapping[str, Any] | None:
        """The run; None where the orchestrator does not know it, or is away."""
        return await self._found(f"/sagas/{saga}")

    async def history(self, saga: str, *, after: int) -> Sequence[Mapping[str, Any]]:
        """The run's history since that line; nothing where the orchestrator is away."""
        page = await self._found(f"/sagas/{saga}/history", after=after)
        return [] if page is None else page["items"]

    async def stuck(self) -> Sequence[str]:
        """The ids of runs that need an operator."""
        page = await self._done("orchestrator", "GET", "/sagas", params={"status": "STUCK"})
        return [it["id"] for it in page["items"]]

    async def _found(self, path: str, **wanted: Any) -> Mapping[str, Any] | None:
        import httpx

        try:
            answer = await self._client.get(self._blog.url("orchestrator") + path, params=wanted)
        except httpx.TransportError:
            return None
        if answer.status_code not in (200, 404):
            raise _unexpected(f"GET {path}", answer.text)
        found: Mapping[str, Any] = answer.json()
        return found if answer.status_code == 200 else None

    async def _done(self, name: str, method: str, path: str, **options: Any) -> Mapping[str, Any]:
        answer = await self._ask(name, method, path, **options)
        if not answer.is_success:
            raise _unexpected(f"{method} {path}", answer.text)
        found: Mapping[str, Any] = answer.json() if answer.content else {}
        return found

    async def _ask(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            return await self._client.request(method, self._blog.url(name) + path, **options)
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise CommandError(
                f"{name} did not answer {method} {path}", why, LOOK, exit_code=ExitCode.OTHERWISE
            ) from error


def _unexpected(request: str, said: object) -> CommandError:
    return CommandError(f"{request} was refused", str(said), LOOK, exit_code=ExitCode.OTHERWISE)
