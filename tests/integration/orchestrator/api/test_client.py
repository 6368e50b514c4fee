"""`orchestrator.Client` and `SyncClient`: the API as typed Python."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest

import outbox
from orchestrator import Client, SyncClient
from orchestrator.client import requests
from orchestrator.client.answers import Pending, Silence, StrayEffect, state_of
from orchestrator.client.requests import TRIES
from orchestrator.errors import (
    ActiveAlready,
    IllegalSignal,
    InvalidInput,
    KeyReused,
    OrchestratorError,
    RequestRefused,
    StartInDoubt,
    Unavailable,
    UnknownDefinition,
    UnknownRun,
)
from orchestrator.machine.instance import Status
from outbox.chassis.access.routes import Role
from tests.support.blog.blog import new_id
from tests.support.blog.whole_blog import WholeBlog
from tests.support.http.servers import serving
from tests.support.orchestrator.callers import give_token
from tests.support.orchestrator.stub_orchestrator import CREATED, OTHER, saga


@dataclass(frozen=True)
class Deletion:
    article_id: str


DELETE_ARTICLE = outbox.SagaRef[Deletion]("delete-article")
HERE = "http://orchestrator"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
LONG_AGO, FAR_AWAY = (datetime(year, 1, 1, tzinfo=UTC) for year in (2000, 2999))


async def client_of(blog: WholeBlog) -> Client:
    running = blog.services["orchestrator"]
    token = await give_token(running.chassis.database, "ann", Role.OPERATOR)
    return Client(HERE, token=token, transport=httpx.ASGITransport(running.app))


async def test_a_run_is_started_waited_for_and_told_of(blog: WholeBlog) -> None:
    article = await blog.publish()
    async with await client_of(blog) as client:
        run = await client.start(DELETE_ARTICLE, Deletion(article), key="once")
        assert await client.start(DELETE_ARTICLE, Deletion(article), key="once") == run
        with pytest.raises(KeyReused, match=run.id):
            await client.start(DELETE_ARTICLE, Deletion(new_id()), key="once")
        ended = await run.wait(timeout=30)
        assert (ended.status, ended.has_ended, ended.allowed) == (Status.COMPLETED, True, [])
        assert ended.state == {"article_id": article, "title": "Tides", "comments": 1}
        assert [step.status for step in ended.steps] == ["DONE"] * 4
        lines = [line async for line in run.history()]
        assert (lines[0].happening, lines[-1].happening) == ("started", "ended")
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        with pytest.raises(IllegalSignal) as refused:
            await run.cancel("too late")
        assert (refused.value.status, refused.value.allowed) == ("COMPLETED", ())


async def test_a_run_can_be_cancelled_and_is_active_until_then(blog: WholeBlog) -> None:
    article = await blog.publish()
    blog.open.clear()  # nothing reaches a participant
    async with await client_of(blog) as client:
        run = await client.start(DELETE_ARTICLE, Deletion(article))
        with pytest.raises(ActiveAlready) as refused:
            await client.start(DELETE_ARTICLE, Deletion(article))
        assert refused.value.instance_id == run.id
        with pytest.raises(TimeoutError):
            await run.wait(timeout=0.1)
        assert "cancel" in (await run.get()).allowed
        assert (await run.cancel("changed my mind")).status is Status.COMPENSATING
        blog.open.set()
        assert (await client.run(run.id).wait(timeout=60)).status is Status.COMPENSATED


async def test_a_run_for_later_is_scheduled_and_can_be_cancelled_before(blog: WholeBlog) -> None:
    article = await blog.publish()
    begin_at = datetime(2999, 1, 31, 14, tzinfo=timezone(timedelta(hours=2)))
    async with await client_of(blog) as client:
        run = await client.start(DELETE_ARTICLE, Deletion(article), begin_at=begin_at)
        state = await run.get()
        assert (state.status, state.begin_at, state.allowed) == (
            Status.SCHEDULED,
            begin_at,
            ["cancel", "pause", "terminate"],
        )
        at_once = await client.start(DELETE_ARTICLE, Deletion(article), begin_at=LONG_AGO)
        assert (await at_once.wait(timeout=30)).status is Status.COMPLETED
        assert (await run.cancel("never mind")).status is Status.COMPENSATED
        with pytest.raises(InvalidInput, match=r"begin_at is no moment: .* no time zone"):
            await client.start(DELETE_ARTICLE, Deletion(article), begin_at=datetime(2999, 1, 31))  # noqa: DTZ001  # wrong on purpose


async def test_what_is_refused_is_raised_as_what_it_is(blog: WholeBlog) -> None:
    wrong: list[tuple[outbox.SagaRef[object], object, type[OrchestratorError], str]] = [
        (outbox.SagaRef("delete-article"), {"article": "x"}, InvalidInput, "article_id"),
        (outbox.SagaRef("no-such-saga"), {}, UnknownDefinition, "no saga"),
    ]
    async with await client_of(blog) as client:
        for ref, input, error, problem in wrong:
            with pytest.raises(error, match=problem):
                await client.start(ref, input)
        with pytest.raises(UnknownRun, match="no saga"):
            await client.run("no-such?run").get()
        with pytest.raises(UnknownRun):
            _ = [line async for line in client.run(new_id()).history()]
    with pytest.raises(outbox.OutboxError, match="is not an address"):
        Client("orchestrator:8000")


async def test_without_async_it_does_the_same(blog: WholeBlog) -> None:
    article = await blog.publish()
    token = await give_token(blog.services["orchestrator"].chassis.database, "ann", Role.OPERATOR)

    def use(address: str) -> None:
        with SyncClient(address, token=token) as client:
            run = client.start(DELETE_ARTICLE, Deletion(article))
            assert run.wait(timeout=30).status is Status.COMPLETED
            later = client.start(DELETE_ARTICLE, Deletion(new_id()), begin_at=FAR_AWAY)
            assert later.get().status is Status.SCHEDULED
            assert [line.happening for line in run.history()][-1] == "ended"
            with pytest.raises(IllegalSignal):
                run.cancel("too late")
            assert client.run(run.id).get().id == run.id
            with pytest.raises(UnknownRun):
                client.run(new_id()).wait(timeout=0.01)

    async with serving(blog.services["orchestrator"].app) as address:
        await asyncio.to_thread(use, address)


# --- Answers that do not come ---------------------------------------------------------------------


class Flaky:
    """An orchestrator that does not answer the first `times` requests."""

    def __init__(self, times: int, answer: Callable[[], httpx.Response]) -> None:
        self.keys: list[str | None] = []
        self._times = times
        self._answer = answer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers.get("idempotency-key"))
        if len(self.keys) <= self._times:
            raise httpx.ReadError("the connection was lost")
        return self._answer()


def started() -> httpx.Response:
    return httpx.Response(202, json={"id": "the-run"})


async def test_a_start_whose_answer_was_lost_is_sent_again_under_its_key() -> None:
    flaky = Flaky(TRIES - 1, started)
    async with Client(HERE, transport=httpx.MockTransport(flaky)) as client:
        run = await client.start(DELETE_ARTICLE, Deletion("x"))
    assert run.id == "the-run"
    assert len(flaky.keys) == TRIES
    assert len(set(flaky.keys)) == 1
    assert flaky.keys[0] is not None
    again = Flaky(0, started)
    with SyncClient(HERE, transport=httpx.MockTransport(again)) as client:
        client.start(DELETE_ARTICLE, Deletion("x"))
    assert again.keys != flaky.keys[:1], "another start has another key"


async def test_a_client_gives_up_after_some_tries() -> None:
    flaky = Flaky(100, started)
    async with Client(HERE, transport=httpx.MockTransport(flaky)) as client:
        with pytest.raises(StartInDoubt, match=f"{HERE} gave no answer .the connection was") as it:
            await client.start(DELETE_ARTICLE, Deletion("x"))
        assert set(flaky.keys) == {it.value.key}
        assert repr(it.value.key) in it.value.next_step
        assert len(flaky.keys) == TRIES
        with pytest.raises(Unavailable):
            await client.run("x").cancel("a second one would be refused where the first worked")
        assert len(flaky.keys) == TRIES + 1


async def test_a_start_that_a_proxy_lost_is_repeated() -> None:
    answers = iter([httpx.Response(502), httpx.Response(504), started()])
    async with Client(HERE, transport=httpx.MockTransport(lambda _: next(answers))) as client:
        assert (await client.start(DELETE_ARTICLE, Deletion("x"))).id == "the-run"


async def test_a_start_whose_answer_came_garbled_is_repeated_and_is_in_doubt() -> None:
    def garbled(request: httpx.Request) -> httpx.Response:
        keys.add(request.headers["idempotency-key"])
        return httpx.Response(202, headers={"content-encoding": "gzip"}, content=b"no gzip")

    keys: set[str] = set()
    async with Client(HERE, transport=httpx.MockTransport(garbled)) as client:
        with pytest.raises(StartInDoubt) as doubt:
            await client.start(DELETE_ARTICLE, Deletion("x"))
    assert keys == {doubt.value.key}
    keys.clear()
    with (
        SyncClient(HERE, transport=httpx.MockTransport(garbled)) as sync_client,
        pytest.raises(StartInDoubt) as doubt,
    ):
        sync_client.start(DELETE_ARTICLE, Deletion("x"))
    assert keys == {doubt.value.key}


def run_of(status: str, ended_at: str | None = None) -> httpx.Response:
    now = "2030-01-01T12:00:00Z"
    body = {"id": "x", "name": "delete-article", "version": 1, "status": status, "paused": False}
    body |= {"key": "k", "state": {}, "created_at": now, "updated_at": now, "ended_at": ended_at}
    return httpx.Response(200, json=body)


async def test_waiting_outlasts_an_orchestrator_that_is_away() -> None:
    def answers() -> Iterator[httpx.Response]:
        yield run_of("RUNNING")
        for _ in range(2 * TRIES):
            yield httpx.Response(502)
        yield run_of("COMPLETED", "2030-01-01T12:00:01Z")

    told = answers()
    async with Client(HERE, transport=httpx.MockTransport(lambda _: next(told))) as client:
        assert (await client.run("x").wait(timeout=60)).status is Status.COMPLETED
    told = answers()
    with SyncClient(HERE, transport=httpx.MockTransport(lambda _: next(told))) as blocking:
        assert blocking.run("x").wait(timeout=60).status is Status.COMPLETED
    transport = httpx.MockTransport(lambda _: run_of("RUNNING"))
    with SyncClient(HERE, transport=transport) as blocking, pytest.raises(TimeoutError):
        blocking.run("x").wait(timeout=0.01)


def no_run() -> httpx.Response:
    body = {"code": "unknown-run", "detail": "There is none.", "next_step": "Look at the list."}
    return httpx.Response(404, json=body)


@pytest.mark.parametrize("timeout", [60, None])
async def test_waiting_goes_on_while_the_start_of_the_run_may_be_on_its_way(
    timeout: float | None,
) -> None:
    def answers() -> Iterator[httpx.Response]:
        yield no_run()
        yield no_run()
        yield run_of("RUNNING")
        yield run_of("COMPLETED", "2030-01-01T12:00:01Z")

    told = answers()
    async with Client(HERE, transport=httpx.MockTransport(lambda _: next(told))) as client:
        assert (await client.run(new_id()).wait(timeout)).status is Status.COMPLETED
    told = answers()
    with SyncClient(HERE, transport=httpx.MockTransport(lambda _: next(told))) as blocking:
        assert blocking.run(new_id()).wait(timeout).status is Status.COMPLETED


async def test_waiting_for_a_run_that_does_not_come_or_is_gone_ends_by_saying_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.1)
    never = httpx.MockTransport(lambda _: no_run())
    async with Client(HERE, transport=never) as client:
        # No saga runs under an id such as the last one.
        for id, timeout in ((new_id(), 0.1), (new_id(), None), ("x", 60)):
            with pytest.raises(UnknownRun):
                await client.run(id).wait(timeout)
    with SyncClient(HERE, transport=never) as blocking:
        for id, timeout in ((new_id(), 0.1), (new_id(), None), ("x", 60)):
            with pytest.raises(UnknownRun):
                blocking.run(id).wait(timeout)
    told = iter([run_of("RUNNING"), no_run()])
    async with Client(HERE, transport=httpx.MockTransport(lambda _: next(told))) as client:
        with pytest.raises(UnknownRun):
            await client.run(new_id()).wait(60)


def test_what_no_header_can_have_is_refused_without_being_shown() -> None:
    for token in ("", "secret\n", " secret", "s\u00e9cret"):
        with pytest.raises(InvalidInput, match="the token is empty, or has") as refused:
            SyncClient(HERE, token=token)
        assert "cret" not in str(refused.value)
    flaky = Flaky(0, started)
    with SyncClient(HERE, transport=httpx.MockTransport(flaky)) as client:
        with pytest.raises(InvalidInput, match="the idempotency key"):
            client.start(DELETE_ARTICLE, Deletion("x"), key="a\nb")
        for id in ("", ".", ".."):
            with pytest.raises(InvalidInput, match="no id of a run"):
                client.run(id).get()
    assert flaky.keys == []


@pytest.mark.parametrize(
    ("answer", "error", "problem"),
    [
        # A proxy that got no answer says nothing of what became of the request.
        (httpx.Response(502, text="<html>"), Unavailable, "502 on the way to the orchestrator"),
        (httpx.Response(504), Unavailable, "504"),
        (httpx.Response(503, text="busy"), Unavailable, "503"),
        (httpx.Response(200, json={"hello": "world"}), RequestRefused, "another program"),
        (httpx.Response(200, text="<html>"), RequestRefused, "another program"),
        (httpx.Response(200, json=[]), RequestRefused, "another program"),
        (
            httpx.Response(
                401,
                json={"detail": "No token.", "next_step": "show one", "code": "unauthenticated"},
            ),
            RequestRefused,
            "No token; show one",
        ),
        (
            httpx.Response(
                503, json={"detail": "Away.", "next_step": "ask again", "code": "unavailable"}
            ),
            Unavailable,
            "Away",
        ),
    ],
)
def test_other_answers_are_errors_too(
    answer: httpx.Response, error: type[OrchestratorError], problem: str
) -> None:
    transport = httpx.MockTransport(lambda _: answer)
    with SyncClient(HERE, token="secret", transport=transport) as client:
        with pytest.raises(error, match=problem) as refused:
            client.run("x").get()
        if isinstance(refused.value, RequestRefused):
            assert refused.value.status == answer.status_code


def test_what_a_run_waits_for_is_read_and_an_older_orchestrator_need_not_tell_it() -> None:
    body = saga(waits_for="participant")
    (step,) = body["steps"]
    silence = {"since": CREATED, "deliveries": 7, "reason": "no service listens"}
    step["waits_for"] = "participant"
    step["awaited"] |= {"next_at": CREATED, "silence": silence}
    run = state_of(body)
    (found,) = run.steps
    assert (run.waits_for, found.waits_for) == ("participant", "participant")
    assert found.awaited is not None
    assert found.awaited.silence == Silence(NOON, 7, "no service listens")
    assert (found.awaited.tries, found.awaited.next_at) == (0, NOON)
    assert (found.awaited.pending, run.stray_effects) == (None, [])
    del body["waits_for"], step["waits_for"]
    del body["stray_effects"]
    for name in ("tries", "error", "next_at", "silence", "pending"):
        del step["awaited"][name]
    assert (state_of(body).waits_for, state_of(body).steps[0].waits_for) == (None, None)


def test_an_answer_that_comes_later_and_effects_that_no_run_accounts_for_are_read() -> None:
    body = saga(stray_effects=[{"step": "hide article", "command_id": OTHER, "at": CREATED}])
    pending = {"since": CREATED, "note": "the owner", "expected_at": CREATED, "is_late": True}
    body["steps"][0]["awaited"] |= {"pending": pending | {"attempt": 2, "holder": "a-1"}}
    run = state_of(body)
    assert run.stray_effects == [StrayEffect("hide article", OTHER, NOON)]
    found = run.steps[0].awaited
    assert found is not None
    assert found.pending == Pending(NOON, "the owner", NOON, True, 2, "a-1", None)
