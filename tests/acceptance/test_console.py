"""The console in a real Chromium, in front of three real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.access import tokens
from orchestrator.tables import PLAIN
from outbox.chassis.access.caller import cookie_name
from outbox.chassis.access.routes import Role
from outbox.clock import SystemClock
from tests.support.databases.databases import Database, Schema, Templates, schema_named
from tests.support.http.browser import Watched, page_of, started
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

SERVICES = ("orchestrator", "articles", "comments")
NOT_HEARD_OF_YET = ("status of 404",)
"""The browser's note where a saga is looked at before the orchestrator knows it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with started(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def blog(
    browser: Browser, sqlite_templates: Templates, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningBlog]:
    """All tests of this file look at one set of processes: what the console shows depends neither
    on the database nor on what went before."""

    def make(schema: Schema | str = "outbox") -> Database:
        return sqlite_templates.fresh(schema_named(schema))

    async with running_blog(make, tmp_path_factory.mktemp("logs")) as running:
        await asyncio.gather(*(running.start(name) for name in SERVICES))
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def watched(browser: Browser) -> AsyncIterator[Watched]:
    async with page_of(browser) as page:
        yield page


async def deletion(blog: RunningBlog, *, held: bool = False) -> str:
    """Ask for the deletion of a new article with a comment; the saga's id."""
    article = await blog.publish()
    await blog.until_known(article)
    await blog.comment(article, "first")
    if held:
        await blog.hold(article)
    return await blog.delete(article)


@asynccontextmanager
async def waiting(blog: RunningBlog) -> AsyncIterator[str]:
    """A deletion that waits for an answer of comments, which hangs."""
    comments = blog.children["comments"]
    os.kill(comments.pid, signal.SIGSTOP)
    try:
        yield await blog.delete(await blog.publish())
    finally:
        os.kill(comments.pid, signal.SIGCONT)


async def show(page: Page, blog: RunningBlog, behind: str = "") -> None:
    """Open the console; `behind` is the page's address in it."""
    await page.goto(f"{blog.url('orchestrator')}/console{behind}")


def run(page: Page, saga: str) -> Locator:
    """Its row in the list."""
    return page.locator(f'tr[data-saga="{saga}"]')


def step(page: Page, name: str) -> Locator:
    """A step in the graph."""
    return page.locator(f'[data-step="{name}"]')


def undo(page: Page, name: str) -> Locator:
    """What undoes a step, in the graph."""
    return page.locator(f'[data-undoes="{name}"]')


async def test_the_list_shows_what_begins_and_ends_while_it_is_open(
    blog: RunningBlog, watched: Watched
) -> None:
    page = watched.page
    await show(page, blog)
    await expect(page.locator(".runs, .empty")).not_to_contain_text("Looking")
    done = await deletion(blog)
    await expect(run(page, done)).to_contain_text("Completed")
    undone = await deletion(blog, held=True)
    await expect(run(page, undone)).to_contain_text("Compensated")
    assert await page.locator("tr[data-saga]").first.get_attribute("data-saga") == undone
    # What came in was said to those who listen.
    await expect(page.get_by_role("status")).to_contain_text("Sagas: ")

    await page.get_by_role("button", name="Compensated").click()
    await expect(run(page, done)).to_have_count(0)
    await expect(run(page, undone)).to_be_visible()
    assert page.url.endswith("/console/sagas?status=COMPENSATED")
    await page.get_by_role("button", name="All").click()
    shown = await blog.saga(done)
    assert shown is not None
    await page.get_by_label("Key").fill(shown["key"])
    await page.keyboard.press("Enter")
    await expect(run(page, undone)).to_have_count(0)
    await expect(run(page, done)).to_be_visible()
    await page.get_by_label("Definition").select_option("delete-article")
    await expect(run(page, done)).to_be_visible()
    watched.assert_clean()


async def test_a_saga_shows_its_steps_and_beneath_them_what_undoes_them(
    blog: RunningBlog, watched: Watched
) -> None:
    page = watched.page
    done, undone = await deletion(blog), await deletion(blog, held=True)
    await asyncio.gather(blog.until_ended(done), blog.until_ended(undone))
    await show(page, blog)
    await run(page, done).get_by_role("link").click()
    for name in ("hide article", "close thread", "delete article", "purge comments"):
        await expect(step(page, name)).to_have_attribute("data-status", "DONE")
        await expect(step(page, name)).to_contain_text("Done")
    await expect(undo(page, "close thread")).to_contain_text("not called")
    await expect(undo(page, "delete article")).to_have_count(0)
    await expect(page.locator("tr[data-happening=ended]")).to_contain_text("COMPLETED")
    await expect(page.get_by_text("nothing left to do")).to_be_visible()

    await page.get_by_role("link", name="All sagas").click()
    await run(page, undone).get_by_role("link").click()
    await expect(page.locator("h1 + .badges")).to_contain_text("Compensated")
    await expect(step(page, "delete article")).to_contain_text("Refused")
    await expect(page.locator(".step-facts")).to_contain_text("a lawsuit")
    for name, action in (
        ("hide article", "articles.unhide-article"),
        ("close thread", "comments.reopen-thread"),
    ):
        await expect(undo(page, name)).to_contain_text(f"{action}.v1")
        await expect(undo(page, name)).to_contain_text("Undone")
        above, beneath = (
            await step(page, name).bounding_box(),
            await undo(page, name).bounding_box(),
        )
        assert above is not None
        assert beneath is not None
        assert beneath["x"] == pytest.approx(above["x"], abs=2)
        assert beneath["y"] > above["y"] + above["height"]
    await expect(page.locator("[data-link]")).to_have_attribute("data-link", "over")
    watched.assert_clean()


async def test_a_waiting_saga_is_cancelled_in_the_dialog_and_its_way_back_is_seen(
    blog: RunningBlog, watched: Watched
) -> None:
    page = watched.page
    async with waiting(blog) as saga:
        await show(page, blog, f"#/sagas/{saga}")
        await expect(step(page, "close thread")).to_have_attribute("data-status", "SENT")
        await cancel(page)
        await expect(undo(page, "close thread")).to_contain_text("Undoing")
    asked = page.locator("tr[data-happening=operator]")
    await expect(asked).to_contain_text("grace: ")
    await expect(asked).to_contain_text("the editor changed her mind")
    await expect(undo(page, "hide article")).to_contain_text("Undone", timeout=30_000)
    await expect(page.locator("h1 + .badges")).to_contain_text("Compensated")
    await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    watched.assert_clean(*NOT_HEARD_OF_YET)


async def cancel(page: Page) -> None:
    """Give the reason that the dialog asks for."""
    await page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_be_visible()  # not without a reason
    await page.keyboard.type("the editor changed her mind")
    await dialog.get_by_label("Who asks").fill("grace")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_have_count(0)


async def test_what_is_refused_is_shown_with_what_to_do_next(
    blog: RunningBlog, watched: Watched
) -> None:
    page = watched.page
    dialog = page.get_by_role("dialog")
    async with waiting(blog) as saga:
        await show(page, blog, f"#/sagas/{saga}")
        await page.get_by_role("button", name="Terminate").click()
        await dialog.get_by_label("Reason").fill("a test")
        path = f"/sagas/{saga}/terminate"
        # Another person is faster.
        first = await blog.ask("orchestrator", "POST", path, json={"reason": "mine"})
        assert first.status_code == 202, first.text
        await dialog.get_by_role("button", name="Terminate").click()
        refusal = await blog.ask("orchestrator", "POST", path, json={"reason": "again"})
    assert refusal.status_code == 409
    await expect(dialog.get_by_role("alert")).to_contain_text(refusal.json()["detail"])
    await expect(dialog.get_by_role("alert")).to_contain_text(refusal.json()["next_step"])
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(page.locator("h1 + .badges")).to_contain_text("Terminated")
    await expect(page.get_by_text("Not undone:")).to_be_visible()
    watched.assert_clean("status of 409", *NOT_HEARD_OF_YET)


async def test_a_saga_is_live_again_after_the_orchestrator_was_killed(
    blog: RunningBlog, watched: Watched
) -> None:
    page = watched.page
    link = page.locator("[data-link]")
    async with waiting(blog) as saga:
        await show(page, blog, f"#/sagas/{saga}")
        await expect(link).to_have_attribute("data-link", "live")
        await blog.children["orchestrator"].kill()
        await expect(link).to_have_attribute("data-link", "waiting")
        await expect(page.locator(".trouble")).to_contain_text("does not answer")
        await blog.start("orchestrator")
        await expect(link).to_have_attribute("data-link", "live", timeout=30_000)
    await expect(step(page, "purge comments")).to_contain_text("Done", timeout=30_000)
    await expect(link).to_have_attribute("data-link", "over")
    await expect(page.locator(".trouble")).to_have_count(0)
    numbers = await page.locator("tr[data-happening] td:first-child").all_inner_texts()
    assert numbers == [str(it) for it in range(1, len(numbers) + 1)]
    watched.assert_clean("net::ERR_", *NOT_HEARD_OF_YET)


async def test_a_stale_session_is_forgotten_where_none_is_needed(
    blog: RunningBlog, watched: Watched
) -> None:
    page = watched.page
    url = blog.url("orchestrator")
    cookie = cookie_name(url.rpartition(":")[2])
    await page.context.add_cookies([{"name": cookie, "value": "stale", "url": url}])

    async def forgotten() -> bool:
        return cookie not in {it.get("name") for it in await page.context.cookies()}

    await show(page, blog)
    await until(forgotten, what="the browser forgets the cookie")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.reload()
    await expect(page.get_by_role("heading", name="Sagas")).to_be_visible()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    watched.assert_clean()


async def test_a_stale_session_behind_a_proxy_asks_for_a_token_and_a_viewer_may_only_look(
    blog: RunningBlog, watched: Watched
) -> None:
    page = watched.page
    url = blog.url("orchestrator")
    cookie = cookie_name(url.rpartition(":")[2])
    await page.context.add_cookies([{"name": cookie, "value": "stale", "url": url}])
    # What a proxy adds: the page is no longer one of this machine.
    await page.set_extra_http_headers({"x-forwarded-for": "192.0.2.1"})
    token = await viewer(blog)
    async with waiting(blog) as saga:
        await show(page, blog, f"#/sagas/{saga}")
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Token").fill(token)
        await dialog.get_by_role("button", name="Sign in").click()
        await expect(step(page, "close thread")).to_have_attribute("data-status", "SENT")
        await page.get_by_role("button", name="Pause").click()
        await dialog.get_by_label("Reason").fill("a test")
        await dialog.get_by_role("button", name="Pause").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("viewer")
        shown = await blog.saga(saga)
        assert shown is not None
        assert not shown["paused"]
    (kept,) = [it for it in await page.context.cookies() if it.get("name") == cookie]
    assert (kept.get("httpOnly"), kept.get("sameSite")) == (True, "Strict")
    watched.assert_clean("status of 401", "status of 403", *NOT_HEARD_OF_YET)


async def viewer(blog: RunningBlog) -> str:
    """A new token that lets its holder look."""
    engine = create_async_engine(blog.databases["orchestrator"].url)
    try:
        async with engine.begin() as connection:
            return await tokens.create(
                connection,
                PLAIN,
                "ann",
                Role.VIEWER,
                now=SystemClock().now(),
                expires_at=None,
                entropy=os.urandom,
            )
    finally:
        await engine.dispose()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_each_page_fits_wide_and_narrow_windows(
    blog: RunningBlog, browser: Browser, tmp_path: Path, dark: bool
) -> None:
    undone = await deletion(blog, held=True)
    await blog.until_ended(undone)
    pages = {
        "list": ("#/sagas", "tr[data-saga]"),
        "saga": (f"#/sagas/{undone}", "tr[data-happening=ended]"),
        "participants": ("#/participants", "table.addresses"),
        "definition": ("#/definitions/delete-article/1", ".start"),
    }
    async with page_of(browser, dark=dark) as watched:
        page = watched.page
        for name, (behind, sign) in pages.items():
            await show(page, blog, behind)
            await page.locator(sign).first.wait_for()
            for width in (1280, 390):
                await page.set_viewport_size({"width": width, "height": 900})
                assert await page.evaluate("document.documentElement.scrollWidth") == width, name
                picture = tmp_path / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                await page.screenshot(path=picture)
                assert picture.stat().st_size > 5_000
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(ground[4:].split(",")[0]) < 64) is dark, ground
        watched.assert_clean()
