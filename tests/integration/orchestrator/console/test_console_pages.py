"""The console's pages in a real Chromium, in front of answers that the test writes down."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.support.orchestrator.stub_api import (
    EMPTY,
    Asked,
    Says,
    StubApi,
    problem,
    put,
    run_of,
    step_of,
)
from tests.support.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

LARGE = 1234567890123456789


# The list


async def test_a_page_that_no_person_sees_asks_for_nothing(
    page: Page, api: StubApi, origin: str
) -> None:
    await page.clock.install()
    await page.goto(f"{origin}/console")
    await expect(page.get_by_text("Nothing was started yet")).to_be_visible()
    # Its clock goes on beside that, so that there may be more looks.
    await page.clock.run_for(2_000)
    await until(lambda: api.count("GET /sagas") >= 2)
    await page.clock.run_for(2_000)
    await until(lambda: api.count("GET /sagas") >= 3)
    await hide(page, True)
    before = await asked_until_now(page, api)
    await page.clock.run_for(20_000)
    assert await asked_until_now(page, api) == before
    await hide(page, False)
    await until(lambda: api.count("GET /sagas") > before)


async def asked_until_now(page: Page, api: StubApi) -> int:
    """How often the page has asked for the list."""
    before = api.count("GET /last")
    # What was asked for before this one has come in before it.
    await page.evaluate("fetch('last').then(() => null)")
    assert api.count("GET /last") == before + 1
    return api.count("GET /sagas")


async def hide(page: Page, hidden: bool) -> None:
    """Let the page believe that no person, or a person, sees it."""
    await page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


async def test_older_runs_are_a_page_further(page: Page, api: StubApi, origin: str) -> None:
    def pages(asked: Asked) -> Says:
        if "cursor" in asked.query:
            return Says({"items": [run_of("first")], "next_cursor": None})
        return Says({"items": [run_of("second")], "next_cursor": "behind second"})

    api.answers["GET /sagas"] = pages
    await page.goto(f"{origin}/console")
    await page.get_by_role("button", name="Older").click()
    await expect(page.locator("tr[data-saga=first]")).to_be_visible()
    assert api.last("GET /sagas").query["cursor"] == ["behind second"]
    await expect(page.get_by_role("button", name="Older")).to_be_disabled()
    await page.get_by_role("button", name="Newer").click()
    await expect(page.locator("tr[data-saga=second]")).to_be_visible()


async def test_a_run_in_whose_way_something_is_says_so_in_the_list(
    page: Page, api: StubApi, origin: str
) -> None:
    runs = [
        run_of("01c", waits_for="participant"),
        run_of("01b", waits_for="answer"),
        run_of("01a", waits_for="a new word"),
    ]
    api.answers["GET /sagas"] = Says({"items": runs, "next_cursor": None})
    await page.goto(f"{origin}/console")
    await expect(page.locator("[data-waits]")).to_have_text(["no answer"])
    await expect(page.locator("tr[data-saga='01c'] [data-waits]")).to_have_count(1)


async def test_a_run_in_the_list_tells_its_step_and_why_it_does_not_go_on(
    page: Page, api: StubApi, origin: str
) -> None:
    runs = [
        run_of(
            "01c", status="STUCK", waits_for="operator", step="pay", reason="refused: <b>no</b>"
        ),
        run_of("01b", parked="no such code", reason="no such code"),
        run_of("01a", status="COMPLETED"),
    ]
    api.answers["GET /sagas"] = Says({"items": runs, "next_cursor": None})
    await page.goto(f"{origin}/console")
    where = page.locator("tr[data-saga] .where")
    await expect(where).to_have_text(["pay · refused: <b>no</b>", "no such code"])
    await expect(where.first).to_have_attribute("title", "pay · refused: <b>no</b>")


COUNTS = [
    {"status": "RUNNING", "runs": 999, "has_more": True},
    {"status": "STUCK", "runs": 2, "has_more": False},
    {"status": "COMPLETED", "runs": 0, "has_more": False},
]


async def test_each_status_tells_how_many_runs_have_it_and_that_there_are_more(
    page: Page, api: StubApi, origin: str
) -> None:
    api.answers["GET /sagas/counts"] = Says({"items": COUNTS})
    await page.goto(f"{origin}/console")
    await expect(page.locator(".chip .count")).to_have_text(["999+", "2", "0"])
    await expect(page.get_by_role("button", name="Stuck 2")).to_be_visible()
    # They are of all runs, so they say nothing of one definition's.
    await page.goto(f"{origin}/console#/sagas?name=place-order")
    await until(lambda: api.last("GET /sagas").query.get("name") == ["place-order"])
    await expect(page.locator(".chip .count")).to_have_count(0)


async def test_a_list_without_counts_is_still_a_list(page: Page, api: StubApi, origin: str) -> None:
    api.answers["GET /sagas"] = Says({"items": [run_of()], "next_cursor": None})
    await page.goto(f"{origin}/console")
    await until(lambda: api.count("GET /sagas/counts") >= 1)
    await expect(page.locator("tr[data-saga]")).to_have_count(1)
    await expect(page.locator(".trouble")).to_have_count(0)


async def test_filters_are_asked_of_the_api_and_what_is_typed_outlives_a_look(
    page: Page, api: StubApi, origin: str
) -> None:
    await page.clock.install()
    await page.goto(f"{origin}/console#/sagas?status=STUCK&status=RUNNING&name=place-order")
    await until(lambda: api.count("GET /sagas") >= 1)
    query = api.last("GET /sagas").query
    assert (query["status"], query["name"]) == (["STUCK", "RUNNING"], ["place-order"])
    await page.get_by_label("Key").press_sequentially("order")
    await expect(page.locator(".empty")).to_contain_text("No saga fits")
    api.answers["GET /sagas"] = Says({"items": [run_of()], "next_cursor": None})
    await page.clock.run_for(2_000)
    await expect(page.locator("tr[data-saga]")).to_have_count(1)
    await expect(page.get_by_label("Key")).to_have_value("order")
    await expect(page.get_by_label("Key")).to_be_focused()
    await page.keyboard.press("Enter")
    await until(lambda: api.last("GET /sagas").query.get("key") == ["order"])


# Dead letters, definitions


def letter_of(id: str, **fields: Any) -> dict[str, Any]:
    """A dead letter as GET /dead-letters shows it."""
    return {
        **{"id": id, "destination": "comments", "type": "articles.published.v1", "key": "a"},
        **{"payload": "{}", "saga": None, "reason": "503", "attempts": 9},
        **{"occurred_at": "2030-01-01T12:00:00Z", "died_at": "2030-01-02T12:00:00Z"},
        **fields,
    }


async def test_older_letters_are_a_page_further(page: Page, api: StubApi, origin: str) -> None:
    def pages(asked: Asked) -> Says:
        if "cursor" in asked.query:
            return Says({"items": [letter_of("1")], "next_cursor": None})
        return Says({"items": [letter_of("2")], "next_cursor": "behind 2"})

    api.answers["GET /dead-letters"] = pages
    await page.goto(f"{origin}/console#/dead-letters")
    await expect(page.get_by_role("button", name="Newer")).to_be_disabled()
    await page.get_by_role("button", name="Older").click()
    await expect(page.locator("tr[data-letter='1']")).to_be_visible()
    assert api.last("GET /dead-letters").query["cursor"] == ["behind 2"]
    await expect(page.get_by_text("Page 2")).to_be_visible()
    await expect(page.get_by_role("button", name="Older")).to_be_disabled()
    await page.get_by_role("button", name="Newer").click()
    await expect(page.locator("tr[data-letter='2']")).to_be_visible()


async def test_a_dead_letter_is_sent_again_and_a_refusal_is_shown(
    page: Page, api: StubApi, origin: str
) -> None:
    letter, of_saga = letter_of("7"), letter_of("8", saga="01a")
    api.answers["GET /dead-letters"] = Says({"items": [letter, of_saga], "next_cursor": None})
    api.answers["POST /dead-letters/redrive"] = problem(409, "not now", "wait a little")
    await page.goto(f"{origin}/console#/dead-letters")
    await expect(page.locator("tr[data-letter='8'] a")).to_have_attribute(
        "href", "/console/sagas/01a"
    )
    redrive = page.get_by_role("button", name="Redrive")
    await redrive.click()
    await expect(page.get_by_text("wait a little")).to_be_visible()

    def redriven(_: Asked) -> Says:
        # Not before: a look between would take the button away.
        api.answers["GET /dead-letters"] = EMPTY
        return Says({"redriven": 1})

    api.answers["POST /dead-letters/redrive"] = redriven
    await redrive.click()
    await expect(page.get_by_text("No message was given up")).to_be_visible()
    asked = api.last("POST /dead-letters/redrive").body
    assert asked == {"ids": ["7"], "destination": "comments"}


async def test_a_definition_starts_with_the_fields_that_its_schema_asks_for(
    page: Page, api: StubApi, origin: str
) -> None:
    schema = {
        "required": ["order_id", "count"],
        "properties": {"order_id": {"type": "string"}, "count": {"type": "integer"}, "total": {}},
    }
    api.answers["GET /definitions/place-order/1"] = Says(
        {
            **{"name": "place-order", "version": 1, "fingerprint": "f", "one_active": True},
            **{"participants": ["stock"], "input": schema},
            "steps": [{**step_of("reserve"), "deadline": 300.0}],
        }
    )
    api.answers["POST /sagas/place-order"] = Says(run_of(), 202)
    put(api, run_of(steps=[step_of("reserve")]))
    await page.goto(f"{origin}/console#/definitions/place-order/1")
    await expect(page.get_by_text("5 min")).to_be_visible()
    await page.get_by_role("button", name="Start place-order").click()
    await page.wait_for_url("**/console/sagas/01a")
    started = api.last("POST /sagas/place-order")
    assert started.body == {"order_id": "", "count": 0}
    assert len(started.headers["idempotency-key"]) == 32


async def test_the_addresses_of_each_participant_are_shown_with_how_they_stand(
    page: Page, api: StubApi, origin: str
) -> None:
    def address(port: int, state: str, reason: str = "") -> dict[str, object]:
        counts = {"priority": 0, "weight": 1, "requests": port, "failures": 0, "retry_in": 0.0}
        return {"address": f"http://one:{port}", "state": state, "reason": reason, **counts}

    several = {
        **{"name": "comments", "source": "http+srv://_c._tcp.test", "database": "id-7"},
        "trouble": "the name server gives no answer",
        "addresses": [
            address(8002, "usable"),
            address(8003, "ejected", "connection refused"),
            address(8004, "stranger", "works on the database id-8"),
        ],
    }
    api.answers["GET /participants"] = Says({"items": [several]})
    await page.goto(f"{origin}/console/participants")
    rows = page.locator("table.addresses tbody tr")
    await expect(rows).to_have_count(3)
    await expect(rows.nth(0)).to_contain_text("usable")
    await expect(rows.nth(1)).to_contain_text("connection refused")
    await expect(rows.nth(2)).to_contain_text("another database")
    await expect(page.get_by_text("the name server gives no answer")).to_be_visible()
    await expect(page.get_by_text("id-7")).to_be_visible()


# Who looks, and how


async def test_a_token_is_asked_for_and_the_page_goes_on(
    page: Page, api: StubApi, origin: str
) -> None:
    closed = problem(401, "who are you?", "show a token")
    api.answers["GET /sagas"] = closed

    def trade(asked: Asked) -> Says:
        if asked.body != {"token": "right"}:
            return problem(401, "that token opens nothing", "make one")
        put(api, run_of())
        return Says({}, 201)

    api.answers["POST /session"] = trade
    await page.goto(f"{origin}/console")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("Token")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(dialog.get_by_label("Token")).to_be_focused()
    await dialog.get_by_label("Token").fill("wrong")
    await dialog.get_by_role("button", name="Sign in").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("that token opens nothing")
    await dialog.get_by_label("Token").fill("right")
    await page.keyboard.press("Enter")
    await expect(page.locator("tr[data-saga='01a']")).to_be_visible()
    await expect(dialog).to_have_count(0)
    kept = await page.evaluate("JSON.stringify({ ...localStorage, ...sessionStorage })")
    assert "right" not in kept

    def close(_: Asked) -> Says:
        # Not before: after a look between, the dialog would lie over the button.
        api.answers["GET /sagas"] = closed
        return Says(status=204, text="")

    api.answers["DELETE /session"] = close
    await page.get_by_role("button", name="Sign out").click()
    await expect(dialog.get_by_label("Token")).to_be_visible()
    assert api.count("DELETE /session") == 1


async def test_the_chosen_colours_are_kept(page: Page, api: StubApi, origin: str) -> None:
    async def ground() -> Any:
        return await page.evaluate("getComputedStyle(document.body).backgroundColor")

    await page.goto(f"{origin}/console")
    light = await ground()
    await page.get_by_label("Colours").select_option("dark")
    dark = await ground()
    assert dark != light
    await page.reload()
    await expect(page.get_by_label("Colours")).to_have_value("dark")
    assert await ground() == dark
    await page.get_by_label("Colours").select_option("")
    assert await ground() == light


async def test_an_integer_beyond_what_javascript_counts_is_sent_as_it_was_typed(
    page: Page, api: StubApi, origin: str
) -> None:
    schema = {"required": ["account"], "properties": {"account": {"type": "integer"}}}
    api.answers["GET /definitions/place-order/1"] = Says(
        {
            **{"name": "place-order", "version": 1, "fingerprint": "f", "one_active": True},
            **{"participants": ["stock"], "input": schema, "steps": []},
        }
    )
    api.answers["POST /sagas/place-order"] = Says(run_of(), 202)
    put(api, run_of(state={"account": LARGE}))
    await page.goto(f"{origin}/console#/definitions/place-order/1")
    field = page.get_by_label("Input, as JSON")
    await field.fill(f'{{"account": {LARGE}, "rate": 1.0}}')
    await page.get_by_role("button", name="Start place-order").click()
    await page.get_by_text("What it knows").click()
    await expect(page.locator("details.state pre")).to_have_text(f'{{\n  "account": {LARGE}\n}}')
    sent = api.last("POST /sagas/place-order").body
    assert (sent["account"], type(sent["rate"])) == (LARGE, float)


async def test_the_result_of_a_skipped_step_is_sent_as_it_was_typed(
    page: Page, api: StubApi, origin: str
) -> None:
    put(api, run_of(status="STUCK", allowed=["skip"], steps=[step_of("pay", "STUCK")]))
    api.answers["POST /sagas/01a/skip"] = Says({})
    await page.goto(f"{origin}/console/sagas/01a")
    await page.get_by_role("button", name="Skip…").click()
    await page.get_by_label("Result, as JSON").fill(f'{{"receipt": {LARGE}}}')
    await page.get_by_label("Reason").fill("it was paid")
    await page.get_by_role("button", name="Skip", exact=True).click()
    await until(lambda: api.count("POST /sagas/01a/skip") == 1)
    assert api.last("POST /sagas/01a/skip").body["result"] == {"receipt": LARGE}
