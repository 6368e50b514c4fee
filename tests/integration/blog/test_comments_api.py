from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from comments.article_events import ArticleDeleted, ArticleEdited, ArticlePublished
from comments.contract import CloseThread, PurgeThread, ReopenThread
from outbox.ids import is_id
from outbox.replies import Outcome
from tests.support.blog.blog import (
    Running,
    comments_app,
    comments_schema,
    envelope,
    new_id,
    running,
)
from tests.support.databases.databases import Database, Schema


@pytest.fixture
def database_schema() -> Schema:
    return comments_schema


@pytest.fixture
async def comments(database: Database) -> AsyncIterator[Running]:
    async with running(comments_app(database)) as service:
        yield service


async def _article(comments: Running) -> str:
    """An article that comments has heard of."""
    identifier = new_id()
    reply = await comments.tell(ArticlePublished(identifier, "Tides", 1))
    assert reply.outcome is Outcome.DONE
    return identifier


async def _say(comments: Running, article_id: str, content: str = "Well said.") -> httpx.Response:
    new = {"article_id": article_id, "author": "Bob", "content": content}
    return await comments.http.post("/comments", json=new)


async def _comment(comments: Running, article_id: str, content: str = "Well said.") -> str:
    answer = await _say(comments, article_id, content)
    assert answer.status_code == 201, answer.text
    identifier: str = answer.json()["id"]
    return identifier


async def _listed(comments: Running, article_id: str) -> list[str]:
    answer = await comments.http.get("/comments", params={"article_id": article_id, "limit": 200})
    assert answer.status_code == 200
    return [item["id"] for item in answer.json()["items"]]


async def _thread(comments: Running, article_id: str) -> dict[str, Any]:
    answer = await comments.http.get(f"/threads/{article_id}")
    assert answer.status_code == 200, answer.text
    thread: dict[str, Any] = answer.json()
    return thread


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    assert problem["next_step"]
    return problem


async def test_a_comment_is_written_read_edited_and_deleted(comments: Running) -> None:
    article = await _article(comments)
    answer = await _say(comments, article)
    assert answer.status_code == 201
    body = answer.json()
    assert is_id(body["id"])
    assert body == {
        "id": body["id"],
        "article_id": article,
        "author": "Bob",
        "content": "Well said.",
        "created_at": "2030-01-01T12:00:00Z",
        "updated_at": "2030-01-01T12:00:00Z",
    }
    path = answer.headers["location"]
    assert path == f"/comments/{body['id']}"
    assert (await comments.http.get(path)).json() == body
    edited = await comments.http.put(path, json={"content": "Better said."})
    assert (edited.status_code, edited.json()) == (200, body | {"content": "Better said."})
    assert (await comments.http.get(path)).json() == edited.json()
    assert (await comments.http.delete(path)).status_code == 204
    _problem(await comments.http.get(path), 404, "unknown-comment")
    _problem(await comments.http.put(path, json={"content": "x"}), 404, "unknown-comment")
    _problem(await comments.http.delete(path), 404, "unknown-comment")


@pytest.mark.parametrize(
    "wrong",
    [
        {"content": ""},
        {"content": "x" * 10_001},
        {"content": "a\x00b"},
        {"author": ""},
        {"author": "x" * 101},
        {"author": "a\x00b"},
        {"article_id": "nonsense"},
        {"article_id": 7},
        {"content": None},
    ],
)
async def test_a_comment_with_a_wrong_field_is_a_422_and_writes_nothing(
    comments: Running, wrong: dict[str, Any]
) -> None:
    article = await _article(comments)
    new = {"article_id": article, "author": "Bob", "content": "Well said."}
    problem = _problem(
        await comments.http.post("/comments", json=new | wrong), 422, "invalid-request"
    )
    assert f"body.{next(iter(wrong))}" in problem["detail"]
    assert await _listed(comments, article) == []


async def test_a_comment_of_the_greatest_length_is_taken_in_any_script(comments: Running) -> None:
    article = await _article(comments)
    assert await _comment(comments, article, "𝄞" * 10_000)


async def test_a_body_of_more_than_1_mib_is_a_413(comments: Running) -> None:
    answer = await _say(comments, new_id(), "x" * 1024 * 1024)
    _problem(answer, 413, "body-too-large")


async def test_an_article_that_is_not_known_is_a_404_that_says_when_to_try_again(
    comments: Running,
) -> None:
    article = new_id()
    answer = await _say(comments, article)
    _problem(answer, 404, "unknown-article")
    assert int(answer.headers["retry-after"]) >= 1
    await comments.tell(ArticlePublished(article, "Tides", 1))
    assert (await _say(comments, article)).status_code == 201


async def test_an_article_id_in_another_form_is_the_same_article(comments: Running) -> None:
    article = await _article(comments)
    identifier = await _comment(comments, article.upper())
    assert await _listed(comments, article.replace("-", "")) == [identifier]


@pytest.mark.parametrize(
    "identifier", ["nonsense", "0", "%00", new_id()], ids=["a word", "a digit", "NUL", "unknown"]
)
async def test_an_address_that_no_comment_has_is_a_404(comments: Running, identifier: str) -> None:
    path = f"/comments/{identifier}"
    _problem(await comments.http.get(path), 404, "unknown-comment")
    _problem(await comments.http.put(path, json={"content": "x"}), 404, "unknown-comment")
    _problem(await comments.http.delete(path), 404, "unknown-comment")
    _problem(await comments.http.get(f"/threads/{identifier}"), 404, "unknown-article")


async def test_comments_are_listed_by_article_newest_first_page_by_page(comments: Running) -> None:
    article, other = await _article(comments), await _article(comments)
    made = [await _comment(comments, article) for _ in range(5)]
    elsewhere = await _comment(comments, other)
    query: dict[str, Any] = {"article_id": article, "limit": 2}
    seen: list[str] = []
    for size in (2, 2, 1):
        page = (await comments.http.get("/comments", params=query)).json()
        assert len(page["items"]) == size
        seen += [item["id"] for item in page["items"]]
        query["cursor"] = page["next_cursor"]
    assert query["cursor"] is None
    assert seen == made[::-1]
    everything = (await comments.http.get("/comments")).json()["items"]
    assert [item["id"] for item in everything] == [elsewhere, *made[::-1]]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid-request"),
        ("limit=201", "invalid-request"),
        ("cursor=bent", "invalid-cursor"),
        ("article_id=nonsense", "invalid-request"),
    ],
)
async def test_a_wrong_page_is_a_422(comments: Running, query: str, code: str) -> None:
    _problem(await comments.http.get(f"/comments?{query}"), 422, code)


async def test_the_thread_of_an_article_shows_what_was_heard(comments: Running) -> None:
    article = await _article(comments)
    await _comment(comments, article)
    await comments.tell_all(
        envelope(ArticleEdited(article, "Moons", 2)), envelope(ArticleEdited(article, "Suns", 3))
    )
    assert await _thread(comments, article) == {
        "article_id": article,
        "status": "published",
        "title": "Suns",
        "version": 3,
        "events": 3,
        "out_of_order": 0,
        "comments": 1,
    }


async def test_an_event_that_comes_twice_counts_once(comments: Running) -> None:
    article = new_id()
    first = envelope(ArticlePublished(article, "Tides", 1))
    await comments.tell_all(first, first)
    await comments.tell_all(first)
    assert (await _thread(comments, article))["events"] == 1


async def test_a_batch_of_many_articles_is_heard_as_a_whole(comments: Running) -> None:
    made = [new_id() for _ in range(50)]
    replies = await comments.tell_all(
        *(envelope(ArticlePublished(it, f"T{number}", 1)) for number, it in enumerate(made)),
        *(envelope(ArticleEdited(it, f"E{number}", 2)) for number, it in enumerate(made)),
        *(envelope(ArticleDeleted(it)) for it in made[:10]),
    )
    assert {reply.outcome for reply in replies} == {Outcome.DONE}
    assert (await _thread(comments, made[9]))["status"] == "deleted"
    last = await _thread(comments, made[49])
    assert (last["status"], last["title"], last["events"]) == ("published", "E49", 2)
    assert last["out_of_order"] == 0


async def test_an_event_with_an_id_that_is_none_fails_and_changes_nothing(
    comments: Running,
) -> None:
    good = new_id()
    bad, fine = await comments.tell_all(
        envelope(ArticlePublished("nonsense", "Tides", 1)),
        envelope(ArticlePublished(good, "Tides", 1)),
    )
    assert (bad.outcome, fine.outcome) == (Outcome.FAILED, Outcome.DONE)
    assert "not an article's id" in (bad.reason or "")


async def test_nothing_is_written_while_a_saga_holds_the_thread(comments: Running) -> None:
    article = await _article(comments)
    comment = await _comment(comments, article)
    saga = new_id()
    closed = await comments.tell(CloseThread(article), saga=saga)
    assert (closed.outcome, closed.value) == (Outcome.DONE, {"comments": 1})
    answer = await _say(comments, article)
    _problem(answer, 409, "article-being-deleted")
    path = f"/comments/{comment}"
    _problem(await comments.http.put(path, json={"content": "x"}), 409, "article-being-deleted")
    _problem(await comments.http.delete(path), 409, "article-being-deleted")
    _problem(await comments.http.get(path), 404, "comment-archived")
    assert await _listed(comments, article) == []
    thread = await _thread(comments, article)
    assert (thread["status"], thread["comments"]) == ("deleting", 0)


async def test_reopening_shows_exactly_what_was_archived(comments: Running) -> None:
    article, other = await _article(comments), await _article(comments)
    made = [await _comment(comments, article) for _ in range(3)]
    elsewhere = await _comment(comments, other)
    before = (await comments.http.get("/comments")).json()
    saga = new_id()
    await comments.tell(CloseThread(article), saga=saga)
    await comments.tell(CloseThread(other), saga=new_id())
    reopened = await comments.tell(ReopenThread(article), saga=saga)
    assert (reopened.outcome, reopened.value) == (Outcome.DONE, {"comments": 3})
    assert await _listed(comments, article) == made[::-1]
    assert await _listed(comments, other) == []
    shown = (await comments.http.get("/comments")).json()["items"]
    assert shown == [item for item in before["items"] if item["id"] != elsewhere]
    assert (await comments.http.put(f"/comments/{made[0]}", json={"content": "x"})).is_success


async def test_a_purged_thread_is_gone_for_good(comments: Running) -> None:
    article, other = await _article(comments), await _article(comments)
    comment, elsewhere = await _comment(comments, article), await _comment(comments, other)
    saga = new_id()
    await comments.tell(CloseThread(article), saga=saga)
    purged = await comments.tell(PurgeThread(article), saga=saga)
    assert (purged.outcome, purged.value) == (Outcome.DONE, {"comments": 1})
    again = await comments.tell(PurgeThread(article), saga=saga)
    assert (again.outcome, again.value) == (Outcome.DONE, {"comments": 0})
    _problem(await _say(comments, article), 410, "article-deleted")
    _problem(await comments.http.get(f"/comments/{comment}"), 404, "unknown-comment")
    assert await _listed(comments, other) == [elsewhere]
    await comments.tell(ArticlePublished(article, "Tides", 1))
    _problem(await _say(comments, article), 410, "article-deleted")
    assert (await _thread(comments, article))["status"] == "deleted"
    for command in (CloseThread(article), ReopenThread(article)):
        answer = await comments.tell(command, saga=saga)
        assert (answer.outcome, answer.code) == (Outcome.REFUSED, "already-deleted")


async def test_comments_of_a_deleted_article_that_is_not_purged_yet_are_410(
    comments: Running,
) -> None:
    article = await _article(comments)
    comment = await _comment(comments, article)
    await comments.tell(CloseThread(article), saga=new_id())
    await comments.tell(ArticleDeleted(article))
    path = f"/comments/{comment}"
    _problem(await comments.http.put(path, json={"content": "x"}), 410, "article-deleted")
    _problem(await comments.http.delete(path), 410, "article-deleted")
    _problem(await _say(comments, article), 410, "article-deleted")


async def test_a_command_without_a_saga_or_for_no_article_is_refused(comments: Running) -> None:
    article = await _article(comments)
    for cls in (CloseThread, ReopenThread, PurgeThread):
        answer = await comments.tell(cls(article))
        assert (answer.outcome, answer.code) == (Outcome.REFUSED, "no-saga")
        answer = await comments.tell(cls("nonsense"), saga=new_id())
        assert (answer.outcome, answer.code) == (Outcome.REFUSED, "invalid-article-id")
    assert (await _say(comments, article)).status_code == 201


async def test_a_batch_of_commands_for_many_threads_keeps_them_apart(comments: Running) -> None:
    threads = [await _article(comments) for _ in range(4)]
    sagas = [new_id() for _ in threads]
    for number, article in enumerate(threads):
        for _ in range(number):
            await _comment(comments, article)
    pairs = list(zip(threads, sagas, strict=True))
    closed = await comments.tell_all(*(envelope(CloseThread(it), saga=by) for it, by in pairs))
    assert [reply.value["comments"] for reply in closed] == [0, 1, 2, 3]
    reopened = await comments.tell_all(
        *(envelope(ReopenThread(it), saga=by) for it, by in pairs[::-1])
    )
    assert [reply.value["comments"] for reply in reopened] == [3, 2, 1, 0]
    assert [len(await _listed(comments, it)) for it in threads] == [0, 1, 2, 3]


async def test_a_batch_with_one_that_is_locked_does_the_others(comments: Running) -> None:
    held, free = await _article(comments), await _article(comments)
    await _comment(comments, free)
    holder, other = new_id(), new_id()
    await comments.tell(CloseThread(held), saga=holder)
    locked, closed = await comments.tell_all(
        envelope(CloseThread(held), saga=other), envelope(CloseThread(free), saga=other)
    )
    assert (locked.outcome, locked.reason) == (Outcome.LOCKED, holder)
    assert closed.value == {"comments": 1}
    assert (await _thread(comments, free))["status"] == "deleting"
