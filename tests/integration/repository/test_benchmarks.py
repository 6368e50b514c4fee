"""The benchmarks still run, at a tiny size. What they measure decides nothing here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.blog import services
from benchmarks.brokers.pipelined import by_nats
from benchmarks.brokers.servers import KINDS, Kind, Running
from benchmarks.contenders.deletions import CONTENDERS
from benchmarks.contenders.installed import Missing
from benchmarks.figures import Figures
from benchmarks.measuring import closed_loop, percentile
from benchmarks.names import (
    ALL,
    ALONE,
    BARE,
    BROKERS,
    DELETION,
    ENGINE,
    NATS,
    P50,
    P99,
    PROCESSOR,
    RATE,
    RELAYED,
    SAGAS,
    STARTS,
    WHOLE_WAY,
    row,
)
from benchmarks.parts import brokers, deletion, engine
from benchmarks.places import Place
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory
from tests.support.processes import zygote


async def test_sagas_and_calls_delete_articles_and_what_each_took_is_taken_down(
    database: Database,
    database_factory: DatabaseFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deletion, "_WARM_UP", 2)
    monkeypatch.setattr(deletion, "_AT_LEAST", 4)
    monkeypatch.setattr(services, "launch", zygote.start)
    place, figures = Place("here", database.url, database_factory, tmp_path), Figures()
    both = [it for it in CONTENDERS if it.name in (SAGAS, BARE)]

    await deletion.measure(place, figures, (1, 2), 4, 1, both)

    for clients in (1, 2):
        for name in (SAGAS, BARE):
            assert figures.values["here", DELETION, row(name, clients), RATE] > 0
            assert figures.values["here", DELETION, row(name, clients), P50] > 0
            assert figures.values["here", PROCESSOR, row(name, clients), ALL] > 0
    assert not figures.skipped


async def test_the_engine_alone_commits_for_many_sagas_at_once(
    database: Database, database_factory: DatabaseFactory, tmp_path: Path
) -> None:
    place, figures = Place("here", database.url, database_factory, tmp_path), Figures()

    await engine.measure(place, figures, engine.CLIENTS, rounds=1, seconds=0.2)

    assert 0 < figures.values["here", ENGINE, "whole sagas", "commits each"] < 1
    assert figures.values["here", ENGINE, STARTS, RATE] > 0


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


async def test_a_broker_is_measured_until_it_has_all_and_until_the_handler_has(
    database: Database, database_factory: DatabaseFactory, tmp_path: Path
) -> None:
    place, figures = Place("here", database.url, database_factory, tmp_path), Figures()
    kinds = [it for it in KINDS if it.name == NATS]

    await brokers.measure(place, figures, 100, 1, 1, requests=(), kinds=kinds)

    for column in (RELAYED, ALONE, WHOLE_WAY, P50, P99):
        assert figures.values["here", BROKERS, NATS, column] > 0


async def test_a_broker_that_is_not_installed_is_left_out_with_the_reason(
    database: Database, database_factory: DatabaseFactory, tmp_path: Path
) -> None:
    @asynccontextmanager
    async def missing() -> AsyncIterator[Running]:
        raise Missing("it is not installed")
        yield  # for the type checker, which needs a generator

    place, figures = Place("here", database.url, database_factory, tmp_path), Figures()
    gone = Kind("gone", missing, by_nats)

    await brokers.measure(place, figures, 1, 1, 1, requests=(), kinds=[gone])

    assert figures.skipped["gone"] == "it is not installed"
    assert not any(name[2] == "gone" for name in figures.values)
