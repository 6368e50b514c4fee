"""One service is restored to a moment before some deletions, by the runbook: a base backup, and the
replay of the log that PostgreSQL archived."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.blog.agreement import assert_agreement, audited, until_all_is_sent
from tests.support.blog.deleting import (
    Deletions,
    assert_gone,
    commented,
    kept,
    start_all,
    until_all_have_ended,
    until_published,
)
from tests.support.blog.restoring import restoration
from tests.support.databases.databases import Database, Templates
from tests.support.orchestrator.saga_writers import assert_histories_are_whole, connect
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

_OVER = "2020-01-01T00:00:00Z"

pytestmark = pytest.mark.timeout(900)


def lost(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Which run has what, at which service."""
    return {(it["saga_id"], it["code"], it["service"]) for it in document["runs"]["lost"]}


def divergences(document: dict[str, Any]) -> dict[str, set[str]]:
    """Which articles have which."""
    found: dict[str, set[str]] = {}
    for it in document["divergences"]:
        found.setdefault(it["id"], set()).add(it["code"])
    return found


async def settled(blog: RunningBlog) -> None:
    """Nothing is under way."""
    await until_all_have_ended(blog)
    await until_all_is_sent(blog.databases)


def let_deadlines_pass(database: Database) -> int:
    """Let the deadlines of all runs that live be over, as if the restore had taken hours. Returns
    how many there were."""
    passed = 0
    with connect(database) as connection:
        live = "SELECT id, document FROM saga WHERE ended_at IS NULL"
        for id_, text in connection.execute(live).fetchall():
            document = json.loads(text)
            for timer in document["timers"]:
                passed += timer["kind"] == "deadline"
                timer["due"] = _OVER
            for step in document["steps"].values():
                if (awaited := step.get("awaited")) and awaited.get("deadline"):
                    awaited["deadline"] = _OVER
            connection.execute(
                "UPDATE saga SET document = %s, due_at = %s WHERE id = %s",
                [json.dumps(document), _OVER, id_],
            )
    return passed


async def until_sent(blog: RunningBlog, saga: str, step: str) -> None:
    """Wait until the command of that step is sent."""

    async def sent() -> bool:
        shown = await blog.saga(saga)
        steps = [] if shown is None else shown["steps"]
        return any(it["name"] == step and it["status"] == "SENT" for it in steps)

    await until(sent, 30, f"{step} is sent")


async def test_articles_goes_back_to_before_deletions(
    postgres_templates: Templates, tmp_path: Path
) -> None:
    async with restoration("articles", postgres_templates, tmp_path) as it:
        blog = it.blog
        await start_all(blog)
        early, doomed, held = [await commented(blog, 1) for _ in range(3)]
        await blog.hold(held)
        assert await blog.until_ended(await blog.delete(early)) == "COMPLETED"
        it.back_up()
        # What articles has to say waits in its outbox at that moment, and is said afterwards.
        await settled(blog)
        await blog.children["comments"].stop()
        waiting = await blog.publish("Rocks")
        before = it.moment()
        await blog.start("comments")
        await blog.until_known(waiting)
        heard = await blog.thread(waiting)
        unknown = await commented(blog, 1)
        saga = await blog.delete(doomed)
        assert await blog.until_ended(saga) == "COMPLETED"
        assert await blog.until_ended(await blog.delete(held)) == "COMPENSATED"
        await until_published(blog, held)
        stood = await kept(blog, held)
        await settled(blog)

        await it.restore(before)
        assert (await it.look())["runs"]["come_again"] == {"articles": 1}
        await it.tell()
        await start_all(blog)
        await settled(blog)

        found = await it.audit()
        assert lost(found) == {(saga, "effect-lost", "articles")}
        (told,) = found["runs"]["lost"]
        assert (told["key"], told["detail"]) == (doomed, "hide article, delete article")
        assert divergences(found) == {
            doomed: {"closed-thread", "thread-not-open"},
            unknown: {"thread-of-unknown-article", "comments-of-unknown-article"},
        }
        assert all(each["decide"] or each["repair"] for each in found["divergences"])
        assert told["decide"]
        assert await blog.thread(waiting) == heard
        assert await kept(blog, held) == stood
        await assert_gone(blog, early)
        # A repair clears what it can, and brings no comment back that no database has.
        by_hand = {doomed: {"thread-not-open"}, unknown: divergences(found)[unknown]}
        repaired = await it.repair()
        assert divergences(repaired) == by_hand
        assert all(each["decide"] for each in repaired["divergences"])
        assert lost(repaired) == lost(found)
        assert_histories_are_whole(blog.databases["orchestrator"])


async def test_the_orchestrator_goes_back_to_before_points_of_no_return(
    postgres_templates: Templates, tmp_path: Path
) -> None:
    async with restoration("orchestrator", postgres_templates, tmp_path) as it:
        blog = it.blog
        await start_all(blog)
        over, caught, whole, half, held = [await commented(blog, 1) for _ in range(5)]
        await blog.hold(held)
        assert await blog.until_ended(await blog.delete(over)) == "COMPLETED"
        await settled(blog)
        it.back_up()
        # At that moment a run waits for a step from which it can still turn back.
        await blog.children["comments"].stop()
        behind = await blog.delete(caught)
        await until_sent(blog, behind, "close thread")
        it.name_moment()
        await blog.start("comments")
        assert await blog.until_ended(behind) == "COMPLETED"
        finished = await blog.delete(whole)
        assert await blog.until_ended(finished) == "COMPLETED"
        refused = await blog.delete(held)
        assert await blog.until_ended(refused) == "COMPENSATED"
        await until_published(blog, held)
        await settled(blog)
        await blog.children["comments"].stop()
        stranded = await blog.delete(half)
        await until_sent(blog, stranded, "close thread")

        await it.restore()
        assert let_deadlines_pass(blog.databases["orchestrator"]) == 1
        await it.tell()
        await start_all(blog)
        assert await blog.until_ended(behind) == "COMPLETED"
        await assert_gone(blog, caught)
        await settled(blog)

        found = await it.audit()
        assert lost(found) == {
            (finished, "unknown-run", "articles"),
            (finished, "unknown-run", "comments"),
            (stranded, "unknown-run", "articles"),
        }
        assert divergences(found) == {half: {"hidden-article", "deletion-without-saga"}}
        repaired = await it.repair()
        assert divergences(repaired) == {}
        assert lost(repaired) == lost(found)
        await assert_agreement(blog.databases)
        # What the lost run held is free, and can be deleted by a run that is known.
        await until_published(blog, half)
        assert len(await blog.comments_of(half)) == 1
        assert await blog.until_ended(await blog.delete(half)) == "COMPLETED"
        for article in (over, whole, half):
            await assert_gone(blog, article)
        await assert_agreement(blog.databases)
        assert_histories_are_whole(blog.databases["orchestrator"])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("service", ["articles", "comments", "orchestrator"])
async def test_a_service_goes_back_to_any_moment_of_many_deletions(
    service: str, postgres_templates: Templates, tmp_path: Path
) -> None:
    chance = random.Random(service)
    async with restoration(service, postgres_templates, tmp_path) as it:
        blog = it.blog
        await start_all(blog)
        deletions = Deletions(blog)
        await deletions.prepare(10)
        await deletions.ask()
        await settled(blog)
        it.back_up()
        moments: list[str] = []
        for _ in range(8):
            await deletions.prepare(6)
            asking = asyncio.create_task(deletions.ask())
            while not asking.done():
                moments.append(it.moment())
                await asyncio.wait({asking}, timeout=chance.uniform(0, 0.1))
            await asking
        await settled(blog)
        await it.restore(chance.choice(moments))
        await it.tell()
        await start_all(blog)
        await settled(blog)
        found = await it.audit()
        repaired = await it.repair()
        by_hand = {"thread-not-open", "thread-of-unknown-article", "comments-of-unknown-article"}
        left = set().union(*divergences(repaired).values())
        assert left <= (by_hand if service == "articles" else set()), repaired
        assert lost(repaired) <= lost(found), repaired
        assert all(each["decide"] for each in repaired["divergences"])
        codes = {code for _, code, _ in lost(found)}
        expected = {"unknown-run"} if service == "orchestrator" else {"effect-lost", "effect-kept"}
        assert codes <= expected, found
        if service != "articles":
            assert (await audited(blog.databases)).code == 0
        assert_histories_are_whole(blog.databases["orchestrator"])
