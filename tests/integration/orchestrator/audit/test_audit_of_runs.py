"""`sagabox audit --runs`: runs and inboxes that contradict each other are named, and no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

import orchestrator.tables
from orchestrator.cli.audit import lost_reading
from orchestrator.cli.audit.databases import opened
from orchestrator.cli.audit.lost_reading import RunFindings, compare_runs
from orchestrator.machine.instance import Instance, StepRun, StepStatus
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store.records import Record, document_json
from outbox import tables
from outbox.ids import first_at, time_of
from tests.support.blog.audited import Audited
from tests.support.blog.blog import START, new_id
from tests.support.databases.migrating import Told
from tests.support.processes.cli import sagabox, told_error

pytestmark = pytest.mark.slow

HIDE, CLOSE, DELETE, PURGE = (step.name for step in delete_article.steps)
OWNERS = {HIDE: "articles", CLOSE: "comments", DELETE: "articles", PURGE: "comments"}
TYPES = {
    HIDE: "articles.hide-article.v1",
    CLOSE: "comments.close-thread.v1",
    DELETE: "articles.delete-article.v1",
    PURGE: "comments.purge-thread.v1",
}


async def look(blog: Audited, since: Any = None) -> RunFindings:
    async with opened(blog.urls) as databases:
        return await compare_runs(databases, since)


def found(findings: RunFindings) -> set[tuple[str, str, str]]:
    """Which run has what, at which service."""
    return {(it.saga_id, it.loss.value, it.service) for it in findings.lost}


def receive(
    blog: Audited, service: str, id_: str, saga: str, state: str = "ran", by: str | None = None
) -> None:
    """A row in the inbox of that service."""
    row = dict(
        consumer=service,
        id=id_,
        state=state,
        barred_by=by,
        source="orchestrator",
        saga=saga,
        received_at=START,
    )
    with blog.engines[service].begin() as connection:
        connection.execute(insert(tables.inbox), [row])


def ended(
    blog: Audited,
    steps: dict[str, StepRun],
    *,
    status: str = "COMPLETED",
    known: bool = True,
    live: bool = False,
) -> str:
    """A run with these steps; with `known` false the orchestrator has lost it."""
    id_, key = new_id(), new_id()
    if not known:
        return id_
    blog.saga(key, id=id_, ended=not live)
    whole = {step.name: steps.get(step.name, StepRun()) for step in delete_article.steps}
    run = Instance(id_, "delete-article", 1, key, Deletion(key), whole, START)
    saga, history = orchestrator.tables.saga, orchestrator.tables.saga_history
    sent = [
        (name, command)
        for name, step in steps.items()
        for command in (*step.action_ids, *step.undo_ids)
    ]
    with blog.engines["orchestrator"].begin() as connection:
        connection.execute(
            update(saga)
            .where(saga.c.id == id_)
            .values(document=document_json(Record(run)), status=status)
        )
        if sent:
            connection.execute(
                insert(history),
                [
                    dict(
                        saga_id=id_,
                        number=number,
                        at=START,
                        happening="sent",
                        detail=TYPES[name],
                        step=name,
                        command_id=command,
                    )
                    for number, (name, command) in enumerate(sent, 1)
                ],
            )
    return id_


def done(command: str) -> StepRun:
    return StepRun(StepStatus.DONE, action_ids=(command,), done_ids=(command,))


def undone(command: str, undo: str) -> StepRun:
    return StepRun(StepStatus.UNDONE, action_ids=(command,), undo_ids=(undo,), done_ids=(command,))


def completed(blog: Audited, *, lost: Sequence[str] = ()) -> str:
    """A run that did all; the services of `lost` have forgotten their part."""
    commands = {name: new_id() for name in TYPES}
    id_ = ended(blog, {name: done(command) for name, command in commands.items()})
    for name, command in commands.items():
        if name not in lost:
            receive(blog, OWNERS[name], command, id_)
    return id_


def compensated(blog: Audited, *, undo_lost: bool = False, known: bool = True) -> str:
    """A run that hid an article and undid that."""
    action, undo = new_id(), new_id()
    id_ = ended(blog, {HIDE: undone(action, undo)}, status="COMPENSATED", known=known)
    receive(
        blog, "articles", action, id_, "ran" if undo_lost else "undone", None if undo_lost else undo
    )
    if not undo_lost:
        receive(blog, "articles", undo, id_)
    return id_


def covered(blog: Audited, service: str, scope: str, *live: str) -> None:
    """The inbox has a watermark above everything."""
    row = dict(
        consumer=service,
        source="orchestrator",
        scope=scope,
        below="ffffffff-ffff-7fff-bfff-ffffffffffff",
        except_ids=json.dumps(live),
    )
    with blog.engines[service].begin() as connection:
        connection.execute(insert(tables.inbox_watermark), [row])


async def test_nothing_is_found_where_nothing_was_lost(blog: Audited) -> None:
    completed(blog)
    compensated(blog)
    live = ended(blog, {HIDE: done(new_id())}, live=True)
    receive(blog, "articles", new_id(), live)
    findings = await look(blog)
    assert found(findings) == set()
    assert (findings.runs, findings.rows) == (2, 7)


async def test_runs_whose_history_was_removed_are_counted_since_less_is_seen_of_them(
    blog: Audited,
) -> None:
    """Its lines say where a command went."""
    completed(blog)
    id_ = completed(blog, lost=(CLOSE, PURGE))
    assert (await look(blog)).without_history == 0
    with blog.engines["orchestrator"].begin() as connection:
        saga_history = orchestrator.tables.saga_history
        connection.execute(delete(saga_history).where(saga_history.c.saga_id == id_))
    findings = await look(blog)
    assert (findings.runs, findings.without_history, found(findings)) == (2, 1, set())


async def test_what_a_participant_lost_of_a_run_that_ended_is_named_with_its_steps(
    blog: Audited,
) -> None:
    completed(blog)
    id_ = completed(blog, lost=(CLOSE, PURGE))
    findings = await look(blog)
    assert found(findings) == {(id_, "effect-lost", "comments")}
    assert findings.lost[0].detail == f"{CLOSE}, {PURGE}"


async def test_what_a_purge_took_is_not_lost(blog: Audited) -> None:
    id_ = completed(blog, lost=(CLOSE, PURGE))
    covered(blog, "comments", "restored")
    assert found(await look(blog)) == {(id_, "effect-lost", "comments")}
    covered(blog, "comments", "saga", id_)
    assert found(await look(blog)) == {(id_, "effect-lost", "comments")}
    with blog.engines["comments"].begin() as connection:
        connection.execute(update(tables.inbox_watermark).values(except_ids="[]"))
    assert found(await look(blog)) == set()


async def test_an_action_whose_undo_was_lost_is_named(blog: Audited) -> None:
    id_ = compensated(blog, undo_lost=True)
    assert found(await look(blog)) == {(id_, "effect-kept", "articles")}


async def test_effects_of_a_run_that_the_orchestrator_lost_are_named(blog: Audited) -> None:
    lost = ended(blog, {}, known=False)
    receive(blog, "articles", new_id(), lost)
    receive(blog, "comments", new_id(), lost, "pending")
    compensated(blog, known=False)  # it left nothing behind
    refused = ended(blog, {}, known=False)
    receive(blog, "articles", new_id(), refused, "refused")
    findings = await look(blog)
    assert found(findings) == {
        (lost, "unknown-run", "articles"),
        (lost, "unknown-run", "comments"),
    }
    assert findings.lost[0].detail.startswith("1 command, the first ")


async def test_a_run_that_retention_removed_is_not_lost(blog: Audited) -> None:
    removed = ended(blog, {}, known=False)
    receive(blog, "articles", new_id(), removed)
    tombstone = dict(id=removed, saga_id=removed, made_at=START, ended="COMPLETED", name="any")
    with blog.engines["orchestrator"].begin() as connection:
        connection.execute(insert(orchestrator.tables.saga_alias), [tombstone])
    assert found(await look(blog)) == set()


async def test_a_run_whose_id_retention_remembers_no_longer_is_not_lost(blog: Audited) -> None:
    """Its id lies below the watermark. With equal ages there is never a tombstone."""
    removed = ended(blog, {}, known=False)
    receive(blog, "articles", new_id(), removed)
    assert found(await look(blog)) == {(removed, "unknown-run", "articles")}
    retention = orchestrator.tables.saga_retention
    row = dict(only=1, epoch=1, expires_at=START, below=first_at(time_of(removed)))
    with blog.engines["orchestrator"].begin() as connection:
        connection.execute(insert(retention), [row])
    assert found(await look(blog)) == {(removed, "unknown-run", "articles")}, "it is not below"
    with blog.engines["orchestrator"].begin() as connection:
        connection.execute(
            update(retention).values(below=first_at(time_of(removed) + timedelta(milliseconds=1)))
        )
    assert found(await look(blog)) == set()


async def test_an_effect_that_its_run_never_asked_for_is_named(blog: Audited) -> None:
    id_ = completed(blog)
    receive(blog, "articles", new_id(), id_)
    assert found(await look(blog)) == {(id_, "unknown-command", "articles")}


async def test_an_undo_that_its_run_forgot_is_no_effect(blog: Audited) -> None:
    action, undo, again = new_id(), new_id(), new_id()
    id_ = ended(blog, {HIDE: undone(action, undo)}, status="COMPENSATED")
    receive(blog, "articles", action, id_, "undone", again)
    receive(blog, "articles", again, id_)
    assert found(await look(blog)) == set()


async def test_commands_of_services_that_are_not_compared_are_left_out(blog: Audited) -> None:
    id_ = completed(blog, lost=(HIDE,))
    history = orchestrator.tables.saga_history
    with blog.engines["orchestrator"].begin() as connection:
        connection.execute(
            update(history).where(history.c.step == HIDE).values(detail="stock.reserve.v1")
        )
    assert id_ not in {it.saga_id for it in (await look(blog)).lost}


async def test_messages_that_their_receiver_has_are_counted(blog: Audited) -> None:
    known, new = new_id(), new_id()
    blog.message("articles", known, destination="comments")
    blog.message("articles", new, destination="comments")
    blog.message("articles", known, destination="strangers")
    receive(blog, "comments", known, new_id(), "refused")
    assert (await look(blog)).come_again == {"articles": 1}


async def test_since_leaves_out_what_began_before(blog: Audited) -> None:
    completed(blog, lost=(CLOSE,))
    lost = ended(blog, {}, known=False)
    receive(blog, "articles", new_id(), lost)
    findings = await look(blog, START + timedelta(seconds=1))
    assert (findings.runs, findings.rows, found(findings)) == (0, 0, set())


async def test_there_are_more_rows_than_one_look_takes(
    blog: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_reading, "CHUNK", 2)
    ids = [completed(blog, lost=(PURGE,)) for _ in range(5)]
    stranger = ended(blog, {}, known=False)
    for _ in range(5):
        receive(blog, "articles", new_id(), stranger)
    findings = await look(blog)
    assert found(findings) == {
        *((id_, "effect-lost", "comments") for id_ in ids),
        (stranger, "unknown-run", "articles"),
    }
    assert findings.runs == 5
    (one,) = (it for it in findings.lost if it.saga_id == stranger)
    assert one.detail.startswith("5 commands, the first ")


# On the command line


def run(blog: Audited, *arguments: str) -> Told:
    return sagabox(
        "audit",
        *arguments,
        **{f"SAGABOX_DATABASE_URL_{name.upper()}": it.url for name, it in blog.databases.items()},
    )


def test_the_command_tells_what_was_lost_and_what_to_decide(blog: Audited) -> None:
    id_ = completed(blog, lost=(PURGE,))
    assert run(blog).code == 0
    told = run(blog, "--runs")
    assert told.code == 1
    assert "runs and inboxes do not agree: 1 contradiction" in told.out
    assert "decide (effect-lost): the participant was restored" in told.out
    document = json.loads(run(blog, "--runs", "--json").out)
    assert document["runs"]["compared"] == {"runs": 1, "rows": 3, "without_history": 0}
    (lost,) = document["runs"]["lost"]
    assert (lost["code"], lost["service"], lost["saga_id"]) == ("effect-lost", "comments", id_)
    assert lost["decide"] is not None


def test_services_that_declare_nothing_have_their_inboxes_compared(blog: Audited) -> None:
    id_ = completed(blog, lost=(HIDE,))
    blog.article(thread={"purged_at": START})  # which the rules of the blog would tell
    urls = {name: it.url for name, it in blog.databases.items()}
    services = [f"--service=articles={urls['articles']}", f"--service=shop={urls['comments']}"]
    given = ("audit", *services, "--orchestrator", urls["orchestrator"])
    told = sagabox(*given, "--runs")
    assert told.code == 1
    assert "looked wrong at first" not in told.out
    assert id_ in told.out
    assert "decide (effect-lost)" in told.out
    error = told_error(sagabox(*given, "--json"))
    assert "nothing is declared of that" in error["happened"]
    assert "--runs" in error["next_step"]
    rules = [f"--rules={name}.invariants:INVARIANTS" for name in ("articles", "comments")]
    others = (*rules, "--comments", urls["comments"])
    document = json.loads(sagabox(*given, "--runs", "--json", *others).out)
    assert document["divergences"]
    assert document["runs"]["lost"]


def test_the_inbox_of_another_service_is_not_compared(blog: Audited) -> None:
    with blog.engines["comments"].begin() as connection:
        claim = {"only": 1, "name": "comments", "since": START}
        connection.execute(insert(tables.outbox_service), [claim])
    urls = {name: it.url for name, it in blog.databases.items()}
    given = [f"--service=shop={urls['comments']}", f"--orchestrator={urls['orchestrator']}"]
    error = told_error(sagabox("audit", "--runs", "--json", *given))
    assert error["happened"] == "the database of shop is that of the service comments"
    assert "--service comments=URL" in error["next_step"]


def test_a_divergence_without_a_repair_says_what_to_decide(blog: Audited) -> None:
    blog.article(thread={"purged_at": START})
    told = run(blog)
    assert "decide (thread-not-open): the comments were purged" in told.out


def test_runs_need_an_orchestrator_and_since_needs_runs(blog: Audited) -> None:
    assert (
        "--runs and --no-orchestrator"
        in told_error(run(blog, "--runs", "--no-orchestrator", "--json"))["happened"]
    )
    assert (
        "--since was given without --runs"
        in told_error(run(blog, "--since", "2", "--json"))["happened"]
    )
