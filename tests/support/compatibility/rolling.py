"""What holds after versions were rolled, on whichever database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions
from tests.support.blog.traffic import Life, wrong_with
from tests.support.compatibility.versions import VersionedBlog
from tests.support.processes.waiting import until

ORDER = ("orchestrator", "articles", "comments")
"""In which the services get a new version, as docs/operate/upgrading.md has it; the way back goes
in the opposite one."""
_AT_ONCE = 10


async def begun_deletions(blog: VersionedBlog, count: int) -> Deletions:
    """So many deletions, which are under way until the gate of the blog opens."""
    deletions = Deletions(blog)
    await deletions.prepare(count)
    await blog.gate.close()
    await deletions.ask()
    begun = {*deletions.asked}
    assert len(begun) == count
    await until(lambda: begun <= blog.under_way(), 60, "all deletions are under way")
    return deletions


async def assert_each_life_ended_rightly(blog: VersionedBlog, lives: Sequence[Life]) -> None:
    """Each article is gone or there, as what was answered to its callers has it."""
    for number in range(0, len(lives), _AT_ONCE):
        some = lives[number : number + _AT_ONCE]
        found = await asyncio.gather(*(wrong_with(blog, life, 60) for life in some))
        wrong = [f"{it}; {life}" for life, (_, it) in zip(some, found, strict=True) if it]
        assert wrong == []


async def assert_no_saga_was_harmed(blog: VersionedBlog, held: Sequence[Deletions]) -> None:
    """Each has ended as it had to, once, and all databases agree."""
    for deletions in held:
        await deletions.assert_ended_rightly()
    await assert_agreement(blog.databases)
