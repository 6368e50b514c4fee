"""The audit's two looks at the databases.

They are read at different moments, so what differs may only be on its way. What differs is
therefore looked at twice, and in between every message that waited at the first look has left:
nothing that was under way then can be the reason any more. Articles that a saga is at work on in
one of the two looks are left out; the saga itself sees to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from orchestrator.cli import audit_reading as reading
from orchestrator.cli.audit_databases import Databases
from orchestrator.cli.divergences import Divergence, Facts, divergences

MAX_SUSPECTS = 10_000
"""How many articles are looked at a second time."""

_LOOK = 0.2  # seconds between two looks at what rests


class Verdict(Enum):
    """What an audit comes to."""

    AGREE = "agree"
    """Nothing is wrong."""
    DIVERGE = "diverge"
    """Something is wrong, and will not mend itself."""
    INCONCLUSIVE = "inconclusive"
    """Something looks wrong, and may mend itself when the messages that rest arrive."""


@dataclass(frozen=True)
class Findings:
    """What was compared, and what is wrong.

    `suspects` counts the articles that looked wrong at first, `followed` those of them that were
    looked at again; `at_work` those that looked wrong and were left to a saga. `resting` counts the
    messages, by database, that had not left in time.
    """

    articles: int
    threads: int
    comments: int
    suspects: int
    followed: int
    at_work: int
    divergences: Sequence[Divergence]
    resting: Mapping[str, int]

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        if self.divergences:
            return Verdict.INCONCLUSIVE if self.resting else Verdict.DIVERGE
        return Verdict.AGREE if self.followed == self.suspects else Verdict.INCONCLUSIVE


@dataclass
class _Counts:
    articles: int = 0
    threads: int = 0
    comments: int = 0
    suspects: int = 0
    at_work: int = 0


async def compare(
    databases: Databases,
    *,
    timeout: float,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Findings:
    """Look twice; what waits at the first look has `timeout` seconds to leave.

    Raises CommandError where a database fails.
    """
    await reading.require_tables(databases)
    counts = _Counts()
    first: dict[str, frozenset[Divergence]] = {}
    async for chunk in _everything(databases):
        facts = await reading.read_facts(databases, chunk)
        _count(counts, facts)
        for article_id, wrong in (await _wrong(databases, facts, counts)).items():
            counts.suspects += 1
            if len(first) < MAX_SUSPECTS:
                first[article_id] = wrong
    followed = len(first)
    rest: Mapping[str, int] = {}
    held: list[Divergence] = []
    if first:
        rest = await _until_arrived(databases, timeout, pause)
        for ids in _chunks(sorted(first), reading.CHUNK):
            facts = await reading.read_facts(databases, ids)
            for article_id, wrong in (await _wrong(databases, facts, counts)).items():
                held += sorted(first[article_id] & wrong, key=_order)
    return Findings(
        articles=counts.articles,
        threads=counts.threads,
        comments=counts.comments,
        suspects=counts.suspects,
        followed=followed,
        at_work=counts.at_work,
        divergences=held,
        resting=rest,
    )


async def _everything(databases: Databases) -> AsyncIterator[Sequence[str]]:
    """The ids of all articles that anybody knows, in chunks, each once."""
    async for chunk in reading.article_ids(databases):
        yield chunk
    async for chunk in reading.thread_ids(databases):
        if unknown := await reading.without_article(databases, chunk):
            yield unknown
    async for chunk in reading.commented_ids(databases):
        lonely = await reading.without_thread(databases, chunk)
        if unknown := await reading.without_article(databases, lonely):
            yield unknown


async def _wrong(
    databases: Databases, facts: Sequence[Facts], counts: _Counts
) -> Mapping[str, frozenset[Divergence]]:
    """What is wrong with those articles that no saga is at work on."""
    wrong = {it.article_id: frozenset(divergences(it)) for it in facts}
    suspects = [it for it in facts if wrong[it.article_id]]
    if not suspects:
        return {}
    busy = await reading.at_work(databases, suspects)
    counts.at_work += len(busy)
    return {it.article_id: wrong[it.article_id] for it in suspects if it.article_id not in busy}


async def _until_arrived(
    databases: Databases, timeout: float, pause: Callable[[float], Awaitable[object]]
) -> Mapping[str, int]:
    """Wait until every message that waits now has left; those that have not when time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    marked = await reading.marks(databases)
    while rest := await reading.resting(databases, marked):
        if loop.time() >= end:
            return rest
        await pause(_LOOK)
    return {}


def _count(counts: _Counts, facts: Iterable[Facts]) -> None:
    for it in facts:
        counts.articles += it.article is not None
        counts.threads += it.thread is not None
        counts.comments += sum(it.comments.values())


def _chunks(ids: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    for first in range(0, len(ids), size):
        yield ids[first : first + size]


def _order(divergence: Divergence) -> tuple[str, str, str]:
    return (divergence.code, divergence.saga_id or "", divergence.detail)
