"""The benchmarks still run, at a tiny size. What they measure decides nothing here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import engine, sagas
from benchmarks.measuring import closed_loop, percentile
from benchmarks.places import Place
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory


async def test_sagas_and_plain_calls_delete_the_same_number_of_articles_and_are_shown_with_goals(
    database_factory: DatabaseFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sagas, "WARM_UP", 2)
    found = await sagas.measure(database_factory, tmp_path, 8, 1, concurrent=(1, 2))

    for ways in (found.sagas, found.plain):
        assert {clients: len(way.latencies) for clients, way in ways.items()} == {1: 8, 2: 8}
        assert all(way.processor["articles"] > 0 for way in ways.values())
    # A step and its answer are one commit, and so is the start.
    assert 0 < found.commits <= 5
    assert 0 < found.requests <= 4
    assert len(found.calls) >= 8 * 4
    sagas.show(found)
    shown = capsys.readouterr().out
    assert "(goal >= 20)" in shown
    assert "(goal <= 1.3)" in shown


async def test_the_engine_alone_commits_for_many_sagas_at_once(
    database: Database,
    database_factory: DatabaseFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Place("here", database.url, database_factory, tmp_path)

    costs = await engine.measure(place, engine.CLIENTS, rounds=1, seconds=0.2)

    assert costs.processor[0] > 0
    assert 0 < costs.commits[0] < 1
    assert costs.starts[0] > 0
    assert costs.inserts[0] > 0
    engine.show(costs)
    assert "(goal <= 0.5)" in capsys.readouterr().out


async def test_each_client_of_a_closed_loop_waits_for_its_own_work_alone() -> None:
    under_way: set[str] = set()
    most = 0
    done: list[str] = []

    async def client(item: str) -> None:
        nonlocal most
        under_way.add(item)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        under_way.remove(item)
        done.append(item)

    load = await closed_loop("abcdefg", [client] * 3)

    assert sorted(done) == list("abcdefg")
    assert most == 3
    assert len(load.latencies) == 7


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, share) for share in (0, 0.25, 0.5, 0.51, 0.99, 1)] == [
        1.0,
        1.0,
        2.0,
        3.0,
        4.0,
        4.0,
    ]
