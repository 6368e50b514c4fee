"""A run tells what it waits for, whichever node is asked: the nodes that show it here have no
engine, so that they know what the database says and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from articles.contract import ArticleHidden, HideArticle
from orchestrator import tables
from orchestrator.engine import silences
from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import Status, StepStatus, StrayEffect
from orchestrator.machine.signals import Pause
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store import waits
from outbox import tables as library
from outbox.clock import SystemClock
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.replies import PENDING, Outcome, Progress, Reply
from outbox.safe_text import MAX_REASON_LENGTH
from outbox.transports.base import Transport
from outbox.transports.memory import MemoryTransport
from outbox.wire.envelope import Envelope
from outbox.wire.reply_json import progress_json
from outbox.wire.settled import EndedSagas
from tests.support.blog.blog import Running
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.orchestrator.engines import QUICK, Node, Scripted, running
from tests.support.orchestrator.orchestrating import begun, put
from tests.support.processes.waiting import until

HIDE = "articles.hide-article.v1"
AWAY = 10**9
PATIENT = EngineSettings(relay=replace(QUICK, margin=25.0, delivery_timeout=20.0))
"""A participant whose answer is long on its way, on a busy machine, is not one that is down."""


@pytest.fixture(autouse=True)
def told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silences, "TOLD_EVERY", 0.1)


@pytest.fixture
def articles() -> Scripted:
    participant = Scripted()
    participant.values[HIDE] = {"title": "Tides", "version": 1}
    return participant


@pytest.fixture
def comments() -> Scripted:
    participant = Scripted()
    participant.values["comments.close-thread.v1"] = {"comments": 3}
    return participant


@pytest.fixture
async def node(engine: AsyncEngine, articles: Scripted, comments: Scripted) -> AsyncIterator[Node]:
    both = {"articles": articles, "comments": comments}
    async with running(engine, [delete_article], both, settings=PATIENT) as started:
        yield started


async def start(node: Node) -> str:
    return (await node.engine.start(delete_article, Deletion("a1"))).instance_id


class Shown:
    """How a node that does not own the run shows it."""

    def __init__(self, orchestrator: Running, id: str) -> None:
        self._http = orchestrator.http
        self._id = id

    async def run(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._http.get(f"/sagas/{self._id}")).json()
        return found

    async def step(self) -> dict[str, Any]:
        """The step "hide article"."""
        run = await self.run()
        found: dict[str, Any] = run["steps"][0]
        assert run["waits_for"] == found["waits_for"]
        return found

    async def in_list(self) -> str | None:
        """The word in the list."""
        (found,) = (await self._http.get("/sagas")).json()["items"]
        assert found["id"] == self._id
        word: str | None = found["waits_for"]
        return word

    async def place_in_list(self) -> tuple[str | None, str | None]:
        """The step and the reason in the list, which the run itself shows, too."""
        (found,) = (await self._http.get("/sagas")).json()["items"]
        run = await self.run()
        assert (run["step"], run["reason"]) == (found["step"], found["reason"])
        return found["step"], found["reason"]

    async def until_step(self, word: str, **at_least: int) -> Mapping[str, Any]:
        """Wait until the step waits for that, after so many tries or deliveries."""

        async def is_shown() -> bool:
            step = await self.step()
            awaited = step["awaited"] or {}
            counts = awaited | (awaited.get("silence") or {})
            return step["waits_for"] == word and all(
                (counts.get(name) or 0) >= count for name, count in at_least.items()
            )

        await until(is_shown, deadline=20, what=f"the step waits for {word}, {at_least}")
        found: Mapping[str, Any] = (await self.step())["awaited"]
        return found


async def test_a_handler_that_raises_is_shown_with_its_error_until_it_works_again(
    engine: AsyncEngine,
    orchestrator: Running,
    comments: Scripted,
    database_factory: DatabaseFactory,
    make_engine: MakeEngine,
) -> None:
    is_broken = asyncio.Event()
    is_broken.set()
    handlers = Handlers("articles")

    @handlers.on(HideArticle)
    async def hide(_: AsyncSession, __: HideArticle, ___: Context) -> ArticleHidden:
        if is_broken.is_set():
            raise RuntimeError("the press burns")
        return ArticleHidden("Tides", 1)

    sessions = async_sessionmaker(make_engine(database_factory("outbox")))
    inbox = Inbox(handlers, sessions, clock=SystemClock())

    async def receive(batch: Sequence[Envelope], settled: EndedSagas | None) -> Sequence[Reply]:
        if batch[0].type == HIDE:
            return await inbox.receive(batch, settled)
        return [Reply(Outcome.DONE) for _ in batch]

    both: dict[str, Transport] = {"articles": MemoryTransport(receive), "comments": comments}
    async with running(engine, [delete_article], both, settings=PATIENT) as node:
        id = await start(node)
        shown = Shown(orchestrator, id)
        awaited = await shown.until_step("retry", tries=2)
        assert awaited["error"] == "failed: RuntimeError: the press burns"
        assert awaited["next_at"] is not None
        assert awaited["silence"] is None
        assert await shown.in_list() == "retry"
        reason = "failed: RuntimeError: the press burns"
        assert await shown.place_in_list() == ("hide article", reason)
        is_broken.clear()
        await node.until_status(id, Status.COMPLETED)
        run = await shown.run()
        assert (run["waits_for"], {it["waits_for"] for it in run["steps"]}) == (None, {None})
        assert await shown.in_list() is None
        assert await shown.place_in_list() == (None, None)


async def test_a_participant_that_is_down_is_shown_with_the_time_since_then(
    node: Node, orchestrator: Running, articles: Scripted
) -> None:
    articles.refusals = AWAY
    articles.why = "no service\0 listens " + "x" * 2 * MAX_REASON_LENGTH
    id = await start(node)
    shown = Shown(orchestrator, id)
    first = await shown.until_step("participant", deliveries=1)
    assert first["silence"]["reason"].startswith("no service\ufffd listens x")
    assert len(first["silence"]["reason"]) == MAX_REASON_LENGTH
    assert (first["tries"], first["error"]) == (0, None)
    assert await shown.in_list() == "participant"
    assert await shown.place_in_list() == ("hide article", first["silence"]["reason"])
    # It is told again and again, and counts from the first failure on.
    later = await shown.until_step("participant", deliveries=first["silence"]["deliveries"] + 1)
    since = [datetime.fromisoformat(it["silence"]["since"]) for it in (first, later)]
    assert abs(since[0] - since[1]) < timedelta(seconds=1)
    assert later["next_at"] > first["next_at"]
    articles.refusals = 0
    await node.until_status(id, Status.COMPLETED)

    async def is_forgotten() -> bool:
        return not await node.rows(tables.saga_silence)

    await until(is_forgotten, what="the silence is over in the table, too")


async def test_a_delivery_that_failed_is_still_shown_while_the_participant_is_silent(
    node: Node, orchestrator: Running, articles: Scripted
) -> None:
    articles.replies[HIDE] = Reply(Outcome.FAILED, code="failed", reason="the press burns")
    shown = Shown(orchestrator, await start(node))
    await shown.until_step("retry", tries=1)
    articles.refusals = AWAY
    awaited = await shown.until_step("participant", deliveries=1)
    assert (awaited["tries"] >= 1, awaited["error"]) == (True, "failed: the press burns")
    assert awaited["silence"]["reason"] == "no service listens"


@pytest.mark.parametrize(
    ("reply", "word", "error"),
    [
        (Reply(Outcome.LOCKED, code="locked", reason="saga 7"), "lock", "locked: saga 7"),
        (Reply(Outcome.ONGOING, code="ongoing"), "ongoing", "ongoing"),
        (Reply(Outcome.TOO_BUSY, reason="no room"), "retry", "too-busy: no room"),
    ],
    ids=lambda it: it.outcome.value if isinstance(it, Reply) else None,
)
async def test_an_answer_that_decides_nothing_is_shown(
    node: Node, orchestrator: Running, articles: Scripted, reply: Reply, word: str, error: str
) -> None:
    articles.replies[HIDE] = reply
    id = await start(node)
    shown = Shown(orchestrator, id)
    awaited = await shown.until_step(word)
    assert awaited["error"] == error
    assert await shown.in_list() == word
    del articles.replies[HIDE]
    await node.until_status(id, Status.COMPLETED)


@pytest.mark.parametrize(("year", "is_late"), [(2000, True), (2100, False)])
async def test_a_step_whose_answer_comes_later_is_shown_as_waiting_with_for_whom_and_since_when(
    node: Node, orchestrator: Running, articles: Scripted, year: int, is_late: bool
) -> None:
    since, expected = (datetime(it, 1, 1, tzinfo=UTC) for it in (1999, year))
    progress = Progress(since, expected, 2, "payments-1", since + timedelta(seconds=40))
    articles.replies[HIDE] = Reply(
        Outcome.ONGOING, progress_json(progress), PENDING, "the owner", retry_after=0.5
    )
    id = await start(node)
    shown = Shown(orchestrator, id)
    awaited = await shown.until_step("pending")
    assert (awaited["tries"], awaited["error"]) == (0, None)
    assert (await shown.step())["status"] == "WAITING"
    assert await shown.in_list() == "pending"
    assert await shown.place_in_list() == ("hide article", "the owner")
    assert awaited["pending"] == {
        "since": "1999-01-01T00:00:00Z",
        "note": "the owner",
        "expected_at": f"{year}-01-01T00:00:00Z",
        "is_late": is_late,
        "attempt": 2,
        "holder": "payments-1",
        "until": "1999-01-01T00:00:40Z",
    }
    async with orchestrator.chassis.database.engine.connect() as connection:
        assert await connection.scalar(select(tables.saga.c.status)) == "RUNNING"
        document = str(await connection.scalar(select(tables.saga.c.document)))
    assert "WAITING" not in document, "it is derived, and not stored"
    del articles.replies[HIDE]
    await node.until_status(id, Status.COMPLETED)
    assert {it["status"] for it in (await shown.run())["steps"]} == {"DONE"}


async def test_a_call_that_is_none_and_a_time_that_was_not_told_are_null(
    node: Node, orchestrator: Running, articles: Scripted
) -> None:
    articles.replies[HIDE] = Reply(Outcome.ONGOING, code=PENDING)
    shown = Shown(orchestrator, await start(node))
    pending = (await shown.until_step("pending"))["pending"]
    assert pending.pop("since") is not None
    assert pending == {
        "note": "",
        "expected_at": None,
        "is_late": False,
        "attempt": None,
        "holder": None,
        "until": None,
    }


async def test_the_effects_that_no_run_accounts_for_are_shown_with_the_run(
    orchestrator: Running,
) -> None:
    run = replace(begun(), ended=Status.COMPENSATED)
    database = orchestrator.chassis.database
    none = await put(database, replace(run, id=begun().id, key="a2"))
    assert (await Shown(orchestrator, none.id).run())["stray_effects"] == []
    at = datetime(2030, 1, 1, 12, tzinfo=UTC)
    run = await put(database, replace(run, stray_effects=(StrayEffect("close", run.id, at),)))
    assert (await Shown(orchestrator, run.id).run())["stray_effects"] == [
        {"step": "close", "command_id": run.id, "at": "2030-01-01T12:00:00Z"}
    ]


async def test_a_participant_that_takes_its_time_is_what_a_run_waits_for_and_no_more(
    node: Node, orchestrator: Running, articles: Scripted
) -> None:
    articles.is_away = True
    id = await start(node)
    shown = Shown(orchestrator, id)
    awaited = await shown.until_step("answer")
    assert (awaited["tries"], awaited["error"], awaited["silence"]) == (0, None, None)
    articles.is_away = False
    await node.until_status(id, Status.COMPLETED)


async def test_a_paused_run_whose_command_must_go_out_again_waits_to_be_resumed(
    node: Node, orchestrator: Running, articles: Scripted
) -> None:
    articles.replies[HIDE] = Reply(Outcome.ONGOING, code="ongoing", retry_after=0.2)
    id = await start(node)
    shown = Shown(orchestrator, id)
    await shown.until_step("ongoing")
    await node.engine.signal(id, Pause("ann", "lunch"))
    await shown.until_step("resume")


async def test_a_stuck_step_waits_for_an_operator(orchestrator: Running) -> None:
    run = begun()
    name = next(iter(run.steps))
    step = replace(run.steps[name], status=StepStatus.STUCK, reason="look at it")
    run = await put(orchestrator.chassis.database, replace(run, steps={**run.steps, name: step}))
    shown = Shown(orchestrator, run.id)
    assert (await shown.step())["awaited"]["error"] == "look at it"
    assert await shown.in_list() == "operator"
    assert await shown.place_in_list() == (name, "look at it")
    ended = replace(run, id=begun().id, ended=Status.TERMINATED, key="a2")
    await put(orchestrator.chassis.database, ended)
    assert (await Shown(orchestrator, ended.id).run())["waits_for"] is None


async def test_a_run_whose_definition_is_missing_shows_what_its_row_tells(
    orchestrator: Running,
) -> None:
    run = await put(orchestrator.chassis.database, replace(begun(), version=7))
    shown = Shown(orchestrator, run.id)
    assert (await shown.run())["waits_for"] == "answer"
    assert await shown.in_list() == "answer"


@pytest.mark.parametrize("document", ["{}", "no JSON"])
async def test_a_list_says_nothing_of_a_run_that_cannot_be_read(
    orchestrator: Running, document: str
) -> None:
    run = await put(orchestrator.chassis.database, begun(), document=document)
    assert await Shown(orchestrator, run.id).in_list() is None


async def test_a_list_looks_at_no_run_that_is_too_large_for_that(
    orchestrator: Running,
) -> None:
    run = begun()
    name = next(iter(run.steps))
    step = replace(run.steps[name], reason="x" * waits.LOOKED_AT)
    await put(orchestrator.chassis.database, replace(run, steps={**run.steps, name: step}))
    shown = Shown(orchestrator, run.id)
    assert await shown.in_list() is None
    assert (await shown.step())["waits_for"] == "answer"


async def test_a_silence_counts_for_the_runs_of_the_node_that_met_it(
    orchestrator: Running,
) -> None:
    """Only the node that owns the run says why its command is not delivered."""
    database = orchestrator.chassis.database
    run = await put(database, begun())
    told = {
        "destination": "articles",
        "since": datetime.fromisoformat("2030-01-01T12:00:00+00:00"),
        "deliveries": 3,
        "reason": "no service listens",
        "next_at": datetime.fromisoformat("2030-01-01T12:00:09+00:00"),
    }
    async with database.engine.begin() as connection:
        await connection.execute(tables.saga_silence.insert().values(owner="node-2", **told))
    shown = Shown(orchestrator, run.id)
    assert (await shown.step())["waits_for"] == "answer"
    lease = {"destination": "sagas:shards", "epoch": 1, "expires_at": told["next_at"]}
    async with database.engine.begin() as connection:
        await connection.execute(
            library.outbox_lease.insert(),
            [{**lease, "bucket": shard, "owner": "node-1"} for shard in range(16)],
        )
    assert (await shown.step())["waits_for"] == "answer"
    async with database.engine.begin() as connection:
        await connection.execute(library.outbox_lease.update().values(owner="node-2"))
    assert (await shown.step())["waits_for"] == "participant"


async def test_what_a_dead_node_told_is_removed(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    told = {
        "owner": "node-of-yesterday",
        "destination": "articles",
        "since": datetime.fromisoformat("2030-01-01T12:00:00+00:00"),
        "deliveries": 3,
        "reason": "no service listens",
        "next_at": datetime.fromisoformat("2030-01-01T12:00:09+00:00"),
    }
    async with engine.begin() as connection:
        await connection.execute(tables.saga_silence.insert().values(**told))
    both = {"articles": articles, "comments": comments}
    async with running(engine, [delete_article], both) as node:

        async def is_removed() -> bool:
            return not await node.rows(tables.saga_silence)

        await until(is_removed, what="the row of the dead node has gone")
