"""How a run gets its trace from the caller that asks for it, and where it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator import create_app
from orchestrator.sagas.delete_article import delete_article
from orchestrator.store.signal_rows import StoredStart, load
from orchestrator.tables import saga_signal
from outbox.contract import StartSaga
from outbox.replies import Outcome
from outbox.wire.traceparent import minted, trace_id
from tests.support.blog.blog import Running, envelope, new_id, running
from tests.support.databases.databases import Database
from tests.support.orchestrator.engines import Scripted
from tests.support.orchestrator.orchestrating import (
    PARTICIPANTS,
    begun,
    orchestrator_settings,
    put,
)
from tests.support.processes.waiting import until

ONE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def _starts(orchestrator: Running) -> Sequence[Any]:
    async with orchestrator.chassis.database.reading.connect() as connection:
        rows = await connection.execute(select(saga_signal).order_by(saga_signal.c.seq))
        return [load(row.kind, row.payload) for row in rows]


async def test_starts_by_message_keep_the_traces_of_their_messages(orchestrator: Running) -> None:
    starts = [StartSaga("delete-article", {}, new_id()) for _ in range(3)]
    traces = [ONE, None, OTHER]
    batch = [
        replace(envelope(start), trace=trace) for start, trace in zip(starts, traces, strict=True)
    ]
    replies = await orchestrator.tell_all(*batch)
    assert [it.outcome for it in replies] == [Outcome.DONE] * 3
    stored = await _starts(orchestrator)
    assert all(isinstance(it, StoredStart) for it in stored)
    assert [it.trace for it in stored] == traces


def test_a_start_that_was_stored_before_there_were_traces_can_be_read() -> None:
    old = '{"name": "delete-article", "input": {}, "originator": "articles"}'
    assert load("start", old) == StoredStart("delete-article", {}, "articles", None)


async def test_a_run_shows_its_trace_id_and_one_without_that_of_its_id(
    orchestrator: Running,
) -> None:
    for columns in ({"trace": ONE}, {}):
        run = await put(orchestrator.chassis.database, begun(), **columns)
        shown = (await orchestrator.http.get(f"/sagas/{run.id}")).json()
        expected = columns.get("trace") or minted(run.id)
        assert shown["trace_id"] == trace_id(expected)


@pytest.mark.parametrize("headers", [{"traceparent": ONE}, {}], ids=["named", "none"])
async def test_a_start_over_http_begins_a_run_in_the_trace_of_the_request(
    database: Database, headers: dict[str, str]
) -> None:
    participant = Scripted()
    participant.values["articles.hide-article.v1"] = {"title": "Tides", "version": 1}
    participant.values["comments.close-thread.v1"] = {"comments": 3}
    app = create_app(
        orchestrator_settings(database, poll_interval=0.2),
        sagas=[delete_article],
        participants=PARTICIPANTS,
        transports=dict.fromkeys(PARTICIPANTS, participant),
    )
    async with running(app) as service, app.router.lifespan_context(app):

        async def is_ready() -> bool:
            return (await service.http.get("/readyz")).status_code == 200

        await until(is_ready, what="it is ready")
        answers = []

        async def started() -> bool:
            body = {"article_id": new_id()}
            answer = await service.http.post("/sagas/delete-article", json=body, headers=headers)
            answers.append(answer)
            return answer.status_code == 202  # 503 while it has no part of the runs

        await until(started, what="it has begun")
        shown = answers[-1].json()
        await until(lambda: len(participant.seen) == 4, what="all commands have left")
    traces = {it.trace for it in participant.seen}
    assert len(traces) == 1
    (trace,) = traces
    assert trace is not None
    assert shown["trace_id"] == trace_id(trace)
    if headers:
        assert trace == ONE
    else:
        # The request's, not one that follows from the run.
        assert trace != minted(shown["id"])
