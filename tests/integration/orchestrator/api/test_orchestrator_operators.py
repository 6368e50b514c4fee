"""What a person may ask for over HTTP: interventions, dead letters, definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import insert, select

from orchestrator.errors import IllegalSignal, OrchestratorError, UnknownRun
from orchestrator.machine.signals import Cancel, Pause, Resolve, Resume, Retry, Skip, Terminate
from orchestrator.sagas.delete_article import delete_article
from outbox import tables
from tests.support.blog.blog import START, Running, new_id
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    problem,
    put,
)


@pytest.mark.parametrize(
    ("verb", "body", "signal"),
    [
        ("cancel", {}, Cancel("ada", "why")),
        ("terminate", {}, Terminate("ada", "why")),
        ("resolve", {}, Resolve("ada", "why")),
        ("pause", {}, Pause("ada", "why")),
        ("resume", {}, Resume("ada", "why")),
        ("retry", {"step": "s"}, Retry("s", "ada", "why")),
        ("skip", {"step": "s", "result": {"n": [1]}}, Skip("s", "ada", "why", {"n": [1]})),
        ("skip", {"step": "s"}, Skip("s", "ada", "why", None)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_a_person_asks_for_reaches_the_engine(
    orchestrator: Running, verb: str, body: dict[str, Any], signal: object
) -> None:
    run = await put(orchestrator.chassis.database, begun())
    answer = await orchestrator.http.post(
        f"/sagas/{run.id}/{verb}", json={"reason": "why", "actor": "ada", **body}
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["id"] == run.id
    assert engine_of(orchestrator).told == [(run.id, signal)]


async def test_who_does_not_say_who_it_is_is_the_api(orchestrator: Running) -> None:
    run = await put(orchestrator.chassis.database, begun())
    await orchestrator.http.post(f"/sagas/{run.id}/cancel", json={"reason": "why"})
    assert engine_of(orchestrator).told == [(run.id, Cancel("api", "why"))]


@pytest.mark.parametrize(
    ("verb", "body", "named"),
    [
        ("cancel", {}, "reason"),
        ("cancel", {"reason": ""}, "reason"),
        ("cancel", {"reason": "x" * 501}, "reason"),
        ("cancel", {"reason": "a\0"}, "reason"),
        ("cancel", {"reason": "why", "actor": ""}, "actor"),
        ("retry", {"reason": "why"}, "step"),
        ("skip", {"reason": "why"}, "step"),
        ("skip", {"reason": "why", "step": "s", "result": {"n": 2**70}}, "result"),
        ("skip", {"reason": "why", "step": "s", "result": "a\0"}, "result"),
    ],
)
async def test_a_wish_that_says_too_little_or_too_much_is_refused(
    orchestrator: Running, verb: str, body: dict[str, Any], named: str
) -> None:
    run = await put(orchestrator.chassis.database, begun())
    answer = await orchestrator.http.post(f"/sagas/{run.id}/{verb}", json=body)
    assert named in problem(answer, 422, answer.json()["code"])["detail"]
    assert engine_of(orchestrator).told == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (IllegalSignal("no", status="COMPLETED", allowed=()), 409, "illegal-signal"),
        (UnknownRun("x"), 404, "unknown-run"),
    ],
)
async def test_what_is_not_possible_is_told_with_what_is(
    orchestrator: Running, error: OrchestratorError, status: int, code: str
) -> None:
    run = await put(orchestrator.chassis.database, begun())
    engine_of(orchestrator).refusal = error
    answer = await orchestrator.http.post(f"/sagas/{run.id}/cancel", json={"reason": "why"})
    found = problem(answer, status, code)
    if isinstance(error, IllegalSignal):
        assert (found["saga_status"], found["allowed"]) == ("COMPLETED", [])


async def test_definitions_are_listed_and_shown(orchestrator: Running) -> None:
    (listed,) = (await orchestrator.http.get("/definitions")).json()["items"]
    assert listed == {
        "name": "delete-article",
        "version": 1,
        "fingerprint": delete_article.fingerprint,
        "latest": True,
    }
    latest = (await orchestrator.http.get("/definitions/delete-article")).json()
    assert latest == (await orchestrator.http.get("/definitions/delete-article/1")).json()
    assert (latest["one_active"], latest["participants"]) == (True, ["articles", "comments"])
    assert latest["input"]["required"] == ["article_id"]
    assert latest["steps"][2] == {
        "name": "delete article",
        "kind": "pivot",
        "after": ["hide article", "close thread"],
        "participant": "articles",
        "action": "articles.delete-article.v1",
        "compensation": None,
        "deadline": 300.0,
    }


@pytest.mark.parametrize("path", ["delete-nothing", "delete-article/2"])
async def test_an_unknown_definition_is_a_problem(orchestrator: Running, path: str) -> None:
    problem(await orchestrator.http.get(f"/definitions/{path}"), 404, "unknown-saga")


# Dead letters


async def _bury(orchestrator: Running, **changes: Any) -> str:
    letter: Mapping[str, Any] = {
        "id": new_id(),
        "destination": "articles",
        "bucket": 3,
        "aggregatetype": "orchestrator",
        "aggregateid": "k",
        "type": "orchestrator.saga-ended.v1",
        "payload": "{}",
        "headers": "{}",
        "occurred_at": START,
        "reason": "no reader wants it",
        "attempts": 9,
        "died_at": START,
        **changes,
    }
    async with orchestrator.chassis.database.engine.begin() as connection:
        await connection.execute(insert(tables.outbox_dead).values(letter))
    return str(letter["id"])


async def _unsent(orchestrator: Running) -> list[str]:
    async with orchestrator.chassis.database.reading.connect() as connection:
        return list(await connection.scalars(select(tables.outbox.c.id)))


async def test_dead_letters_are_listed_and_sent_again(orchestrator: Running) -> None:
    first, second = await _bury(orchestrator), await _bury(orchestrator, destination="comments")
    page = (await orchestrator.http.get("/dead-letters", params={"limit": 1})).json()
    assert [it["id"] for it in page["items"]] == [second]
    assert page["items"][0]["reason"] == "no reader wants it"
    rest = await orchestrator.http.get("/dead-letters", params={"cursor": page["next_cursor"]})
    assert [it["id"] for it in rest.json()["items"]] == [first]
    only = await orchestrator.http.get("/dead-letters", params={"destination": "articles"})
    assert [it["id"] for it in only.json()["items"]] == [first]
    for letter in (first, second):
        begins = await orchestrator.http.get("/dead-letters", params={"id_prefix": letter[:-1]})
        assert [it["id"] for it in begins.json()["items"] if it["id"] == letter] == [letter]
    none = await orchestrator.http.get("/dead-letters", params={"id_prefix": "ffff"})
    assert none.json()["items"] == []
    bell = orchestrator.chassis.service.bell
    rings = bell.rings
    answer = await orchestrator.http.post("/dead-letters/redrive", json={"ids": [first]})
    assert (answer.status_code, answer.json()) == (200, {"redriven": 1, "new_ids": {}})
    assert bell.rings > rings
    assert await _unsent(orchestrator) == [first]


async def test_dead_letters_are_sent_again_as_new_messages(orchestrator: Running) -> None:
    letter = await _bury(orchestrator)
    body = {"ids": [letter], "as_new": True}
    answer = (await orchestrator.http.post("/dead-letters/redrive", json=body)).json()
    assert (answer["redriven"], list(answer["new_ids"])) == (1, [letter])
    assert await _unsent(orchestrator) == [answer["new_ids"][letter]]
    assert letter not in await _unsent(orchestrator)


async def test_a_letter_that_its_receiver_called_too_old_is_sent_again_only_as_new(
    orchestrator: Running,
) -> None:
    letter = await _bury(orchestrator, reason="too-old: it is older than what it remembers")
    answer = await orchestrator.http.post("/dead-letters/redrive", json={"ids": [letter]})
    found = problem(answer, 409, "forgotten-by-receiver")
    assert letter in found["detail"]
    assert "--as-new" in found["next_step"]
    assert await _unsent(orchestrator) == []
    body = {"ids": [letter], "as_new": True}
    assert (await orchestrator.http.post("/dead-letters/redrive", json=body)).status_code == 200


async def test_a_sagas_command_is_not_sent_again_but_its_step_is_retried(
    orchestrator: Running,
) -> None:
    saga, event = new_id(), await _bury(orchestrator)
    headers = f'{{"replyto":"orchestrator","correlationid":"{saga}"}}'
    command = await _bury(orchestrator, headers=headers)
    answer = await orchestrator.http.post("/dead-letters/redrive", json={"ids": [event, command]})
    found = problem(answer, 409, "belongs-to-saga")
    assert saga in found["detail"]
    assert "sagabox retry" in found["next_step"]
    assert await _unsent(orchestrator) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"ids": [new_id()]}, 404, "no-such-message"),
        ({"ids": []}, 422, "invalid-request"),
        ({"ids": ["x"]}, 422, "invalid-request"),
    ],
)
async def test_dead_letters_that_there_are_not_are_not_sent(
    orchestrator: Running, body: dict[str, Any], status: int, code: str
) -> None:
    problem(await orchestrator.http.post("/dead-letters/redrive", json=body), status, code)


async def test_a_cursor_of_another_list_is_refused(orchestrator: Running) -> None:
    answer = await orchestrator.http.get("/dead-letters", params={"cursor": "x"})
    problem(answer, 422, "invalid-selection")
