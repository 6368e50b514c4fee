"""The public interface of comments over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal, assert_never

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from comments import threads
from comments.model import MAX_AUTHOR, MAX_CONTENT, Comment, Thread, ThreadStatus, status_of
from outbox.chassis.access.routes import Access, Table
from outbox.chassis.http import pages
from outbox.chassis.http.input_types import NO_NUL, AnyId, id_in_path
from outbox.chassis.http.problems import HttpProblem, documented
from outbox.chassis.http.strict_bodies import StrictRoute
from outbox.clock import Clock
from outbox.database.opening import Database
from outbox.database.pages import newest

RETRY_AFTER = 1.0
"""Seconds after which the event about an article is likely to have come."""

Author = Annotated[str, StringConstraints(min_length=1, max_length=MAX_AUTHOR, pattern=NO_NUL)]
Content = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CONTENT, pattern=NO_NUL)]


ACCESS: Table = {
    ("POST", "/comments"): Access.PUBLIC,
    ("GET", "/comments"): Access.PUBLIC,
    ("GET", "/comments/{id}"): Access.PUBLIC,
    ("PUT", "/comments/{id}"): Access.PUBLIC,
    ("DELETE", "/comments/{id}"): Access.PUBLIC,
    ("GET", "/threads/{article_id}"): Access.PUBLIC,
}
"""The access that each route needs."""


class NewComment(BaseModel):
    """The body of a new comment."""

    article_id: AnyId
    author: Author
    content: Content


class NewContent(BaseModel):
    """The body that replaces a comment's content."""

    content: Content


class CommentOut(BaseModel):
    """A comment."""

    id: str
    article_id: str
    author: str
    content: str
    created_at: datetime
    updated_at: datetime


class ThreadOut(BaseModel):
    """The thread of an article, as this service knows it."""

    article_id: str
    status: Literal["unknown", "published", "deleting", "deleted"]
    title: str
    version: int = Field(description="That of the newest event")
    events: int = Field(description="How many events of the article were applied")
    out_of_order: int = Field(description="How many of them did not have the next version")
    comments: int = Field(description="How many comments are shown")


_LIST = select(*threads.SHOWN).where(Comment.archived_by.is_(None))
_ONE = select(*threads.SHOWN, Comment.archived_by).where(Comment.id == bindparam("id"))
_PLACE = select(Comment.article_id).where(Comment.id == bindparam("id"))
_THREAD = select(
    Thread.__table__,
    select(func.count())
    .where(Comment.article_id == Thread.article_id, Comment.archived_by.is_(None))
    .scalar_subquery()
    .label("comments"),
).where(Thread.article_id == bindparam("id"))

_CLOSED = {409: "The article is being deleted", 410: "The article has been deleted"}


def router(database: Database, *, clock: Clock, new_id: Callable[[], str]) -> APIRouter:
    """The router of these addresses."""
    routes = APIRouter(tags=["comments"], route_class=StrictRoute)

    @routes.post(
        "/comments",
        status_code=201,
        summary="Comment an article",
        responses=documented({404: "The article is not known, or not yet"} | _CLOSED),
    )
    async def create(new: NewComment, response: Response) -> CommentOut:
        now = clock.now()
        comment = {
            "id": new_id(),
            "article_id": new.article_id,
            "author": new.author,
            "content": new.content,
            "created_at": now,
            "updated_at": now,
        }
        async with database.engine.begin() as connection:
            if not await threads.add_comment(connection, comment):
                status = await threads.find_status(connection, new.article_id)
                raise _closed(new.article_id, status)
        response.headers["location"] = f"/comments/{comment['id']}"
        return CommentOut(**comment)

    @routes.get(
        "/comments",
        summary="List comments, newest first",
        description="Comments of an article that is being deleted are not listed; they come back "
        "if the article stays.",
    )
    async def list_comments(
        wanted: pages.WantedPage,
        article_id: Annotated[AnyId | None, Query(description="Only those of this article")] = None,
    ) -> pages.Page[CommentOut]:
        query = _LIST if article_id is None else _LIST.where(Comment.article_id == article_id)
        async with database.reading.connect() as connection:
            rows, cursor = await newest(connection, query, Comment.id, wanted)
        return pages.Page(items=[CommentOut(**row._mapping) for row in rows], next_cursor=cursor)

    @routes.get(
        "/comments/{id}",
        summary="Read a comment",
        responses=documented({404: "There is no such comment, or its article is being deleted"}),
    )
    async def read(id: str) -> CommentOut:
        async with database.reading.connect() as connection:
            row = (await connection.execute(_ONE, {"id": _named(id)})).first()
        if row is None:
            raise _unknown(id)
        if row.archived_by is not None:
            raise _archived(id)
        return CommentOut(**row._mapping)

    @routes.put(
        "/comments/{id}",
        summary="Replace the content of a comment",
        responses=documented({404: "There is no such comment"} | _CLOSED),
    )
    async def edit(id: str, new: NewContent) -> CommentOut:
        known = _named(id)
        async with database.engine.begin() as connection:
            row = await threads.edit_comment(connection, known, new.content, clock.now())
            if row is None:
                raise await _why_not(connection, known)
        return CommentOut(**row._mapping)

    @routes.delete(
        "/comments/{id}",
        status_code=204,
        summary="Delete a comment",
        responses=documented({404: "There is no such comment"} | _CLOSED),
    )
    async def delete(id: str) -> None:
        known = _named(id)
        async with database.engine.begin() as connection:
            if not await threads.delete_comment(connection, known):
                raise await _why_not(connection, known)

    @routes.get(
        "/threads/{article_id}",
        summary="What is known of an article",
        responses=documented({404: "Nothing was heard of the article, or not yet"}),
    )
    async def thread(article_id: str) -> ThreadOut:
        known = id_in_path(article_id)
        if known is None:
            raise _closed(article_id, ThreadStatus.UNKNOWN)
        async with database.reading.connect() as connection:
            row = (await connection.execute(_THREAD, {"id": known})).first()
        if row is None:
            raise _closed(known, ThreadStatus.UNKNOWN)
        status = status_of(row.known, row.closed_by, row.purged_at)
        return ThreadOut(**row._mapping, status=status.value)

    return routes


async def _why_not(connection: AsyncConnection, id: str) -> HttpProblem:
    """The reason why the comment could not be changed."""
    article_id = await connection.scalar(_PLACE, {"id": id})
    if article_id is None:
        return _unknown(id)
    return _closed(article_id, await threads.find_status(connection, article_id))


def _named(id: str) -> str:
    """The id as the database has it. Raises the 404 where it is no possible id."""
    known = id_in_path(id)
    if known is None:
        raise _unknown(id)
    return known


def _closed(article_id: str, status: ThreadStatus) -> HttpProblem:
    match status:
        case ThreadStatus.UNKNOWN | ThreadStatus.PUBLISHED:
            # PUBLISHED: the news came between the attempt and this look.
            return HttpProblem(
                404,
                "unknown-article",
                f"Nothing has been heard of an article {article_id!r}.",
                next_step="If it was published just now, the news is on its way: try again a "
                "little later. If not, take the id from the articles service.",
                retry_after=RETRY_AFTER,
            )
        case ThreadStatus.DELETING:
            return HttpProblem(
                409,
                "article-being-deleted",
                f"The article {article_id} is being deleted; its comments cannot be changed "
                "meanwhile.",
                next_step="Try again later: the article is gone then, or it takes comments again.",
                retry_after=RETRY_AFTER,
            )
        case ThreadStatus.DELETED:
            return HttpProblem(
                410,
                "article-deleted",
                f"The article {article_id} has been deleted.",
                next_step="Nothing can be said about it any more.",
            )
        case _:
            assert_never(status)


def _unknown(id: str) -> HttpProblem:
    return HttpProblem(
        404,
        "unknown-comment",
        f"There is no comment {id!r}.",
        next_step="Take the id from the answer to POST /comments, or from GET /comments.",
    )


def _archived(id: str) -> HttpProblem:
    return HttpProblem(
        404,
        "comment-archived",
        f"The comment {id} is not shown while its article is being deleted.",
        next_step="Try again later: it is gone then, or it is shown again.",
        retry_after=RETRY_AFTER,
    )
