"""Deletions end rightly while instances behind a real Envoy die, come back, are slow, answer 503,
are ejected, and give way to a canary."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions
from tests.support.http.servers import Exchange, scripted
from tests.support.mesh import rendering
from tests.support.mesh.canary import with_canary
from tests.support.mesh.meshed import SERVICES, Mesh, meshed
from tests.support.mesh.rendering import Config
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.timeout(900)]

IN_EVERY_RUN, IN_SOAK = 20, 200
CANARY = "comments-canary"
_ABORTED, _DELAYED = "fault.http.abort.abort_percent", "fault.http.delay.fixed_delay_percent"
_BROKEN = "127.0.0.200"
_EJECTED = "cluster.comments.outlier_detection."
_MORE = 8


@pytest.fixture
async def mesh(blog: RunningBlog, tmp_path: Path) -> AsyncIterator[Mesh]:
    blog.settings |= {"SAGABOX_LEASE": "3", "SAGABOX_DELIVERY_TIMEOUT": "1"}
    async with meshed(blog, tmp_path / "envoy", _in_trouble) as made:
        yield made


def _in_trouble(config: Config) -> Config:
    rendering.with_faults(config, "messages")
    return rendering.switchable(with_canary(config, "comments"))


async def answers_503(it: Mesh) -> None:
    await _injected(it, _ABORTED, "aborts_injected", 5)


async def is_slow(it: Mesh) -> None:
    """First the way, then an instance of each service, by more than a delivery may take."""
    await _injected(it, _DELAYED, "delays_injected", 2)
    for name in SERVICES:
        it.child(it.last(name)).freeze()
    await asyncio.sleep(1.5)  # longer than a delivery may take
    for name in SERVICES:
        it.child(it.last(name)).thaw()


async def _injected(it: Mesh, share: str, figure: str, count: int) -> None:
    """All messages get that fault, until so many of them have had it."""

    async def enough() -> bool:
        return (await it.envoy.stats("http.messages.fault.")).get(figure, 0) >= count

    more = await _more(it, 2)
    await it.envoy.switch({share: 100})
    await _go_on(more, enough, f"{count} {figure}")
    await it.envoy.switch({share: 0})
    await _end(more)


async def is_ejected(it: Mesh) -> None:
    """An instance that says it is ready, and fails at each message: only its answers tell."""

    async def fails(exchange: Exchange) -> None:
        await exchange.answer(200 if exchange.request.target == "/readyz" else 500)

    more = await _more(it)
    before = await it.envoy.stats(_EJECTED)
    async with scripted(fails, host=_BROKEN, at=it.port("comments")) as broken:
        it.tell("comments", [*it.hosts["comments"], _BROKEN])

        async def ejected() -> bool:
            now = await it.envoy.stats(_EJECTED)
            asked = [each for each in broken.requests if each.target == "/messages"]
            is_any = now["ejections_enforced_total"] > before["ejections_enforced_total"]
            # With fewer it was another one, which took its time too often.
            return is_any and len(asked) >= 5

        await _go_on(more, ejected, "Envoy ejects the one that fails")
        it.tell("comments", [host for host in it.hosts["comments"] if host != _BROKEN])
        await it.until_well("comments")
    await _end(more)


async def _more(it: Mesh, times: int = _MORE) -> list[Deletions]:
    """Deletions beside those of the test, which may end before a trouble has come to a message."""
    made = [Deletions(it.blog) for _ in range(times)]
    for each in made:
        await each.prepare(3)
    return made


async def _go_on(more: list[Deletions], seen: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask for some of these each second until that is seen."""
    for each in more:
        if await seen():
            break
        await each.ask_all_at_once()
        await asyncio.sleep(1)  # their messages are under way
    await until(seen, deadline=40, what=what)


async def _end(more: list[Deletions]) -> None:
    """Ask for the rest of these; all end rightly."""
    for each in more:
        await each.ask_all_at_once()
    for each in more:
        await each.assert_ended_rightly(deadline=120)


async def dies(it: Mesh) -> None:
    for name in SERVICES:
        await it.child(it.last(name)).kill()
        await asyncio.sleep(0.3)  # deletions go on without it


async def comes_back(it: Mesh) -> None:
    """The dead ones at their old addresses; and the last one of comments at a new one."""
    for name in ("orchestrator", "articles"):
        await it.restart(it.last(name))
    gone = it.host(it.last("comments"))
    await it.add("comments")
    it.tell("comments", [host for host in it.hosts["comments"] if host != gone])
    await it.until_well()


async def is_replaced_by_a_canary(it: Mesh) -> None:
    more = await _more(it)
    await it.add("comments", told_as=CANARY)
    await it.envoy.until_well(CANARY, *it.hosts[CANARY])
    for share in (20, 50, 100):
        await it.envoy.switch(
            {"canary.comments.comments": 100 - share, f"canary.comments.{CANARY}": share}
        )
        await asyncio.sleep(0.7)  # deletions go on by this share

    async def has_messages() -> bool:
        return CANARY in _ways_of_messages(it)

    await _go_on(more, has_messages, "the canary has got messages")
    for label in [it for it in it.blog.children if it.startswith("comments")][:-1]:
        await it.child(label).kill()
    await _end(more)


def _ways_of_messages(it: Mesh) -> set[str]:
    """The clusters to which requests with messages went."""
    return {line["cluster"] for line in it.envoy.access_log() if line["path"] == "/messages"}


TROUBLES: Mapping[str, Callable[[Mesh], Awaitable[None]]] = {
    "answers 503": answers_503,
    "is slow": is_slow,
    "is ejected": is_ejected,
    "dies": dies,
    "comes back": comes_back,
    "is replaced by a canary": is_replaced_by_a_canary,
}


@dataclass(frozen=True)
class Figures:
    """What came of one kind of trouble; `violations` has what was wrong then."""

    trouble: str
    deletions: int
    seconds: float
    violations: list[str]

    def __str__(self) -> str:
        return (
            f"{self.deletions} deletions while an instance {self.trouble}: {self.seconds:.0f} s, "
            f"{len(self.violations)} violations"
        )


async def under_all(it: Mesh, count: int) -> AsyncIterator[Figures]:
    """So many deletions while each of these happens; then the databases agree."""
    await it.start_all()
    for name, trouble in TROUBLES.items():
        began, violations = time.monotonic(), list[str]()
        deletions = Deletions(it.blog)
        await deletions.prepare(count)
        await asyncio.gather(deletions.ask_all_at_once(), trouble(it))
        try:
            await deletions.assert_ended_rightly(deadline=120)
        except AssertionError as error:
            violations.append(str(error))
        yield Figures(name, count, time.monotonic() - began, violations)
    await assert_agreement(it.blog.databases)


async def test_p4_p9_deletions_end_rightly_under_six_kinds_of_trouble_behind_envoy(
    mesh: Mesh, count: Count
) -> None:
    async for figures in under_all(mesh, IN_EVERY_RUN):
        assert figures.violations == [], figures
        count("deletions with several instances behind Envoy", figures.deletions)
    await _assert_all_of_it_happened(mesh)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_p4_p9_ten_times_as_many_deletions_end_rightly_behind_envoy(
    mesh: Mesh, count: Count, capsys: pytest.CaptureFixture[str]
) -> None:
    """SAGABOX_SOAK_DELETIONS is how many under each kind of trouble."""
    number = int(os.environ.get("SAGABOX_SOAK_DELETIONS") or IN_SOAK)
    async for figures in under_all(mesh, number):
        with capsys.disabled():
            sys.stdout.write(f"\n{figures}")
        assert figures.violations == []
        count("deletions with several instances behind Envoy", figures.deletions)
    await _assert_all_of_it_happened(mesh)


async def _assert_all_of_it_happened(mesh: Mesh) -> None:
    """Each trouble came to the messages, and each instance got some."""
    assert (await mesh.envoy.stats(_EJECTED))["ejections_enforced_total"] > 0
    for name in ("orchestrator", "articles", CANARY):
        hosts = await mesh.envoy.hosts(name)
        assert all(of["requests"] > 0 for of in hosts.values()), hosts
        assert len(hosts) == (1 if name == CANARY else 2)
    assert _ways_of_messages(mesh) >= {"comments", CANARY}
