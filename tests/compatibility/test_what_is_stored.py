"""One version dies at once everywhere; the other one reads what it has stored, and finishes it:
runs of each status, messages that wait, what the inbox remembers, and the keys of starts.

The databases are those of the released version, expanded by this one; so the way back is tried too.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from comments.contract import CloseThread, ReopenThread
from outbox.clock import SystemClock
from outbox.replies import Outcome, Reply
from outbox.wire.attributes import written
from outbox.wire.envelope import Envelope
from tests.support.blog import impatient
from tests.support.blog.agreement import assert_agreement
from tests.support.blog.blog import envelope, new_id
from tests.support.blog.deleting import Deletions, assert_gone, commented, until_published
from tests.support.compatibility.versions import Version, VersionedBlog
from tests.support.orchestrator.saga_writers import execute
from tests.support.processes.waiting import until

pytestmark = [
    pytest.mark.databases("sqlite"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]
_SPOIL = (
    # Once a saga has closed the thread, it counts as deleted: it cannot be reopened.
    "CREATE TRIGGER spoil AFTER UPDATE ON threads "
    "WHEN OLD.closed_by IS NULL AND NEW.closed_by IS NOT NULL BEGIN "
    "UPDATE threads SET known = 'deleted' WHERE article_id = NEW.article_id; END"
)
_MEND = ("DROP TRIGGER spoil", "UPDATE threads SET known = 'published' WHERE known = 'deleted'")
_KEY = {"idempotency-key": "only once"}
_OF_A_RUN = ("id", "name", "version", "key", "status", "paused", "created_at", "begin_at")
_OF_A_LINE = ("number", "at", "happening", "step", "detail", "actor", "command_id")


@dataclass
class Left:
    """What the version that died has left behind. `runs` has each one by what it is for, `articles`
    likewise; `seen` is how the API showed the runs, with their histories."""

    deletions: Deletions
    articles: dict[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    seen: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    handled: dict[str, tuple[Envelope, Reply]] = field(default_factory=dict)
    barred: Envelope | None = None


async def _show(blog: VersionedBlog, run: str) -> dict[str, Any]:
    answer = await blog.ask("orchestrator", "GET", f"/sagas/{run}")
    assert answer.status_code == 200, answer.text
    page = await blog.ask("orchestrator", "GET", f"/sagas/{run}/history?after=0")
    assert page.status_code == 200, page.text
    return {**answer.json(), "history": page.json()["items"]}


async def _tell(blog: VersionedBlog, run: str, verb: str, **more: str) -> None:
    asked = {"actor": "ada", "reason": "for a test", **more}
    answer = await blog.ask("orchestrator", "POST", f"/sagas/{run}/{verb}", json=asked)
    assert answer.status_code == 202, answer.text


async def _until(blog: VersionedBlog, run: str, status: str) -> None:
    async def is_so() -> bool:
        return (await blog.saga(run) or {}).get("status") == status

    await until(is_so, 40, f"run {run} is {status}")


async def _start(blog: VersionedBlog, article: str, query: str = "", **headers: str) -> str:
    body = {"article_id": article}
    path = f"/sagas/delete-article{query}"
    answer = await blog.ask("orchestrator", "POST", path, json=body, headers=headers)
    assert answer.status_code in {200, 202}, answer.text
    run: str = answer.json()["id"]
    return run


async def leave(blog: VersionedBlog, version: Version) -> Left:
    """Begin all of it with that version, which is then killed."""
    labels = {blog.name_of(it): it for it in await blog.add_all(version)}
    left = Left(Deletions(blog))
    await left.deletions.prepare(4)
    for what in ("stuck", "turned back", "paused", "keyed", "later", "talked about"):
        left.articles[what] = await commented(blog, 2)

    await _be_stuck(blog, left)
    await _fill_the_inbox(blog, left)
    await blog.kill(labels["comments"])
    await left.deletions.ask()
    for what in ("turned back", "paused"):
        left.runs[what] = await blog.delete(left.articles[what])
        await _until_it_waits_for_comments(blog, left.runs[what])
    await _tell(blog, left.runs["turned back"], "cancel")
    await _until(blog, left.runs["turned back"], "COMPENSATING")
    await _tell(blog, left.runs["paused"], "pause")
    left.runs["keyed"] = await _start(blog, left.articles["keyed"], **_KEY)
    tomorrow = written(SystemClock().now() + timedelta(days=1))
    left.runs["later"] = await _start(blog, left.articles["later"], f"?begin_at={tomorrow}")
    left.articles["not known yet"] = await blog.publish()
    await blog.edit(left.articles["not known yet"])
    for what, run in left.runs.items():
        left.seen[what] = await _show(blog, run)
    await blog.kill(labels["orchestrator"], labels["articles"])
    return left


async def _be_stuck(blog: VersionedBlog, left: Left) -> None:
    article = left.articles["stuck"]
    execute(blog.databases["comments"], _SPOIL)
    await blog.hold(article)
    left.runs["stuck"] = await blog.delete(article)
    await _until(blog, left.runs["stuck"], "STUCK")
    execute(blog.databases["comments"], *_MEND)


async def _fill_the_inbox(blog: VersionedBlog, left: Left) -> None:
    article, saga = left.articles["talked about"], new_id()
    barred = envelope(CloseThread(article), saga=saga)
    told = {
        "a command": envelope(ReopenThread(article), saga=saga),
        "an undo before its action": envelope(
            ReopenThread(article), saga=saga, undoes=(barred.id,)
        ),
        "a refusal": envelope(CloseThread("no id of an article"), saga=saga),
    }
    for what, message in told.items():
        left.handled[what] = (message, await blog.tell("comments", message))
    outcomes = [reply.outcome for _, reply in left.handled.values()]
    assert outcomes == [Outcome.DONE, Outcome.NOTHING_TO_UNDO, Outcome.REFUSED]
    left.barred = barred


async def _until_it_waits_for_comments(blog: VersionedBlog, run: str) -> None:
    async def waits() -> bool:
        shown = await blog.saga(run) or {"steps": ()}
        at = {it["name"]: it["status"] for it in shown["steps"]}
        return at.get("hide article") == "DONE"

    await until(waits, 40, f"run {run} waits for comments")


async def assert_it_is_read(blog: VersionedBlog, left: Left) -> None:
    """Each run that rests is shown as it was; the history of each goes on where it ended."""
    for what, before in left.seen.items():
        now = await _show(blog, left.runs[what])
        if what in {"stuck", "paused", "later"}:
            assert _part(now, _OF_A_RUN) == _part(before, _OF_A_RUN)
            assert _steps(now) == _steps(before)
        lines = [_part(it, _OF_A_LINE) for it in now["history"]]
        known = [_part(it, _OF_A_LINE) for it in before["history"]]
        assert len(known) > 1 or what == "later"
        assert lines[: len(known)] == known, what


def _part(of: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: of.get(name) for name in names}


def _steps(run: Mapping[str, Any]) -> list[Any]:
    return [(it["name"], it["status"], it["reason"]) for it in run["steps"]]


async def finish(blog: VersionedBlog, left: Left) -> None:
    """Bring all of it to its right end."""
    for message, reply in left.handled.values():
        assert await blog.tell("comments", message) == reply
    assert left.barred is not None
    assert (await blog.tell("comments", left.barred)).outcome is Outcome.ALREADY_UNDONE
    await blog.comment(left.articles["talked about"], "the thread is open")
    await blog.until_known(left.articles["not known yet"], 2)

    assert await _start(blog, left.articles["keyed"], **_KEY) == left.runs["keyed"]
    await _tell(blog, left.runs["paused"], "resume")
    await _tell(blog, left.runs["stuck"], "retry", step="close thread")
    await _tell(blog, left.runs["later"], "cancel")
    ends = {"stuck": "COMPENSATED", "turned back": "COMPENSATED", "later": "COMPENSATED"}
    for what, run in left.runs.items():
        end = ends.get(what, "COMPLETED")
        assert await blog.until_ended(run, 60) == end, what
        if end == "COMPLETED":
            await assert_gone(blog, left.articles[what])
        else:
            await until_published(blog, left.articles[what])
            assert len(await blog.comments_of(left.articles[what])) == 2
    await left.deletions.assert_ended_rightly()
    await assert_agreement(blog.databases)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(Version.RELEASED, Version.THIS, id="forward"),
        # A roll goes back as well, with runs of each direction.
        pytest.param(Version.THIS, Version.RELEASED, id="back", marks=pytest.mark.soak),
    ],
)
async def test_what_one_version_has_stored_is_read_and_finished_by_the_other(
    blog: VersionedBlog, first: Version, then: Version, tmp_path: Path
) -> None:
    blog.own = tmp_path / "own"
    blog.own.mkdir()
    shutil.copy(str(impatient.__file__), blog.own)
    blog.settings["SAGABOX_SAGAS"] = "impatient:delete_article"
    if first is Version.THIS:
        await blog.expand()
    left = await leave(blog, first)
    await blog.expand()
    await asyncio.gather(*(blog.add(name, then) for name in ("orchestrator", "articles")))
    await assert_it_is_read(blog, left)
    await blog.add("comments", then)
    await finish(blog, left)
