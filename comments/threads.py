"""The lock of a thread, and the statements that need it.

A transaction that writes comments holds the lock shared; one that closes, reopens or purges the
thread holds it alone. On PostgreSQL a statement sees what was committed before it began, and so one
that waits for the lock does not see the change that it waited for. So the status is read after that
in a statement of its own, or by an upsert, which always finds the row as it was committed last.
SQLite has one writer at a time, which is lock enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Row,
    Select,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from comments.model import Comment, Thread, ThreadStatus, status_of

SHOWN = (
    Comment.id,
    Comment.article_id,
    Comment.author,
    Comment.content,
    Comment.created_at,
    Comment.updated_at,
)
"""The columns of a comment that are shown."""

_open_thread = (
    select(Thread.article_id)
    .where(Thread.article_id == Comment.article_id, Thread.is_open())
    .exists()
)
_one_comment = (
    Comment.id == bindparam("comment_id"),
    Comment.archived_by.is_(None),
    _open_thread,
)

_PLAIN = {"synchronize_session": False}  # no session holds comments as objects


def _lock_number(article_id: ColumnElement[Any]) -> ColumnElement[int]:
    return func.hashtextextended(literal("comments.thread ", Text).concat(article_id), 0)


_SHARE_BY_ARTICLE = select(
    func.pg_advisory_xact_lock_shared(_lock_number(bindparam("article_id", type_=Text)))
)
_SHARE_BY_COMMENT = select(
    func.pg_advisory_xact_lock_shared(_lock_number(cast(Comment.article_id, Text)))
).where(Comment.id == bindparam("comment_id"))
_place = func.unnest(bindparam("article_ids", type_=postgresql.ARRAY(Text))).column_valued("place")
_held = select(
    _place.label("article_id"), func.pg_advisory_xact_lock(_lock_number(_place)).label("lock")
).cte("held")


def _making(places: Select[Any]) -> Executable:
    """The threads of these places, made where there were none, and locked, for PostgreSQL."""
    blank = {
        key: bindparam(f"blank_{key}", value, type_=Thread.__table__.c[key].type)
        for key, value in Thread.blank("").items()
        if key != "article_id"
    }
    made = postgresql.insert(Thread).from_select(
        ["article_id", *blank], places.add_columns(*blank.values())
    )
    # An update that changes nothing.
    locked = made.on_conflict_do_update(index_elements=["article_id"], set_={"title": Thread.title})
    return select(Thread).from_statement(locked.returning(Thread))


_MAKE = _making(select(cast(_place, Thread.article_id.type)))
_HOLD = _making(select(cast(_held.c.article_id, Thread.article_id.type)))
_ADD = (
    insert(Comment)
    .from_select(
        [column.key for column in SHOWN],
        select(*(bindparam(f"new_{column.key}", type_=column.type) for column in SHOWN)).where(
            Thread.article_id == bindparam("new_article_id"), Thread.is_open()
        ),
    )
    .returning(Comment.id)
)
_EDIT = (
    update(Comment)
    .where(*_one_comment)
    .values(content=bindparam("new_content"), updated_at=bindparam("now"))
    .returning(*SHOWN)
)
_DELETE = delete(Comment).where(*_one_comment)
_of_threads = Comment.article_id.in_(bindparam("article_ids", expanding=True))
_holder = select(Thread.closed_by).where(Thread.article_id == Comment.article_id).scalar_subquery()
_ARCHIVE = (
    update(Comment)
    .where(_of_threads, or_(Comment.archived_by.is_(None), Comment.archived_by == _holder))
    .values(archived_by=_holder)
    .returning(Comment.article_id)
)
_REMOVE = delete(Comment).where(_of_threads).returning(Comment.article_id)
_STATUS = select(Thread.known, Thread.closed_by, Thread.purged_at).where(
    Thread.article_id == bindparam("article_id")
)


async def add_comment(connection: AsyncConnection, comment: Mapping[str, Any]) -> bool:
    """Insert the comment (a value for each of SHOWN) if its thread takes comments."""
    await _share(connection, _SHARE_BY_ARTICLE, article_id=comment["article_id"])
    result = await connection.execute(_ADD, {f"new_{key}": it for key, it in comment.items()})
    # Not every driver counts the rows of an INSERT.
    return result.first() is not None


async def edit_comment(
    connection: AsyncConnection, comment_id: str, content: str, now: datetime
) -> Row[*tuple[Any, ...]] | None:
    """Replace the content if the thread takes comments. The comment as it is then, or None."""
    await _share(connection, _SHARE_BY_COMMENT, comment_id=comment_id)
    parameters = {"comment_id": comment_id, "new_content": content, "now": now}
    return (await connection.execute(_EDIT, parameters)).first()


async def delete_comment(connection: AsyncConnection, comment_id: str) -> bool:
    """Delete the comment if the thread takes comments."""
    await _share(connection, _SHARE_BY_COMMENT, comment_id=comment_id)
    return (await connection.execute(_DELETE, {"comment_id": comment_id})).rowcount == 1


async def find_status(connection: AsyncConnection, article_id: str) -> ThreadStatus:
    """The present status of the article's thread."""
    row = (await connection.execute(_STATUS, {"article_id": article_id})).first()
    return ThreadStatus.UNKNOWN if row is None else status_of(*row)


async def hold(session: AsyncSession, article_ids: Iterable[str]) -> dict[str, Thread]:
    """The threads, made where there were none, locked for this transaction alone: until it has
    ended, no other one writes a comment there."""
    return await _load_or_make(session, article_ids, _HOLD)


async def load_or_make(session: AsyncSession, article_ids: Iterable[str]) -> dict[str, Thread]:
    """The threads, made where there were none, locked against other events and commands."""
    return await _load_or_make(session, article_ids, _MAKE)


async def _load_or_make(
    session: AsyncSession, article_ids: Iterable[str], on_postgresql: Executable
) -> dict[str, Thread]:
    # Sorted, so that two transactions never wait for one another.
    wanted = sorted(set(article_ids))
    if not wanted:
        return {}
    if session.get_bind().dialect.name == "postgresql":
        found = await session.scalars(on_postgresql, {"article_ids": wanted})
    else:
        make = sqlite.insert(Thread).on_conflict_do_nothing()
        await session.execute(make, [Thread.blank(each) for each in wanted])
        found = await session.scalars(select(Thread).where(Thread.article_id.in_(wanted)))
    return {thread.article_id: thread for thread in found}


async def archive(session: AsyncSession, article_ids: Iterable[str]) -> dict[str, int]:
    """Tag the comments of these threads with the sagas that hold them. Returns how many have that
    tag."""
    await session.flush()
    archived = await session.scalars(
        _ARCHIVE, {"article_ids": sorted(set(article_ids))}, execution_options=_PLAIN
    )
    return Counter(archived)


async def restore(
    session: AsyncSession, tags: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """Show the comments again that have one of these (article, saga) tags. Returns how many had
    each."""
    tagged = tuple_(Comment.article_id, Comment.archived_by).in_(sorted(set(tags)))
    rows = await session.execute(
        select(Comment.article_id, Comment.archived_by, func.count())
        .where(tagged)
        .group_by(Comment.article_id, Comment.archived_by)
    )
    count = {(article, saga or ""): number for article, saga, number in rows}
    await session.execute(
        update(Comment).where(tagged).values(archived_by=None), execution_options=_PLAIN
    )
    return count


async def remove(session: AsyncSession, article_ids: Iterable[str]) -> dict[str, int]:
    """Delete all comments of these threads for good. Returns how many."""
    removed = await session.scalars(
        _REMOVE, {"article_ids": sorted(set(article_ids))}, execution_options=_PLAIN
    )
    return Counter(removed)


async def _share(connection: AsyncConnection, lock: Executable, **parameters: str) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(lock, parameters)


async def _count(
    session: AsyncSession, change: Executable, article_ids: Iterable[str]
) -> dict[str, int]:
    """Change the comments of these articles. Returns how many by article; one without any is left
    out."""
    places = {"article_ids": sorted(set(article_ids))}
    return Counter(await session.scalars(change, places, execution_options=_PLAIN))
