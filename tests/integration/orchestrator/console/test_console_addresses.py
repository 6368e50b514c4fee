"""Each page of the console has an address of its own, in the browser and behind a proxy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from playwright.async_api import Page, expect

from orchestrator import console
from outbox.chassis.http.middleware import SecurityHeaders
from outbox.chassis.http.proxied import Prefixed
from tests.support.http.browser import Watched
from tests.support.http.nginx import Passing, passing_on
from tests.support.http.servers import serving
from tests.support.orchestrator.stub_api import EMPTY, Says, StubApi, put, run_of, step_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


async def test_a_saga_has_an_address_that_can_be_loaded_again_and_left_and_come_back_to(
    page: Page, watched: Watched, api: StubApi, origin: str
) -> None:
    put(api, run_of(steps=[step_of("ship", "SENT")]))
    await page.goto(f"{origin}/console/sagas/01a")
    await expect(page.locator("h1")).to_contain_text("place-order")
    await page.reload()
    await expect(page.locator("h1")).to_contain_text("place-order")
    await page.get_by_role("link", name="All sagas").click()
    await page.wait_for_url("**/console/sagas")
    await expect(page.locator("#content")).to_be_focused()
    await page.locator("td.main a").click()
    await page.wait_for_url("**/console/sagas/01a")
    await page.go_back()
    await expect(page.locator("tr[data-saga='01a']")).to_be_visible()
    await page.go_forward()
    await expect(page.locator("h1")).to_contain_text("place-order")
    watched.assert_clean()


async def test_the_icon_is_looked_for_at_one_place_on_every_page(
    page: Page, api: StubApi, origin: str
) -> None:
    put(api, run_of())
    await page.goto(f"{origin}/console")
    await page.locator("td.main a").click()
    await page.wait_for_url("**/console/sagas/01a")
    icon = await page.locator("link[rel=icon]").evaluate("link => link.href")
    assert icon == f"{origin}/console/icon.svg"


async def test_a_link_of_before_leads_to_the_page_and_gets_its_new_address(
    page: Page, api: StubApi, origin: str
) -> None:
    put(api, run_of(steps=[step_of("ship", "SENT")]))
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator("h1")).to_contain_text("place-order")
    assert page.url == f"{origin}/console/sagas/01a"


async def test_a_link_opens_in_a_tab_of_its_own_where_that_is_asked_for(
    page: Page, api: StubApi, origin: str
) -> None:
    put(api, run_of())
    await page.goto(f"{origin}/console")
    async with page.context.expect_page() as opened:
        await page.locator("td.main a").click(modifiers=["ControlOrMeta"])
    assert (await opened.value).url == f"{origin}/console/sagas/01a"
    assert page.url == f"{origin}/console"


async def test_each_page_has_a_title_and_that_of_a_saga_says_how_it_stands(
    page: Page, api: StubApi, origin: str
) -> None:
    put(api, run_of(status="STUCK", steps=[step_of("pay", "STUCK")]))
    api.answers["GET /definitions/place-order/1"] = Says(
        {
            **{"name": "place-order", "version": 1, "fingerprint": "f", "one_active": True},
            **{"participants": ["stock"], "input": {}, "steps": []},
        }
    )
    for address, title in {
        "": "Sagas",
        "/sagas": "Sagas",
        "/sagas/01a": "Stuck: place-order, order 7",
        "/definitions": "Definitions",
        "/definitions/place-order/1": "place-order v1",
        "/participants": "Participants",
        "/dead-letters": "Dead letters",
    }.items():
        await page.goto(f"{origin}/console{address}")
        await expect(page).to_have_title(f"{title} · Sagabox")


async def test_why_a_saga_is_stuck_stands_above_all_else(
    page: Page, api: StubApi, origin: str
) -> None:
    stuck = step_of("pay", "STUCK", reason="the card was eaten")
    put(api, run_of(status="STUCK", steps=[step_of("reserve", "DONE"), stuck]))
    await page.goto(f"{origin}/console/sagas/01a")
    headline = page.locator("[data-stuck=pay]")
    await expect(headline).to_have_text(re.compile("Stuck at pay: the card was eaten"))
    below = await page.locator("dl.facts").bounding_box()
    above = await headline.bounding_box()
    assert above is not None
    assert below is not None
    assert above["y"] < below["y"]


async def test_only_pages_and_files_have_an_address(page: Page, origin: str) -> None:
    for path in ("/nothing", "/sagas/01a/more/and/more", "/sagas//", "/index.html"):
        answer = await page.request.get(f"{origin}/console{path}")
        assert answer.status == 404, path


@pytest.mark.parametrize("keeps_prefix", [True, False], ids=["kept", "taken off"])
async def test_all_of_it_works_below_a_prefix_of_a_proxy(
    page: Page, watched: Watched, tmp_path: Path, keeps_prefix: bool
) -> None:
    app = FastAPI()
    app.include_router(console.router())
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Prefixed, prefix="/shop")
    run = run_of(steps=[step_of("ship", "SENT")])
    stub = StubApi(
        {
            "GET /shop/sagas": Says({"items": [run], "next_cursor": None}),
            "GET /shop/sagas/01a": Says(run),
            "GET /shop/definitions": EMPTY,
        }
    )
    await stub.attach(page)
    passing = Passing(prefix="/shop", keeps_prefix=keeps_prefix)
    async with (
        serving(app) as address,
        passing_on({"orchestrator": address}, tmp_path / "nginx", passing) as urls,
    ):
        home = f"{urls['orchestrator']}/shop/console"
        await page.goto(home)
        await page.locator("td.main a").click()
        await page.wait_for_url(f"{home}/sagas/01a")
        await page.reload()
        await expect(page.locator("h1")).to_contain_text("place-order")
        await expect(page.locator(".brand img")).to_have_js_property("complete", True)
        assert await page.locator(".brand img").evaluate("image => image.naturalWidth > 0")
        await page.goto(f"{home}/")
        await page.wait_for_url(home)
    assert stub.count("GET /shop/sagas/01a") >= 2
