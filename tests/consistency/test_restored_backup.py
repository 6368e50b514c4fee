"""One service is restored from an older backup: the audit finds what it has forgotten, and
repairs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.blog.agreement import assert_agreement, audited, until_all_is_sent
from tests.support.blog.deleting import SERVICES, assert_gone, commented, start_all
from tests.support.databases.backups import Backup
from tests.support.processes.running import RunningBlog

pytestmark = pytest.mark.timeout(900)


async def stop_all(blog: RunningBlog) -> None:
    for name in SERVICES:
        await blog.children[name].stop()


async def divergences(blog: RunningBlog) -> dict[str, set[str]]:
    """Which articles have which."""
    await until_all_is_sent(blog.databases)
    found = await audited(blog.databases)
    assert found.code == 1, found.told
    listed: dict[str, set[str]] = {}
    for it in found.document["divergences"]:
        listed.setdefault(it["id"], set()).add(it["code"])
    return listed


async def test_what_comments_forgot_is_found_and_repaired(
    blog: RunningBlog, tmp_path: Path
) -> None:
    await start_all(blog)
    deleted = await commented(blog, 2)
    edited = await commented(blog, 1)
    untouched = await commented(blog, 1)
    await stop_all(blog)
    backup = Backup(blog.databases["comments"], tmp_path)

    await start_all(blog)
    assert await blog.until_ended(await blog.delete(deleted)) == "COMPLETED"
    await blog.edit(edited)
    await blog.until_known(edited, 2)
    new = await commented(blog, 0)
    await until_all_is_sent(blog.databases)
    await stop_all(blog)
    backup.restore()
    await start_all(blog)

    found = await divergences(blog)
    assert set(found) == {deleted, edited, new}
    assert "comments-of-deleted-article" in found[deleted]
    assert found[edited] == {"thread-behind"}
    assert found[new] == {"thread-missing"}

    repaired = await audited(blog.databases, "--repair", "--yes", "--url", blog.url("orchestrator"))
    assert repaired.code == 0, repaired.told
    await assert_agreement(blog.databases)
    await assert_gone(blog, deleted)
    assert len(await blog.comments_of(untouched)) == 1
    await blog.comment(new, "and it goes on")
