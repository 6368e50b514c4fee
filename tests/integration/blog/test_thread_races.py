"""Section 12 of the protocol: nothing is written into a thread that is being closed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import func, select

from comments.article_events import ArticleDeleted, ArticlePublished
from comments.contract import CloseThread, PurgeThread, ReopenThread
from comments.model import Comment
from outbox.messages import Message
from outbox.replies import Outcome, Reply
from tests.support.blog.blog import (
    Running,
    comments_app,
    comments_schema,
    envelope,
    new_id,
    running,
)
from tests.support.databases.databases import Database, Schema
from tests.support.processes.waiting import until

pytestmark = pytest.mark.slow

POSTS = 1_000
WRITERS = 32


@pytest.fixture
def database_schema() -> Schema:
    return comments_schema


@pytest.fixture
async def comments(database: Database) -> AsyncIterator[Running]:
    # The posters must never wait for a connection: they wait for the thread.
    async with running(comments_app(database, pool_size=WRITERS + 4)) as service:
        yield service


class _Crowd:
    """Writers that post into one thread, `POSTS` in all, and note the answers. Where `is_enough`
    says that what shall meet them has not come yet, they go on."""

    def __init__(self, comments: Running, article_id: str) -> None:
        self._comments = comments
        self._article_id = article_id
        self._left = self._numbers()
        self.accepted: set[str] = set()
        self.statuses: Counter[int] = Counter()
        self.is_enough: Callable[[], bool] = lambda: True

    def _numbers(self) -> Iterator[int]:
        for number in range(20 * POSTS):
            if number >= POSTS and self.is_enough():
                return
            yield number

    async def post(self) -> None:
        await asyncio.gather(*(self._write() for _ in range(WRITERS)))

    async def _write(self) -> None:
        for number in self._left:
            new = {"article_id": self._article_id, "author": "Bob", "content": f"No. {number}"}
            answer = await self._comments.http.post("/comments", json=new)
            self.statuses[answer.status_code] += 1
            if answer.status_code == 201:
                self.accepted.add(answer.json()["id"])

    async def has_begun(self) -> None:
        await until(lambda: len(self.accepted) >= POSTS // 10, 60.0, "the crowd posts")


async def _rows(comments: Running, article_id: str) -> dict[str, str | None]:
    """All comments of the article with their tags, as the database has them."""
    query = select(Comment.id, Comment.archived_by).where(Comment.article_id == article_id)
    async with comments.chassis.database.reading.connect() as connection:
        return dict((await connection.execute(query)).all())


async def _ask(comments: Running, command: Message, saga: str) -> Reply:
    """Ask as a saga does: for what was too busy, or took too long, again."""
    asked = envelope(command, saga=saga)
    while True:
        (reply,) = await comments.tell_all(asked)
        if reply.outcome not in (Outcome.TOO_BUSY, Outcome.ONGOING):
            return reply


async def _close(comments: Running, article_id: str, saga: str) -> Reply:
    return await _ask(comments, CloseThread(article_id), saga)


async def test_no_comment_that_is_accepted_escapes_the_closing_of_its_thread(
    comments: Running,
) -> None:
    article, saga = new_id(), new_id()
    await comments.tell(ArticlePublished(article, "Tides", 1))
    crowd = _Crowd(comments, article)
    crowd.is_enough = lambda: 409 in crowd.statuses
    posting = asyncio.create_task(crowd.post())
    await crowd.has_begun()
    closed = await _close(comments, article, saga)
    count_at_close = len(await _rows(comments, article))
    await posting

    assert set(crowd.statuses) == {201, 409}, crowd.statuses
    assert crowd.statuses.total() >= POSTS
    rows = await _rows(comments, article)
    assert set(rows) == crowd.accepted
    assert set(rows.values()) == {saga}, "a comment was accepted after the thread was closed"
    assert closed.value == {"comments": len(rows)}
    assert count_at_close == len(rows)
    assert (await comments.http.get(f"/comments?article_id={article}")).json()["items"] == []

    reopened = await comments.tell(ReopenThread(article), saga=saga)
    assert reopened.value == {"comments": len(rows)}
    assert await _rows(comments, article) == dict.fromkeys(crowd.accepted)


async def test_opening_and_closing_under_a_crowd_loses_and_leaks_no_comment(
    comments: Running,
) -> None:
    article = new_id()
    await comments.tell(ArticlePublished(article, "Tides", 1))
    crowd, rounds = _Crowd(comments, article), 0
    crowd.is_enough = lambda: rounds >= 2
    posting = asyncio.create_task(crowd.post())
    await crowd.has_begun()
    while not posting.done() and rounds < 200:
        saga = new_id()
        closed = await _close(comments, article, saga)
        assert closed.outcome is Outcome.DONE
        tagged = Counter((await _rows(comments, article)).values())
        assert tagged == {saga: closed.value["comments"]}
        reopened = await _ask(comments, ReopenThread(article), saga)
        assert reopened.value == closed.value
        rounds += 1
    await posting
    assert rounds >= 2
    assert set(crowd.statuses) <= {201, 409}
    assert await _rows(comments, article) == dict.fromkeys(crowd.accepted)


async def test_no_edit_and_no_deletion_escapes_the_closing_of_its_thread(comments: Running) -> None:
    article, saga = new_id(), new_id()
    await comments.tell(ArticlePublished(article, "Tides", 1))
    made = []
    for _ in range(60):
        new = {"article_id": article, "author": "Bob", "content": "first"}
        made.append((await comments.http.post("/comments", json=new)).json()["id"])
    begun = asyncio.Event()
    done: dict[str, list[int]] = {"edit": [], "delete": []}
    edited: set[str] = set()
    deleted: set[str] = set()

    async def edit(identifier: str) -> None:
        answer = await comments.http.put(f"/comments/{identifier}", json={"content": "second"})
        done["edit"].append(answer.status_code)
        if answer.is_success:
            edited.add(identifier)
            begun.set()

    async def delete(identifier: str) -> None:
        answer = await comments.http.delete(f"/comments/{identifier}")
        done["delete"].append(answer.status_code)
        if answer.is_success:
            deleted.add(identifier)

    async def close() -> Reply:
        await begun.wait()
        return await _close(comments, article, saga)

    closing = asyncio.create_task(close())
    await asyncio.gather(*map(edit, made[:30]), *map(delete, made[30:]))
    closed = await closing
    late = await asyncio.gather(
        *(comments.http.delete(f"/comments/{it}") for it in made if it not in deleted)
    )
    assert {answer.status_code for answer in late} <= {409}
    assert set(done["edit"]) <= {200, 409}
    assert set(done["delete"]) <= {204, 409}
    async with comments.chassis.database.reading.connect() as connection:
        rows = (await connection.execute(select(Comment.id, Comment.content))).all()
    assert {identifier for identifier, _ in rows} == set(made) - deleted
    assert {identifier for identifier, content in rows if content == "second"} == edited
    assert closed.value == {"comments": len(rows)}


async def test_an_edit_after_the_close_changes_nothing(comments: Running) -> None:
    article, saga = new_id(), new_id()
    await comments.tell(ArticlePublished(article, "Tides", 1))
    new = {"article_id": article, "author": "Bob", "content": "first"}
    path = "/comments/" + (await comments.http.post("/comments", json=new)).json()["id"]
    await comments.tell(CloseThread(article), saga=saga)
    assert (await comments.http.put(path, json={"content": "second"})).status_code == 409
    await comments.tell(ReopenThread(article), saga=saga)
    assert (await comments.http.get(path)).json()["content"] == "first"


async def test_closing_a_thread_that_is_not_known_yet_leaves_its_mark(comments: Running) -> None:
    article, saga = new_id(), new_id()
    closed = await comments.tell(CloseThread(article), saga=saga)
    assert (closed.outcome, closed.value) == (Outcome.DONE, {"comments": 0})
    await comments.tell(ArticlePublished(article, "Tides", 1))
    new = {"article_id": article, "author": "Bob", "content": "late"}
    assert (await comments.http.post("/comments", json=new)).status_code == 409
    await comments.tell(ReopenThread(article), saga=saga)
    assert (await comments.http.post("/comments", json=new)).status_code == 201


async def test_reopening_before_the_news_waits_for_the_news(comments: Running) -> None:
    article, saga = new_id(), new_id()
    await comments.tell(CloseThread(article), saga=saga)
    await comments.tell(ReopenThread(article), saga=saga)
    new = {"article_id": article, "author": "Bob", "content": "early"}
    assert (await comments.http.post("/comments", json=new)).status_code == 404
    await comments.tell(ArticlePublished(article, "Tides", 1))
    assert (await comments.http.post("/comments", json=new)).status_code == 201


async def test_a_late_publication_opens_no_thread_that_was_closed_purged_or_deleted(
    comments: Running,
) -> None:
    saga = new_id()
    closed, purged, deleted = new_id(), new_id(), new_id()
    await comments.tell(CloseThread(closed), saga=saga)
    await comments.tell(CloseThread(purged), saga=saga)
    await comments.tell(PurgeThread(purged), saga=saga)
    await comments.tell(ArticleDeleted(deleted))
    for article, status in ((closed, 409), (purged, 410), (deleted, 410)):
        await comments.tell(ArticlePublished(article, "Tides", 1))
        new = {"article_id": article, "author": "Bob", "content": "late"}
        assert (await comments.http.post("/comments", json=new)).status_code == status


async def test_publications_and_closings_of_one_thread_at_once_keep_each_others_marks(
    comments: Running,
) -> None:
    made = [(new_id(), new_id()) for _ in range(20)]
    publications = [envelope(ArticlePublished(article, "Tides", 1)) for article, _ in made]
    closings = [envelope(CloseThread(article), saga=saga) for article, saga in made[::-1]]

    async def send(*batch: object) -> None:
        for _ in range(50):
            replies = await comments.chassis.service.inbox.receive(batch)  # type: ignore[arg-type]  # envelopes
            if all(reply.outcome is Outcome.DONE for reply in replies):
                return
        raise AssertionError(replies)

    await asyncio.gather(
        *(send(*publications[at : at + 5]) for at in range(0, 20, 5)),
        *(send(*closings[at : at + 5]) for at in range(0, 20, 5)),
    )
    for article, saga in made:
        thread = (await comments.http.get(f"/threads/{article}")).json()
        assert (thread["status"], thread["title"]) == ("deleting", "Tides")
        await comments.tell(ReopenThread(article), saga=saga)
        assert (await comments.http.get(f"/threads/{article}")).json()["status"] == "published"


async def test_two_sagas_that_close_one_thread_at_once_are_told_apart(comments: Running) -> None:
    article = new_id()
    await comments.tell(ArticlePublished(article, "Tides", 1))
    new = {"article_id": article, "author": "Bob", "content": "first"}
    await comments.http.post("/comments", json=new)
    sagas = [new_id() for _ in range(8)]
    replies = await asyncio.gather(*(_close(comments, article, saga) for saga in sagas))
    outcomes = Counter(reply.outcome for reply in replies)
    assert outcomes == {Outcome.DONE: 1, Outcome.LOCKED: 7}
    winner = sagas[[reply.outcome for reply in replies].index(Outcome.DONE)]
    assert {reply.reason for reply in replies if reply.outcome is Outcome.LOCKED} == {winner}
    assert set((await _rows(comments, article)).values()) == {winner}
    for loser in set(sagas) - {winner}:
        undone = await comments.tell(ReopenThread(article), saga=loser)
        assert undone.value == {"comments": 0}
        purge = await comments.tell(PurgeThread(article), saga=loser)
        assert purge.outcome is Outcome.LOCKED
    assert set((await _rows(comments, article)).values()) == {winner}
    assert (await comments.http.post("/comments", json=new)).status_code == 409


async def test_a_purge_leaves_the_tombstone_and_no_comment_although_some_are_posted_meanwhile(
    comments: Running,
) -> None:
    article, saga = new_id(), new_id()
    await comments.tell(ArticlePublished(article, "Tides", 1))
    crowd = _Crowd(comments, article)
    posting = asyncio.create_task(crowd.post())
    await crowd.has_begun()
    await _close(comments, article, saga)
    purged = await _ask(comments, PurgeThread(article), saga)
    await posting
    assert purged.value == {"comments": len(crowd.accepted)}
    assert set(crowd.statuses) <= {201, 409, 410}
    assert await _rows(comments, article) == {}
    async with comments.chassis.database.reading.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Comment)) == 0
    new = {"article_id": article, "author": "Bob", "content": "late"}
    assert (await comments.http.post("/comments", json=new)).status_code == 410
