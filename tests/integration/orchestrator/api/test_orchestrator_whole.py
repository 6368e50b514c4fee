"""The three services in one process, asked through their public addresses alone."""

from __future__ import annotations

import pytest

from orchestrator.cli.terminal.sse import events as read_events
from orchestrator.store import queries
from outbox.contract import StartSaga
from outbox.database.opening import Database
from tests.support.blog.blog import envelope, new_id
from tests.support.blog.whole_blog import WholeBlog
from tests.support.orchestrator.orchestrating import problem
from tests.support.processes.waiting import until


async def test_a_deletion_over_http_deletes_the_article_and_its_comments(blog: WholeBlog) -> None:
    article = await blog.publish()
    answer = await blog.start(article, prefer="wait=20")
    assert answer.status_code == 200, answer.text
    saga = answer.json()
    assert (saga["status"], saga["allowed"], saga["not_undone"]) == ("COMPLETED", [], [])
    assert saga["state"] == {"article_id": article, "title": "Tides", "comments": 1}
    assert {step["status"] for step in saga["steps"]} == {"DONE"}
    assert (await blog.ask("articles", "GET", f"/articles/{article}")).status_code == 410
    listed = await blog.ask("comments", "GET", "/comments", params={"article_id": article})
    assert listed.status_code == 410 or listed.json()["items"] == []
    history = await blog.ask("orchestrator", "GET", f"/sagas/{saga['id']}/history")
    lines = history.json()["items"]
    assert [lines[0]["happening"], lines[-1]["happening"]] == ["started", "ended"]
    stream = await blog.ask("orchestrator", "GET", f"/sagas/{saga['id']}/events")
    told = list(read_events(stream.text.split("\n")))
    assert [(it.id, it.name) for it in told] == [
        (str(line["number"]), line["happening"]) for line in lines
    ]


async def test_a_deletion_under_legal_hold_is_undone(blog: WholeBlog) -> None:
    article = await blog.publish()
    hold = {"reason": "a court"}
    await blog.ask("articles", "PUT", f"/articles/{article}/legal-hold", json=hold)
    answer = await blog.start(article, prefer="wait=20")
    assert (answer.status_code, answer.json()["status"]) == (200, "COMPENSATED")
    shown = await blog.ask("articles", "GET", f"/articles/{article}")
    assert shown.json()["status"] == "published"


@pytest.mark.parametrize("is_held", [False, True])
async def test_what_is_told_from_a_commit_is_what_is_read_of_the_run(
    blog: WholeBlog, is_held: bool
) -> None:
    article = await blog.publish()
    if is_held:
        hold = {"reason": "a court"}
        await blog.ask("articles", "PUT", f"/articles/{article}/legal-hold", json=hold)
    ended = (await blog.start(article, prefer="wait=20")).json()
    assert ended == await blog.saga(ended["id"])
    assert ended["status"] == ("COMPENSATED" if is_held else "COMPLETED")
    blog.open.clear()
    begun = (await blog.start(await blog.publish_alone())).json()
    assert begun == await blog.saga(begun["id"])
    assert begun["status"] == "RUNNING"


async def test_a_client_that_waits_for_a_run_of_this_node_costs_no_reading(
    blog: WholeBlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    async def look(_database: Database, id: str) -> None:
        read.append(id)

    article = await blog.publish()
    monkeypatch.setattr(queries, "find", look)
    monkeypatch.setattr(queries, "standing", look)
    answer = await blog.start(article, prefer="wait=20")
    assert (answer.status_code, answer.json()["status"]) == (200, "COMPLETED")
    assert read == []


async def test_a_deletion_that_articles_asked_for_is_found_under_its_id(blog: WholeBlog) -> None:
    article = await blog.publish()
    asked = await blog.ask("articles", "DELETE", f"/articles/{article}")
    saga = await blog.until_ended(asked.json()["saga_id"])
    assert (saga["id"], saga["status"], saga["originator"]) == (
        asked.json()["saga_id"],
        "COMPLETED",
        "articles",
    )


async def test_a_start_that_is_repeated_is_the_same_saga(blog: WholeBlog) -> None:
    article = await blog.publish()
    headers = {"idempotency-key": "once", "prefer": "wait=20"}
    first, second = await blog.start(article, **headers), await blog.start(article, **headers)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    other = await blog.start("another", **headers)
    assert problem(other, 422, "idempotency-key-reused")["first"] == first.json()["id"]


async def test_a_second_deletion_is_refused_or_joined_while_the_first_is_active(
    blog: WholeBlog,
) -> None:
    article = await blog.publish()
    blog.open.clear()
    first = (await blog.start(article)).json()["id"]
    refused = await blog.start(article)
    assert problem(refused, 409, "saga-active")["active"] == first
    assert refused.headers["location"] == f"/sagas/{first}"
    joined = StartSaga("delete-article", {"article_id": article}, new_id())
    await blog.services["orchestrator"].tell(joined)

    async def known() -> bool:
        found: bool = (await blog.saga(joined.instance_id)).get("id") == first
        return found

    await until(known, what="the second start was joined to the first")
    answer = await blog.ask("orchestrator", "GET", f"/sagas/{joined.instance_id}")
    assert answer.headers["content-location"] == f"/sagas/{first}"
    cancelled = await blog.tell(joined.instance_id, "cancel", actor="ada")
    assert cancelled.status_code == 202, cancelled.text
    blog.open.set()
    assert (await blog.until_ended(first))["status"] == "COMPENSATED"


async def test_a_start_by_message_that_cannot_be_is_shown_with_its_reason(blog: WholeBlog) -> None:
    start = StartSaga("delete-everything", {}, new_id())
    await blog.services["orchestrator"].tell_all(envelope(start))

    async def refused() -> bool:
        answer = await blog.ask("orchestrator", "GET", f"/sagas/{start.instance_id}")
        return answer.status_code == 410

    await until(refused, what="the start was refused")
    answer = await blog.ask("orchestrator", "GET", f"/sagas/{start.instance_id}")
    assert "delete-everything" in problem(answer, 410, "start-refused")["detail"]


async def test_a_pause_holds_a_saga_until_it_is_resumed(blog: WholeBlog) -> None:
    article = await blog.publish()
    blog.open.clear()
    id = (await blog.start(article)).json()["id"]
    paused = await blog.tell(id, "pause")
    assert (paused.status_code, paused.json()["paused"]) == (202, True)
    assert "resume" in paused.json()["allowed"]
    assert problem(await blog.tell(id, "pause"), 409, "illegal-signal")["allowed"] == [
        "cancel",
        "resume",
        "terminate",
    ]
    blog.open.set()
    assert (await blog.tell(id, "resume")).status_code == 202
    assert (await blog.until_ended(id))["status"] == "COMPLETED"
    ended = problem(await blog.tell(id, "cancel"), 409, "illegal-signal")
    assert (ended["saga_status"], ended["allowed"]) == ("COMPLETED", [])


async def test_what_does_not_fit_changes_nothing(blog: WholeBlog) -> None:
    before = (await blog.ask("orchestrator", "GET", "/sagas")).json()
    answer = await blog.ask("orchestrator", "POST", "/sagas/delete-article", json={"article_id": 1})
    assert "article_id" in problem(answer, 422, "invalid-input")["detail"]
    answer = await blog.ask(
        "orchestrator", "POST", "/sagas/delete-article", json={"article_id": ""}
    )
    problem(answer, 422, "invalid-input")
    assert (await blog.ask("orchestrator", "GET", "/sagas")).json() == before
