"""What the orchestrator shows of runs and their histories."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.machine.instance import Direction, Instance, Status, StepStatus
from orchestrator.machine.transition import Entry, Happening
from orchestrator.sagas.delete_article import Deletion, delete_article
from tests.support.blog.blog import START, Running, new_id
from tests.support.orchestrator.orchestrating import (
    at,
    begun,
    engine_of,
    problem,
    put,
    put_alias,
    put_history,
)


async def _put(orchestrator: Running, instance: Instance[Any] | None = None, **columns: Any) -> str:
    return (await put(orchestrator.chassis.database, instance or begun(), **columns)).id


async def test_an_unknown_id_is_a_problem_everywhere(orchestrator: Running) -> None:
    for id in (new_id(), "no-id"):
        for path in ("", "/history", "/events"):
            answer = await orchestrator.http.get(f"/sagas/{id}{path}")
            assert id in problem(answer, 404, "unknown-run")["detail"]
        answer = await orchestrator.http.post(f"/sagas/{id}/cancel", json={"reason": "r"})
        problem(answer, 404, "unknown-run")
    assert engine_of(orchestrator).told == []


async def test_a_start_that_was_joined_to_an_active_saga_shows_that_one(
    orchestrator: Running,
) -> None:
    id, alias = await _put(orchestrator), new_id()
    await put_alias(orchestrator.chassis.database, alias, of=id)
    await put_history(orchestrator.chassis.database, id, Entry(START, Happening.STARTED, "begin"))
    for path in ("", "/history"):
        answer = await orchestrator.http.get(f"/sagas/{alias}{path}")
        assert answer.headers["content-location"] == f"/sagas/{id}"
        direct = await orchestrator.http.get(f"/sagas/{id}{path}")
        assert "content-location" not in direct.headers
        assert answer.json() == direct.json()
    answer = await orchestrator.http.post(f"/sagas/{alias}/cancel", json={"reason": "r"})
    assert answer.status_code == 202
    assert [told for told, _ in engine_of(orchestrator).told] == [id]


async def test_a_start_that_was_refused_is_gone_with_its_reason(orchestrator: Running) -> None:
    refused = new_id()
    await put_alias(orchestrator.chassis.database, refused, reason="there is no saga 'x'")
    answer = await orchestrator.http.get(f"/sagas/{refused}")
    assert "there is no saga 'x'" in problem(answer, 410, "start-refused")["detail"]


async def test_a_run_whose_code_is_missing_is_shown_as_parked(orchestrator: Running) -> None:
    id = await _put(orchestrator, replace(begun(), version=7))
    saga = (await orchestrator.http.get(f"/sagas/{id}")).json()
    assert saga["parked"] == "its definition delete-article v7 is not registered here"
    assert saga["allowed"] == []
    assert {step["name"] for step in saga["steps"]} == {it.name for it in delete_article.steps}
    assert {step["kind"] for step in saga["steps"]} == {None}
    (listed,) = (await orchestrator.http.get("/sagas")).json()["items"]
    assert listed["parked"] == saga["parked"]
    assert (listed["step"], listed["reason"]) == ("hide article", saga["parked"])
    assert (saga["step"], saga["reason"]) == ("hide article", saga["parked"])


async def test_the_runs_of_each_status_are_counted(orchestrator: Running) -> None:
    for number in range(2):
        await _put(orchestrator, replace(begun(), key=f"a{number}"))
    answer = await orchestrator.http.get("/sagas/counts")
    counted = {it["status"]: (it["runs"], it["has_more"]) for it in answer.json()["items"]}
    assert counted == {it.value: (0, False) for it in Status} | {"RUNNING": (2, False)}


@pytest.mark.parametrize(
    "columns",
    [{"state": '{"article_id": 7}'}, {"document": "{}"}, {"state": "no JSON"}],
    ids=["state", "document", "json"],
)
async def test_a_run_whose_row_cannot_be_read_is_shown_as_parked(
    orchestrator: Running, columns: dict[str, Any]
) -> None:
    id = await _put(orchestrator, **columns)
    answer = await orchestrator.http.get(f"/sagas/{id}")
    assert answer.status_code == 200
    assert "does not fit delete-article v1" in answer.json()["parked"]
    assert answer.json()["allowed"] == []
    unknown = "document" in columns
    assert answer.json()["direction"] == (None if unknown else "FORWARD")


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("paused", [False, True], ids=["", "paused"])
@pytest.mark.parametrize("ended", [None, Status.COMPENSATED, Status.RESOLVED, Status.TERMINATED])
@pytest.mark.parametrize("stuck", [False, True], ids=["", "stuck"])
@pytest.mark.parametrize("version", [1, 7], ids=["", "without its code"])
async def test_a_run_tells_which_way_it_goes_in_every_status(
    orchestrator: Running,
    direction: Direction,
    paused: bool,
    ended: Status | None,
    stuck: bool,
    version: int,
) -> None:
    run = replace(begun(), direction=direction, paused=paused, ended=ended, version=version)
    if stuck:
        steps = {name: replace(it, status=StepStatus.STUCK) for name, it in run.steps.items()}
        run = replace(run, steps=steps)
    shown = (await orchestrator.http.get(f"/sagas/{await _put(orchestrator, run)}")).json()
    assert shown["direction"] == direction.name


async def test_an_ended_run_is_not_parked_when_its_code_has_gone(orchestrator: Running) -> None:
    id = await _put(orchestrator, replace(begun(), version=7, ended=Status.COMPLETED))
    assert (await orchestrator.http.get(f"/sagas/{id}")).json()["parked"] is None


async def _listed(orchestrator: Running, **parameters: Any) -> list[str]:
    answer = await orchestrator.http.get("/sagas", params=parameters)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def test_sagas_are_listed_newest_first_in_pages(orchestrator: Running) -> None:
    ids = [await _put(orchestrator) for _ in range(5)]
    answer = (await orchestrator.http.get("/sagas", params={"limit": 3})).json()
    assert [item["id"] for item in answer["items"]] == ids[:1:-1]
    rest = await orchestrator.http.get("/sagas", params={"cursor": answer["next_cursor"]})
    assert [item["id"] for item in rest.json()["items"]] == ids[1::-1]
    assert rest.json()["next_cursor"] is None
    assert "state" not in answer["items"][0]


async def test_a_list_is_narrowed_by_status_name_key_and_age(orchestrator: Running) -> None:
    old = await _put(orchestrator, at(begun(), START - timedelta(hours=2)), name="old")
    ended = await _put(orchestrator, replace(begun(), ended=Status.COMPENSATED))
    keyed = await _put(orchestrator, begun(Deletion("k1")))
    assert await _listed(orchestrator) == [keyed, ended, old]
    assert await _listed(orchestrator, status="COMPENSATED") == [ended]
    assert await _listed(orchestrator, status=["COMPENSATED", "RUNNING"]) == [keyed, ended, old]
    assert await _listed(orchestrator, name="old") == [old]
    assert await _listed(orchestrator, key="k1") == [keyed]
    assert await _listed(orchestrator, older_than=7200) == [old]
    assert await _listed(orchestrator, older_than=7201) == []
    assert await _listed(orchestrator, status="STUCK") == []
    assert await _listed(orchestrator, name="old", status="COMPENSATED") == []


async def test_a_list_is_narrowed_by_the_beginning_of_an_id(orchestrator: Running) -> None:
    ids = [await _put(orchestrator) for _ in range(3)]
    for length in (1, 8, 9, 20):
        begin_so = [it for it in reversed(ids) if it.startswith(ids[0][:length])]
        assert await _listed(orchestrator, id_prefix=ids[0][:length].upper()) == begin_so
    assert await _listed(orchestrator, id_prefix=ids[1]) == [ids[1]]
    assert await _listed(orchestrator, id_prefix="ffffffff-ffff-7") == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"id_prefix": ""},
        {"id_prefix": "0189-"},
        {"id_prefix": "01890a5d-ac96-774b-bcce-b302099a80571"},
        {"status": "RUNING"},
        {"older_than": "-1"},
        {"older_than": "inf"},
        {"older_than": "1e300"},
        {"limit": "0"},
        {"limit": "201"},
        {"cursor": "nonsense"},
        {"key": "a\0"},
    ],
    ids=str,
)
async def test_a_filter_that_cannot_be_is_refused(
    orchestrator: Running, parameters: dict[str, str]
) -> None:
    answer = await orchestrator.http.get("/sagas", params=parameters)
    (name,) = parameters
    assert name in problem(answer, 422, answer.json()["code"])["detail"]


async def test_a_history_is_told_oldest_first_in_pages(orchestrator: Running) -> None:
    id = await _put(orchestrator)
    entries = [
        Entry(START, Happening.STARTED, "begin"),
        Entry(START, Happening.SENT, "articles.hide-article.v1", "hide article", new_id()),
        Entry(START, Happening.OPERATOR, "pause: lunch", actor="ada"),
    ]
    await put_history(orchestrator.chassis.database, id, *entries)
    first = (await orchestrator.http.get(f"/sagas/{id}/history", params={"limit": 2})).json()
    assert [item["number"] for item in first["items"]] == [1, 2]
    assert first["items"][1] == {
        "number": 2,
        "at": "2030-01-01T12:00:00Z",
        "happening": "sent",
        "detail": "articles.hide-article.v1",
        "step": "hide article",
        "command_id": entries[1].command_id,
        "actor": None,
    }
    assert first["next_cursor"] == "2"
    rest = await orchestrator.http.get(
        f"/sagas/{id}/history", params={"after": first["next_cursor"]}
    )
    assert [item["actor"] for item in rest.json()["items"]] == ["ada"]
    assert rest.json()["next_cursor"] is None
