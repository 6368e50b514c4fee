"""The public interface of articles over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from articles.model import (
    MAX_AUTHOR,
    MAX_BODY,
    MAX_REASON,
    MAX_TITLE,
    Article,
    ArticleStatus,
    status_of,
)
from outbox.chassis.access.routes import Access, Table
from outbox.chassis.http import pages
from outbox.chassis.http.input_types import NO_NUL, id_in_path
from outbox.chassis.http.problems import HttpProblem, documented
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.clock import Clock
from outbox.database.opening import Database
from outbox.database.pages import newest

Title = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TITLE, pattern=NO_NUL)]
Body = Annotated[str, StringConstraints(max_length=MAX_BODY, pattern=NO_NUL)]
Author = Annotated[str, StringConstraints(min_length=1, max_length=MAX_AUTHOR, pattern=NO_NUL)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=MAX_REASON, pattern=NO_NUL)]


ACCESS: Table = {
    ("POST", "/articles"): Access.PUBLIC,
    ("GET", "/articles"): Access.PUBLIC,
    ("GET", "/articles/{id}"): Access.PUBLIC,
    ("PUT", "/articles/{id}"): Access.PUBLIC,
    ("DELETE", "/articles/{id}"): Access.PUBLIC,
    ("PUT", "/articles/{id}/legal-hold"): Access.PUBLIC,
    ("DELETE", "/articles/{id}/legal-hold"): Access.PUBLIC,
}
"""The access that each route needs."""


class NewArticle(BaseModel):
    """The body of a new article."""

    title: Title
    body: Body
    author: Author


class NewText(BaseModel):
    """The body that replaces an article's text."""

    title: Title
    body: Body


class Hold(BaseModel):
    """The reason why an article must not be deleted."""

    reason: Reason


class ArticleInList(BaseModel):
    """An article without its body."""

    id: str
    title: str
    author: str
    status: Literal["published", "deleting"]
    version: int = Field(description="Grows by one with each edit; in quotes it is the ETag")
    created_at: datetime
    updated_at: datetime
    legal_hold: str | None = Field(description="Why it must not be deleted, if it must not")


class ArticleOut(ArticleInList):
    """An article."""

    body: str


class Deletion(BaseModel):
    """The saga that was asked to delete the article."""

    saga_id: str
    article_id: str


_TABLE = Article.__table__
_LIST = select(*(it for it in _TABLE.c if it is not _TABLE.c.body)).where(
    _TABLE.c.deleted_at.is_(None)
)
_ONE = select(_TABLE).where(_TABLE.c.id == bindparam("id"))
_LOCKED = select(Article).where(Article.id == bindparam("id")).with_for_update()

_GONE = {404: "There is no such article", 410: "It has been deleted"}


def router(
    database: Database, *, clock: Clock, new_id: Callable[[], str], orchestrator: str
) -> APIRouter:
    """The router of these addresses. `orchestrator` is the address where the sagas can be
    watched."""
    routes = APIRouter(tags=["articles"], route_class=StrictRoute)

    @routes.post("/articles", status_code=201, summary="Publish an article")
    async def create(new: NewArticle, response: Response) -> ArticleOut:
        article = Article.write(
            new_id(), title=new.title, body=new.body, author=new.author, now=clock.now()
        )
        async with database.sessions.begin() as session:
            session.add(article)
            outbox.add(session, article.publish())
        response.headers["location"] = f"/articles/{article.id}"
        return _shown(article.columns(), response)

    @routes.get(
        "/articles",
        summary="List articles, newest first",
        description="Without their bodies. One that is being deleted is listed with that status; "
        "one that has been deleted is not listed.",
    )
    async def list_articles(
        wanted: pages.WantedPage,
        author: Annotated[
            str | None,
            Query(max_length=MAX_AUTHOR, pattern=NO_NUL, description="Only those of this author"),
        ] = None,
    ) -> pages.Page[ArticleInList]:
        query = _LIST if author is None else _LIST.where(_TABLE.c.author == author)
        async with database.reading.connect() as connection:
            rows, cursor = await newest(connection, query, Article.id, wanted)
        items = [ArticleInList(**_with_status(row._asdict())) for row in rows]
        return pages.Page(items=items, next_cursor=cursor)

    @routes.get("/articles/{id}", summary="Read an article", responses=documented(_GONE))
    async def read(id: str, response: Response) -> ArticleOut:
        async with database.reading.connect() as connection:
            row = (await connection.execute(_ONE, {"id": _named(id)})).first()
        if row is None:
            raise _unknown(id)
        if row.deleted_at is not None:
            raise _deleted(id)
        return _shown(row._asdict(), response)

    @routes.put(
        "/articles/{id}",
        summary="Replace the text of an article",
        responses=documented(
            _GONE
            | {
                409: "It is being deleted",
                412: "It has another version by now",
                428: "If-Match is missing",
            }
        ),
    )
    async def edit(
        id: str,
        new: NewText,
        response: Response,
        if_match: Annotated[
            str | None, Header(description="The ETag of the version that the edit began from")
        ] = None,
    ) -> ArticleOut:
        async with database.sessions.begin() as session:
            article = await _locked(session, id)
            if article.status is ArticleStatus.DELETING:
                raise _being_deleted(id)
            _require_match(if_match, article.version)
            outbox.add(session, article.edit(title=new.title, body=new.body, now=clock.now()))
        return _shown(article.columns(), response)

    @routes.delete(
        "/articles/{id}",
        status_code=202,
        summary="Ask for the deletion of an article and its comments",
        response_description="A saga will delete it, unless something forbids that. Asking again "
        "names the same saga until it has ended",
        responses=documented(_GONE),
    )
    async def delete(id: str, response: Response) -> Deletion:
        async with database.sessions.begin() as session:
            article = await _locked(session, id)
            start = article.ask_for_deletion(new_id())
            if start is not None:
                outbox.add(session, start, id=start.instance_id)
            saga = article.deletion_saga
        assert saga is not None  # it has one now, that of `start` or an earlier one
        response.headers["location"] = f"{orchestrator}/sagas/{saga}"
        return Deletion(saga_id=saga, article_id=article.id)

    @routes.put(
        "/articles/{id}/legal-hold",
        summary="Forbid the deletion of an article, also one that is under way",
        responses=documented(_GONE),
    )
    async def hold(id: str, hold: Hold, response: Response) -> ArticleOut:
        async with database.sessions.begin() as session:
            article = await _locked(session, id)
            article.put_on_hold(hold.reason)
        return _shown(article.columns(), response)

    @routes.delete(
        "/articles/{id}/legal-hold",
        status_code=204,
        summary="Allow the deletion of an article again",
        responses=documented(_GONE),
    )
    async def release(id: str) -> None:
        async with database.sessions.begin() as session:
            article = await _locked(session, id)
            article.release_hold()

    return routes


def _shown(columns: Mapping[str, Any], response: Response) -> ArticleOut:
    response.headers["etag"] = f'"{columns["version"]}"'
    return ArticleOut(**_with_status(columns))


def _with_status(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an article, and its status for the public."""
    status = status_of(columns["hidden_by"], columns["deletion_saga"], columns["deleted_at"])
    return {**columns, "status": status.value}


async def _locked(session: AsyncSession, id: str) -> Article:
    """The article, for this transaction alone. Raises the 404 or the 410."""
    article: Article | None = await session.scalar(_LOCKED, {"id": _named(id)})
    if article is None:
        raise _unknown(id)
    if article.status is ArticleStatus.DELETED:
        raise _deleted(id)
    return article


def _named(id: str) -> str:
    """The id as the database has it. Raises the 404 where it is no possible id."""
    known = id_in_path(id)
    if known is None:
        raise _unknown(id)
    return known


def _require_match(if_match: str | None, version: int) -> None:
    if if_match is None:
        raise HttpProblem(
            428,
            "if-match-missing",
            "An edit must say which version it began from.",
            next_step="Read the article, and send its ETag as If-Match.",
        )
    allowed = {tag.strip() for tag in if_match.split(",")}
    if allowed.isdisjoint({f'"{version}"', "*"}):
        raise HttpProblem(
            412,
            "version-changed",
            f"The article has version {version} by now; the edit began from another one.",
            next_step="Read the article again, and make the edit in what it says now.",
            headers={"etag": f'"{version}"'},
        )


def _unknown(id: str) -> HttpProblem:
    return HttpProblem(
        404,
        "unknown-article",
        f"There is no article {id!r}.",
        next_step="Take the id from the answer to POST /articles, or from GET /articles.",
    )


def _deleted(id: str) -> HttpProblem:
    return HttpProblem(
        410,
        "article-deleted",
        f"The article {id} has been deleted.",
        next_step="Nothing can be done with it any more; forget its address.",
    )


def _being_deleted(id: str) -> HttpProblem:
    return HttpProblem(
        409,
        "article-being-deleted",
        f"The article {id} is being deleted, and cannot be changed meanwhile.",
        next_step="Read it again later: it is gone then, or it can be edited again.",
    )
