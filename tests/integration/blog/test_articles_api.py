from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import select

from articles.contract import (
    ArticleDeleted,
    ArticleEdited,
    ArticlePublished,
    DeleteArticle,
    HideArticle,
    UnhideArticle,
)
from outbox import tables
from outbox.contract import SagaEnded, StartSaga
from outbox.ids import is_id
from outbox.replies import Outcome
from tests.support.blog.blog import (
    ORCHESTRATOR,
    Running,
    envelope,
    new_id,
)

TIDES = {"title": "Tides", "body": "High and low.", "author": "Ada"}


async def _publish(articles: Running, **changes: str) -> str:
    answer = await articles.http.post("/articles", json=TIDES | changes)
    assert answer.status_code == 201, answer.text
    identifier: str = answer.json()["id"]
    return identifier


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    assert problem["next_step"]
    return problem


async def _delete_for_good(articles: Running, identifier: str) -> None:
    saga = new_id()
    assert (await articles.tell(HideArticle(identifier), saga=saga)).outcome is Outcome.DONE
    assert (await articles.tell(DeleteArticle(identifier), saga=saga)).outcome is Outcome.DONE


async def test_a_new_article_is_answered_with_its_id_address_and_etag(articles: Running) -> None:
    answer = await articles.http.post("/articles", json=TIDES | {"unknown": "ignored"})
    assert answer.status_code == 201
    body = answer.json()
    assert is_id(body["id"])
    assert body == TIDES | {
        "id": body["id"],
        "status": "published",
        "version": 1,
        "created_at": "2030-01-01T12:00:00Z",
        "updated_at": "2030-01-01T12:00:00Z",
        "legal_hold": None,
    }
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["location"] == f"/articles/{body['id']}"
    read = await articles.http.get(answer.headers["location"])
    assert (read.status_code, read.json(), read.headers["etag"]) == (200, body, '"1"')
    assert await articles.outbox(ArticlePublished) == [
        ArticlePublished(body["id"], "Tides", "Ada", 1)
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": ""},
        {"title": "x" * 201},
        {"title": "a\x00b"},
        {"body": "a\x00b"},
        {"author": "a\x00b"},
        {"author": ""},
        {"author": "x" * 101},
        {"title": 5},
        {"title": None},
        {"body": ["text"]},
    ],
)
async def test_an_article_with_a_wrong_field_is_a_422_and_writes_nothing(
    articles: Running, wrong: dict[str, Any]
) -> None:
    answer = await articles.http.post("/articles", json=TIDES | wrong)
    problem = _problem(answer, 422, "invalid-request")
    assert f"body.{next(iter(wrong))}" in problem["detail"]
    assert (await articles.http.get("/articles")).json()["items"] == []
    assert await articles.outbox(ArticlePublished) == []


async def test_texts_of_the_greatest_length_are_taken_in_any_script(articles: Running) -> None:
    identifier = await _publish(articles, title="水" * 200, author="𝄞" * 100)
    read = (await articles.http.get(f"/articles/{identifier}")).json()
    assert (read["title"], read["author"]) == ("水" * 200, "𝄞" * 100)


async def test_a_body_of_more_than_1_mib_is_a_413(articles: Running) -> None:
    answer = await articles.http.post("/articles", json=TIDES | {"body": "x" * 1024 * 1024})
    _problem(answer, 413, "body-too-large")


@pytest.mark.parametrize("identifier", ["nonsense", "0", "%00", "019f0000-0000-7000-8000-00000000"])
async def test_an_address_that_no_article_has_is_a_404(articles: Running, identifier: str) -> None:
    path = f"/articles/{identifier}"
    _problem(await articles.http.get(path), 404, "unknown-article")
    _problem(
        await articles.http.put(path, json=TIDES, headers={"if-match": "*"}), 404, "unknown-article"
    )
    _problem(await articles.http.delete(path), 404, "unknown-article")
    hold = f"{path}/legal-hold"
    _problem(await articles.http.put(hold, json={"reason": "x"}), 404, "unknown-article")
    _problem(await articles.http.delete(hold), 404, "unknown-article")


async def test_articles_are_listed_newest_first_page_by_page(articles: Running) -> None:
    made = [await _publish(articles, author=author) for author in ("Ada", "Bob", "Ada", "Ada")]
    seen: list[str] = []
    cursor: str | None = None
    for expected in (2, 2, 0):
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await articles.http.get("/articles", params=query)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["items"]) == expected
    assert seen == made[::-1]
    adas = (await articles.http.get("/articles", params={"author": "Ada"})).json()
    assert [item["id"] for item in adas["items"]] == [made[3], made[2], made[0]]
    assert adas["next_cursor"] is None
    assert "body" not in adas["items"][0]


async def test_a_new_article_does_not_shift_the_next_page(articles: Running) -> None:
    made = [await _publish(articles) for _ in range(3)]
    first = (await articles.http.get("/articles?limit=1")).json()
    await _publish(articles)
    rest = (await articles.http.get(f"/articles?cursor={first['next_cursor']}")).json()
    assert [item["id"] for item in rest["items"]] == [made[1], made[0]]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid-request"),
        ("limit=201", "invalid-request"),
        ("limit=many", "invalid-request"),
        ("cursor=bent", "invalid-cursor"),
        ("author=%00", "invalid-request"),
    ],
)
async def test_a_wrong_page_is_a_422(articles: Running, query: str, code: str) -> None:
    _problem(await articles.http.get(f"/articles?{query}"), 422, code)


async def test_an_edit_needs_the_version_that_it_began_from(articles: Running) -> None:
    path = f"/articles/{await _publish(articles)}"
    new = {"title": "Moons", "body": "Two."}
    _problem(await articles.http.put(path, json=new), 428, "if-match-missing")
    edited = await articles.http.put(path, json=new, headers={"if-match": '"1"'})
    assert (edited.status_code, edited.headers["etag"]) == (200, '"2"')
    assert edited.json()["title"] == "Moons"
    for stale in ('"1"', 'W/"2"', "2", '""', ""):
        answer = await articles.http.put(path, json=new, headers={"if-match": stale})
        _problem(answer, 412, "version-changed")
        assert answer.headers["etag"] == '"2"'
    for good in ('"7", "2"', "*"):
        answer = await articles.http.put(path, json=new, headers={"if-match": good})
        new_tag = answer.headers["etag"]
    assert new_tag == '"4"'
    identifier = path.rpartition("/")[2]
    assert await articles.outbox(ArticleEdited) == [
        ArticleEdited(identifier, "Moons", version) for version in (2, 3, 4)
    ]


async def test_a_deletion_is_asked_for_once_and_names_its_saga(articles: Running) -> None:
    identifier = await _publish(articles)
    first = await articles.http.delete(f"/articles/{identifier}")
    assert first.status_code == 202
    saga = first.json()["saga_id"]
    assert is_id(saga)
    assert first.json() == {"saga_id": saga, "article_id": identifier}
    assert first.headers["location"] == f"{ORCHESTRATOR}/sagas/{saga}"
    again = await articles.http.delete(f"/articles/{identifier}")
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert await articles.outbox(StartSaga) == [
        StartSaga("delete-article", {"article_id": identifier}, saga)
    ]
    async with articles.chassis.database.reading.connect() as connection:
        query = select(tables.outbox.c.id, tables.outbox.c.destination).where(
            tables.outbox.c.type == "orchestrator.start-saga.v1"
        )
        assert (await connection.execute(query)).all() == [(saga, "orchestrator")]


async def test_an_article_under_deletion_is_read_and_listed_and_not_edited(
    articles: Running,
) -> None:
    identifier = await _publish(articles)
    await articles.http.delete(f"/articles/{identifier}")
    read = await articles.http.get(f"/articles/{identifier}")
    assert (read.status_code, read.json()["status"]) == (200, "deleting")
    (item,) = (await articles.http.get("/articles")).json()["items"]
    assert item["status"] == "deleting"
    for headers in ({"if-match": '"1"'}, {}):
        answer = await articles.http.put(f"/articles/{identifier}", json=TIDES, headers=headers)
        _problem(answer, 409, "article-being-deleted")
    assert await articles.outbox(ArticleEdited) == []


async def test_a_legal_hold_comes_and_goes_and_may_come_twice(articles: Running) -> None:
    path = f"/articles/{await _publish(articles)}"
    for _ in range(2):
        held = await articles.http.put(f"{path}/legal-hold", json={"reason": "case 7"})
        assert (held.status_code, held.json()["legal_hold"]) == (200, "case 7")
    assert held.headers["etag"] == '"1"'
    for _ in range(2):
        assert (await articles.http.delete(f"{path}/legal-hold")).status_code == 204
    assert (await articles.http.get(path)).json()["legal_hold"] is None
    _problem(
        await articles.http.put(f"{path}/legal-hold", json={"reason": ""}), 422, "invalid-request"
    )


async def test_a_legal_hold_that_comes_during_the_deletion_stops_it_at_the_pivot(
    articles: Running,
) -> None:
    identifier = await _publish(articles)
    saga = (await articles.http.delete(f"/articles/{identifier}")).json()["saga_id"]
    hidden = await articles.tell(HideArticle(identifier), saga=saga)
    assert hidden.value == {"title": "Tides", "version": 1}
    held = await articles.http.put(f"/articles/{identifier}/legal-hold", json={"reason": "case"})
    assert (held.status_code, held.json()["status"]) == (200, "deleting")
    refused = await articles.tell(DeleteArticle(identifier), saga=saga)
    assert (refused.outcome, refused.code) == (Outcome.REFUSED, "legal-hold")
    assert await articles.outbox(ArticleDeleted) == []
    assert (await articles.tell(UnhideArticle(identifier), saga=saga)).value == {"was_hidden": True}
    await articles.tell(SagaEnded(saga, "COMPENSATED"))
    read = (await articles.http.get(f"/articles/{identifier}")).json()
    assert (read["status"], read["title"]) == ("published", "Tides")


async def test_a_saga_that_ended_otherwise_leaves_the_article_deletable(articles: Running) -> None:
    identifier = await _publish(articles)
    first = (await articles.http.delete(f"/articles/{identifier}")).json()["saga_id"]
    await articles.tell(SagaEnded(new_id(), "TERMINATED"))
    assert (await articles.http.delete(f"/articles/{identifier}")).json()["saga_id"] == first
    await articles.tell(SagaEnded(first, "TERMINATED"))
    assert (await articles.http.get(f"/articles/{identifier}")).json()["status"] == "published"
    second = (await articles.http.delete(f"/articles/{identifier}")).json()["saga_id"]
    assert second != first


async def test_a_deleted_article_is_gone_for_every_request_and_not_listed(
    articles: Running,
) -> None:
    identifier = await _publish(articles)
    path = f"/articles/{identifier}"
    other = await _publish(articles)
    await _delete_for_good(articles, identifier)
    assert await articles.outbox(ArticleDeleted) == [ArticleDeleted(identifier)]
    _problem(await articles.http.get(path), 410, "article-deleted")
    _problem(await articles.http.delete(path), 410, "article-deleted")
    _problem(await articles.http.put(path, json=TIDES), 410, "article-deleted")
    hold = f"{path}/legal-hold"
    _problem(await articles.http.put(hold, json={"reason": "late"}), 410, "article-deleted")
    _problem(await articles.http.delete(hold), 410, "article-deleted")
    for query in ("", "?author=Ada"):
        listed = (await articles.http.get(f"/articles{query}")).json()
        assert [item["id"] for item in listed["items"]] == [other]


async def test_a_saga_of_another_holder_is_told_who_holds_the_article(articles: Running) -> None:
    identifier = await _publish(articles)
    holder, other = new_id(), new_id()
    await articles.tell(HideArticle(identifier), saga=holder)
    for command in (HideArticle(identifier), DeleteArticle(identifier)):
        answer = await articles.tell(command, saga=other)
        assert (answer.outcome, answer.reason) == (Outcome.LOCKED, holder)
    assert (await articles.tell(UnhideArticle(identifier), saga=other)).value == {
        "was_hidden": False
    }
    assert (await articles.http.get(f"/articles/{identifier}")).json()["status"] == "deleting"


@pytest.mark.parametrize("article_id", [new_id(), "nonsense"], ids=["unknown", "nonsense"])
async def test_a_command_for_no_article_is_refused(articles: Running, article_id: str) -> None:
    for command in (HideArticle(article_id), UnhideArticle(article_id), DeleteArticle(article_id)):
        answer = await articles.tell(command, saga=new_id())
        assert (answer.outcome, answer.code) == (Outcome.REFUSED, "unknown-article")


async def test_a_command_without_a_saga_is_refused(articles: Running) -> None:
    identifier = await _publish(articles)
    for command in (HideArticle(identifier), UnhideArticle(identifier), DeleteArticle(identifier)):
        answer = await articles.tell(command)
        assert (answer.outcome, answer.code) == (Outcome.REFUSED, "no-saga")
    assert (await articles.http.get(f"/articles/{identifier}")).json()["status"] == "published"


async def test_the_event_of_a_deletion_names_the_command_and_the_saga(articles: Running) -> None:
    identifier = await _publish(articles)
    saga = new_id()
    await articles.tell(HideArticle(identifier), saga=saga)
    command = envelope(DeleteArticle(identifier), saga=saga)
    await articles.tell_all(command)
    query = select(tables.outbox.c.headers).where(
        tables.outbox.c.type == "articles.article-deleted.v1"
    )
    async with articles.chassis.database.reading.connect() as connection:
        (headers,) = await connection.scalars(query)
    assert command.id in headers
    assert saga in headers
