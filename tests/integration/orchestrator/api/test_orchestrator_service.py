"""How the orchestrator starts, stops, takes starts by message, and shows its figures."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from orchestrator.app import assemble
from orchestrator.definition.registry import Registry
from orchestrator.errors import DefinitionChanged
from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import delete_article
from orchestrator.store import queries
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart, load
from orchestrator.tables import saga_signal, saga_tables
from outbox.chassis.service import CannotStart
from outbox.chassis.shutdown import told_of_signals
from outbox.contract import AreEnded, CommandAnswered, RunsEnded, StartSaga
from outbox.database.opening import Database as Opened
from outbox.ids import is_id
from outbox.messages import Message
from outbox.replies import Outcome
from outbox.tables import DEFAULT_TABLES
from outbox.testing import FakeClock
from outbox.wire.settled import EndedSagas
from tests.support.blog.blog import SECRETS, START, Running, envelope, new_id, running
from tests.support.databases.databases import Database
from tests.support.orchestrator.orchestrating import (
    PARTICIPANTS,
    NotedEngine,
    begun,
    engine_of,
    noted_app,
    orchestrator_settings,
    put,
)

UUID4 = "6f0f9a1e-3d0f-4c3e-9d53-0d3b0f5f5f11"


@asynccontextmanager
async def _started(service: Running) -> AsyncIterator[None]:
    async with service.app.router.lifespan_context(service.app):
        yield


# Its life


async def test_it_is_ready_while_its_engine_runs(orchestrator: Running) -> None:
    assert (await orchestrator.http.get("/readyz")).status_code == 503
    async with _started(orchestrator):
        ready = await orchestrator.http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (200, ["database", "relay", "work"])
    assert (await orchestrator.http.get("/readyz")).status_code == 503


async def test_it_is_not_ready_once_its_engine_broke(orchestrator: Running) -> None:
    engine_of(orchestrator).runs = False
    async with _started(orchestrator):
        await asyncio.sleep(0)
        assert (await orchestrator.http.get("/readyz")).status_code == 503
        assert (await orchestrator.http.get("/livez")).status_code == 200


async def test_it_does_not_start_where_its_engine_must_not(orchestrator: Running) -> None:
    engine_of(orchestrator).start_refusal = DefinitionChanged("it changed", next_step="a version")
    with pytest.raises(CannotStart, match="it changed; a version"):
        async with _started(orchestrator):
            raise AssertionError("it started")


async def test_it_tells_its_long_answers_that_it_stops_and_may_be_started_again(
    orchestrator: Running,
) -> None:
    stopping = orchestrator.chassis._kit.stopping
    for _ in range(2):
        async with _started(orchestrator):
            assert not stopping.is_set()
        assert stopping.is_set()


async def test_a_signal_reaches_long_answers_before_the_server_has_ended(
    orchestrator: Running,
) -> None:
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()

    def server(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon(heard.set)

    before = signal.signal(signal.SIGTERM, server)
    try:
        async with _started(orchestrator):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(heard.wait(), 10)
            await asyncio.wait_for(orchestrator.chassis._kit.stopping.wait(), 10)
        assert signal.getsignal(signal.SIGTERM) is server
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_signal_that_no_code_handles_is_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with told_of_signals(asyncio.Event()):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_signals_are_nothing_to_a_service_in_another_thread() -> None:
    handler = signal.getsignal(signal.SIGTERM)

    async def within() -> bool:
        with told_of_signals(asyncio.Event()):
            return signal.getsignal(signal.SIGTERM) is handler

    assert await asyncio.to_thread(asyncio.run, within())


async def test_deliveries_say_what_the_engine_knows_of_ended_sagas(database: Database) -> None:
    settled = EndedSagas(new_id())
    ways: dict[str, Any] = {}

    class _Noting(NotedEngine):
        def __init__(
            self, database: Opened, registry: Registry, transports: Mapping[str, Any], **named: Any
        ) -> None:
            super().__init__(database, registry, transports, **named)
            ways.update(transports)

        def settled(self) -> EndedSagas | None:
            return settled

    registry = Registry([delete_article], PARTICIPANTS)
    app = assemble(orchestrator_settings(database), registry, make_engine=_Noting)
    assert {name: way._inner._settled() for name, way in ways.items()} == {
        "articles": settled,
        "comments": settled,
    }
    await app.state.chassis.database.engine.dispose()


# Starts by message


async def _signals(orchestrator: Running) -> Sequence[Any]:
    async with orchestrator.chassis.database.reading.connect() as connection:
        return (await connection.execute(select(saga_signal).order_by(saga_signal.c.seq))).all()


def _start(instance_id: str | None = None, name: str = "delete-article") -> StartSaga:
    return StartSaga(name, {"article_id": "a"}, instance_id or new_id())


async def test_a_start_by_message_is_written_down_for_the_owner_of_its_shard(
    orchestrator: Running,
) -> None:
    start, bell = _start(), orchestrator.chassis.service.bell
    rings = bell.rings
    assert (await orchestrator.tell(start)).outcome is Outcome.DONE
    (row,) = await _signals(orchestrator)
    assert (row.saga_id, row.shard) == (start.instance_id, shard_of(start.instance_id))
    assert load(row.kind, row.payload) == StoredStart(start.name, start.input, "tests")
    assert (row.made_at, row.answer) == (START, None)
    assert is_id(row.message_id)
    assert row.message_id != start.instance_id
    assert bell.rings > rings


async def test_a_start_that_is_sent_twice_is_written_down_once(orchestrator: Running) -> None:
    sent = envelope(_start())
    assert [it.outcome for it in await orchestrator.tell_all(sent)] == [Outcome.DONE]
    assert [it.outcome for it in await orchestrator.tell_all(sent)] == [Outcome.DONE]
    assert len(await _signals(orchestrator)) == 1


async def test_what_is_asked_for_is_left_to_the_engine_to_judge(orchestrator: Running) -> None:
    starts = [_start(name="never-declared"), _start(name="x" * 5000)]
    replies = await orchestrator.tell_all(*map(envelope, starts))
    assert {it.outcome for it in replies} == {Outcome.DONE}
    assert len(await _signals(orchestrator)) == 2


@pytest.mark.parametrize(
    ("message", "spoiled"),
    [
        (_start("no-id"), "no-id"),
        (_start(UUID4), UUID4),
        (CommandAnswered("no-id", new_id(), "done"), "no-id"),
        (CommandAnswered(new_id(), UUID4, "done"), UUID4),
        (CommandAnswered(new_id(), new_id(), "splendid"), "splendid"),
        (AreEnded("articles", new_id(), UUID4), UUID4),
    ],
    ids=lambda it: it if isinstance(it, str) else str(it.message_type),
)
async def test_a_message_with_an_impossible_id_is_rejected_and_holds_up_no_other(
    orchestrator: Running, message: Message, spoiled: str
) -> None:
    """Sent again it would be the same, so it is a dead letter at once."""
    good = envelope(_start())
    replies = await orchestrator.tell_all(good, envelope(message))
    assert [it.outcome for it in replies] == [Outcome.DONE, Outcome.REJECTED]
    assert (replies[1].code, f"'{spoiled}'" in str(replies[1].reason)) == ("invalid", True)
    assert [row.saga_id for row in await _signals(orchestrator)] == [good.key]


async def test_a_start_for_later_is_written_down_with_its_time(orchestrator: Running) -> None:
    begin_at = START + timedelta(days=45)
    await orchestrator.tell(replace(_start(), begin_at=begin_at))
    (row,) = await _signals(orchestrator)
    stored = load(row.kind, row.payload)
    assert isinstance(stored, StoredStart)
    assert stored.begin_at == begin_at


async def test_a_start_for_now_is_written_down_as_older_code_reads_it(
    orchestrator: Running,
) -> None:
    await orchestrator.tell(_start())
    (row,) = await _signals(orchestrator)
    assert set(json.loads(row.payload)) == {"name", "input", "originator", "trace"}


# Figures


async def _figures(orchestrator: Running) -> dict[tuple[str, ...], float]:
    answer = await orchestrator.http.get("/metrics")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name.startswith(("sagabox_saga", "sagabox_stray"))
    }


async def test_the_metrics_count_sagas_by_definition_and_status(database: Database) -> None:
    async with running(noted_app(database)) as orchestrator:
        opened = orchestrator.chassis.database
        await put(opened, begun())
        await put(opened, begun())
        await put(opened, replace(begun(), ended=Status.COMPENSATED))
        await put(opened, begun(), name="another")
        clock = orchestrator.chassis.service.clock
        assert isinstance(clock, FakeClock)
        engine_of(orchestrator).stats.transitions = 3
        engine_of(orchestrator).stats.stray_effects = 1
        engine_of(orchestrator).stats.in_one_trip = 7
        engine_of(orchestrator).stats.step_by_step = 2
        expected: dict[tuple[str, ...], float] = {
            ("sagabox_sagas", "delete-article", "RUNNING"): 2,
            ("sagabox_sagas", "delete-article", "COMPENSATED"): 1,
            ("sagabox_sagas", "another", "RUNNING"): 1,
            ("sagabox_saga_transitions_total",): 3,
            ("sagabox_stray_effects_total",): 1,
            ("sagabox_saga_commits_total", "short"): 7,
            ("sagabox_saga_commits_total", "long"): 2,
        }
        found = await _figures(orchestrator)
        assert {it: count for it, count in found.items() if "_created" not in it[0]} == expected
        await put(opened, begun())
        engine_of(orchestrator).stats.transitions = 5
        found = await _figures(orchestrator)
        assert found["sagabox_sagas", "delete-article", "RUNNING"] == 2  # counted a moment ago
        assert found["sagabox_saga_transitions_total",] == 5
        clock.advance(5)
        found = await _figures(orchestrator)
        assert found["sagabox_sagas", "delete-article", "RUNNING"] == 3


async def test_counting_has_an_end(orchestrator: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "COUNTED_UP_TO", 2)
    counts_two = queries._Statements(saga_tables(DEFAULT_TABLES))
    monkeypatch.setattr(queries, "_on", lambda _: counts_two)
    for _ in range(3):
        await put(orchestrator.chassis.database, begun())
    counts = await queries.counts(orchestrator.chassis.database)
    assert counts == {("delete-article", Status.RUNNING): 2}


async def test_a_question_that_no_answer_can_reach_is_told_whom_to_name(
    orchestrator: Running,
) -> None:
    told = await orchestrator.tell(AreEnded("tests", new_id(), new_id()))
    assert told.outcome is Outcome.FAILED
    assert told.reason is not None
    assert "orchestrator has no peer tests" in told.reason
    assert "SAGABOX_PEERS" in told.reason
    assert await orchestrator.outbox(RunsEnded) == []


async def test_an_answer_about_ended_runs_tells_the_database_that_it_is_from(
    orchestrator: Running,
) -> None:
    question = AreEnded("articles", new_id(), new_id())
    async with _started(orchestrator):
        told = await orchestrator.tell_all(replace(envelope(question), source="articles"))
        assert [it.outcome for it in told] == [Outcome.DONE]
        (answer,) = await orchestrator.outbox(RunsEnded)
        assert is_id(answer.database)
        assert answer.database == orchestrator.chassis.service.origin_id


async def test_the_settings_reach_the_engine(database: Database) -> None:
    given: dict[str, Any] = {}

    class _Given(NotedEngine):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments)
            given.update(named)

    settings = orchestrator_settings(database, poll_interval=0.25)
    app = assemble(settings, Registry([], {}), make_engine=_Given, transports={})
    assert given["settings"].relay == settings.relay_settings()
    assert given["owner"].startswith("orchestrator")
    assert given["bell"] is app.state.chassis.service.bell
    assert SECRETS not in repr(settings)
    await app.state.chassis.database.engine.dispose()
