"""The console's page of one saga in Chromium: its graph, its history, and what a person may do."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Route, expect

from tests.support.http.browser import Watched
from tests.support.orchestrator.stub_api import (
    Asked,
    Says,
    StubApi,
    events,
    line_of,
    problem,
    put,
    run_of,
    step_of,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

HOSTILE = "<img src=x onerror=alert(1)><b>bold</b>"


async def test_what_the_server_tells_is_text_and_never_markup(
    page: Page, watched: Watched, api: StubApi, origin: str
) -> None:
    step = step_of(HOSTILE, "STUCK", reason=HOSTILE, compensation=HOSTILE, participant=HOSTILE)
    told = dict.fromkeys(("name", "key", "parked", "originator"), HOSTILE)
    run = run_of("01a", **told, steps=[step], state={"it": HOSTILE}, not_undone=[HOSTILE])
    put(api, run, line_of(1, HOSTILE, detail=HOSTILE, step=HOSTILE, actor=HOSTILE))
    await page.goto(f"{origin}/console")
    await expect(page.locator("td.main")).to_contain_text(HOSTILE)
    await page.locator("td.main a").click()
    await expect(page.locator(".history tbody")).to_contain_text(HOSTILE)
    await expect(page.locator("h1")).to_contain_text(HOSTILE)
    await expect(page.locator("img:not(.brand img), main b")).to_have_count(0)
    watched.assert_clean()


async def test_a_stream_that_ends_early_goes_on_behind_the_last_line(
    page: Page, api: StubApi, origin: str
) -> None:
    """Even where the saga is known to have ended meanwhile: nothing of its history is left out."""
    steps = [step_of("ship", "DONE")]
    ended = run_of(status="COMPLETED", ended_at="2030-01-01T12:00:02Z", steps=steps)

    def told(asked: Asked) -> Says:
        if asked.headers["last-event-id"] == "0":
            api.answers["GET /sagas/01a"] = Says(ended)
            return events(line_of(1), line_of(2))
        # One line of the old ones comes again: it is shown once.
        return events(line_of(2), line_of(3, "ended"))

    put(api, run_of(steps=[step_of("ship", "SENT")]))
    api.answers["GET /sagas/01a/events"] = told
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator("[data-link]")).to_have_attribute("data-link", "over")
    numbers = await page.locator("tr[data-happening] td:first-child").all_inner_texts()
    assert numbers == ["1", "2", "3"]
    assert api.last("GET /sagas/01a/events").headers["last-event-id"] == "2"
    await expect(page.locator("[data-step=ship]")).to_contain_text("Done")


async def test_a_history_that_was_removed_is_not_shown_as_one_of_which_nothing_is_known(
    page: Page, api: StubApi, origin: str
) -> None:
    removed = {"at": "2030-01-31T12:00:00Z", "place": "/archive", "file": "histories/x"}
    ended = {"status": "COMPLETED", "ended_at": "2030-01-01T12:00:02Z"}
    put(api, run_of(**ended, history_removed=removed))
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator(".facts")).to_contain_text("removed by retention")
    await expect(page.locator(".facts")).to_contain_text("histories/x in /archive")
    await expect(page.locator("main")).to_contain_text("Retention removed what happened before")
    await expect(page.locator("main")).not_to_contain_text("Nothing is known yet")


async def test_a_saga_that_the_orchestrator_does_not_know_yet_is_looked_for_again(
    page: Page, api: StubApi, origin: str
) -> None:
    await page.clock.install()
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.get_by_role("alert")).to_contain_text(["", "look elsewhere"])
    put(api, run_of(steps=[step_of("ship", "SENT")]), line_of(1))
    await page.clock.run_for(2_000)
    await expect(page.locator("[data-step=ship]")).to_contain_text("Sent")
    await expect(page.locator(".trouble")).to_have_count(0)


async def test_skipping_asks_for_the_step_and_sends_its_result_as_json(
    page: Page, api: StubApi, origin: str
) -> None:
    steps = [step_of("reserve", "DONE"), step_of("ship", "STUCK", after=["reserve"])]
    put(api, run_of(status="STUCK", steps=steps, allowed=["retry", "skip", "resolve"]))
    api.answers["POST /sagas/01a/skip"] = Says(run_of(), 202)
    await page.goto(f"{origin}/console#/sagas/01a")
    await page.get_by_role("button", name="Skip").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("Reason")).to_be_focused()
    assert await dialog.get_by_label("Step").inner_text() == "ship"
    await dialog.get_by_label("Reason").fill("handed over")
    await dialog.get_by_label("Result").fill("{parcel: 7}")
    await dialog.get_by_role("button", name="Skip").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("The result is no JSON")
    assert api.count("POST /sagas/01a/skip") == 0
    await dialog.get_by_label("Result").fill('{"parcel": 7}')
    await dialog.get_by_role("button", name="Skip").click()
    await expect(dialog).to_have_count(0)
    assert api.last("POST /sagas/01a/skip").body == {
        "reason": "handed over",
        "actor": "console",
        "step": "ship",
        "result": {"parcel": 7},
    }


async def test_who_is_signed_in_need_not_say_who_asks(
    page: Page, api: StubApi, origin: str
) -> None:
    put(api, run_of(allowed=["pause"], steps=[step_of("ship")]))
    listed = api.answers["GET /sagas/01a"]
    api.answers["GET /sagas/01a"] = problem(401, "who are you?", "show a token")

    def trade(_: Asked) -> Says:
        api.answers["GET /sagas/01a"] = listed
        return Says({}, 201)

    api.answers |= {"POST /session": trade, "POST /sagas/01a/pause": Says(run_of(), 202)}
    await page.goto(f"{origin}/console#/sagas/01a")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Token").fill("right")
    await page.keyboard.press("Enter")

    async def pause(behalf: str) -> Any:
        before = api.count("POST /sagas/01a/pause")
        await page.get_by_role("button", name="Pause").click()
        await dialog.get_by_label("Reason").fill("lunch")
        await dialog.get_by_label("On whose behalf").fill(behalf)
        await dialog.get_by_role("button", name="Pause").click()
        await expect(dialog).to_have_count(0)
        assert api.count("POST /sagas/01a/pause") == before + 1
        return api.last("POST /sagas/01a/pause").body

    await page.get_by_role("button", name="Pause").click()
    await expect(dialog.get_by_label("On whose behalf")).to_have_value("")
    await dialog.get_by_role("button", name="Leave it").click()
    assert await pause("") == {"reason": "lunch"}
    assert await pause("ada") == {"reason": "lunch", "actor": "ada"}


async def test_only_what_is_allowed_is_offered(page: Page, api: StubApi, origin: str) -> None:
    put(api, run_of(allowed=["pause", "terminate"], steps=[step_of("ship")]))
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator(".actions button")).to_have_text(["Pause…", "Terminate…"])


async def test_a_step_is_chosen_with_the_keyboard_alone(
    page: Page, api: StubApi, origin: str
) -> None:
    steps = [step_of("reserve", "DONE"), step_of("ship", "SENT", after=["reserve"])]
    put(api, run_of(steps=steps), line_of(1))
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator(".step-facts h3")).to_contain_text("ship")
    await page.locator(".graph").focus()
    await page.keyboard.press("Tab")
    await expect(page.locator("[data-step=reserve]")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".step-facts h3")).to_contain_text("reserve")


async def test_the_compensation_on_which_a_saga_is_stuck_is_marked(
    page: Page, api: StubApi, origin: str
) -> None:
    steps = [step_of("reserve", "STUCK", compensation="stock.release.v1", reason="closed")]
    put(api, run_of(status="STUCK", steps=steps, direction="BACKWARD"))
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator("[data-undoes=reserve]")).to_contain_text("Stuck")


async def test_an_action_on_which_a_saga_is_stuck_leaves_its_compensation_unmarked(
    page: Page, api: StubApi, origin: str
) -> None:
    steps = [step_of("reserve", "STUCK", compensation="stock.release.v1", reason="closed")]
    put(api, run_of(status="STUCK", steps=steps, direction="FORWARD"))
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator("[data-step=reserve]")).to_contain_text("Stuck")
    await expect(page.locator("[data-undoes=reserve]")).to_contain_text("not called")


WAITS = {
    "id": "01c",
    "type": "stock.ship.v1",
    "wait": "answer",
    "sendings": 1,
    "deadline": None,
    "tries": 3,
    "error": f"failed: {HOSTILE}",
    "next_at": "2030-01-01T12:00:09Z",
    "silence": None,
    "pending": None,
}


async def test_a_step_says_what_it_waits_for_and_is_looked_at_again_without_a_new_line(
    page: Page, watched: Watched, api: StubApi, origin: str
) -> None:
    await page.clock.install()
    step = step_of("ship", "SENT", waits_for="retry", awaited=WAITS)
    put(api, run_of(waits_for="retry", steps=[step]))

    async def stay_open(_: Route) -> None:
        """Nothing happens to the run, so that its stream says nothing."""

    await page.route(lambda url: urlsplit(url).path == "/sagas/01a/events", stay_open)
    await page.goto(f"{origin}/console#/sagas/01a")
    told = page.locator(".step-facts")
    await expect(told.locator("[data-waits]")).to_have_text("delivery fails")
    await expect(told).to_contain_text(f"failed: {HOSTILE} 3 in vain")
    silence = {"since": "2030-01-01T12:00:00Z", "deliveries": 7, "reason": "no service listens"}
    silent = step | {"waits_for": "participant", "awaited": WAITS | {"silence": silence}}
    api.answers["GET /sagas/01a"] = Says(run_of(waits_for="participant", steps=[silent]))
    await page.clock.run_for(5_000)
    await expect(told.locator("[data-waits]")).to_have_text("no answer")
    await expect(told).to_contain_text("7 deliveries in a row: no service listens")
    silence["deliveries"] = 1
    await page.clock.run_for(5_000)
    await expect(told).to_contain_text("1 delivery in a row: no service listens")
    watched.assert_clean()


PENDING = {
    "since": "2030-01-01T12:00:00Z",
    "note": HOSTILE,
    "expected_at": "2030-01-03T12:00:00Z",
    "is_late": False,
    "attempt": None,
    "holder": None,
    "until": None,
}


async def test_a_step_whose_answer_comes_later_says_for_whom_it_waits_and_whether_that_is_late(
    page: Page, watched: Watched, api: StubApi, origin: str
) -> None:
    awaited = WAITS | {"wait": "accepted", "tries": 0, "error": None, "pending": PENDING}
    steps = [
        step_of("reserve", "DONE"),
        step_of("ship", "WAITING", waits_for="pending", awaited=awaited, after=["reserve"]),
    ]
    put(api, run_of(waits_for="pending", steps=steps))
    await page.goto(f"{origin}/console#/sagas/01a")
    told = page.locator(".step-facts")
    await expect(page.locator("[data-step=ship]")).to_contain_text("Waiting")
    await expect(told.locator("h3")).to_contain_text("ship")
    await expect(told.locator("[data-waits]")).to_have_text("answer comes later")
    await expect(told).to_contain_text(HOSTILE)
    await expect(told.locator("time[datetime='2030-01-03T12:00:00Z']")).to_have_count(1)
    await expect(told.locator("time[datetime='2030-01-01T12:00:00Z']")).to_have_count(1)
    await expect(told.locator("[data-late]")).to_have_count(0)
    await expect(told).not_to_contain_text("attempt")
    call = {"is_late": True, "attempt": 2, "holder": HOSTILE, "until": "2030-01-01T12:00:40Z"}
    steps[1] = steps[1] | {"awaited": awaited | {"pending": PENDING | call}}
    api.answers["GET /sagas/01a"] = Says(run_of(waits_for="pending", steps=steps))
    await page.reload()
    await expect(told.locator("[data-late]")).to_have_text("has passed")
    await expect(told).to_contain_text(f"attempt 2 by {HOSTILE} until")
    watched.assert_clean()


async def test_an_undo_whose_answer_comes_later_is_shown_beneath_its_step(
    page: Page, api: StubApi, origin: str
) -> None:
    steps = [step_of("ship", "WAITING", waits_for="pending", compensation="stock.undo.v1")]
    put(api, run_of(status="COMPENSATING", direction="BACKWARD", steps=steps))
    await page.goto(f"{origin}/console#/sagas/01a")
    await expect(page.locator("[data-undoes=ship]")).to_contain_text("Waiting")


async def test_the_effects_that_no_run_accounts_for_are_an_alarm(
    page: Page, watched: Watched, api: StubApi, origin: str
) -> None:
    stray = {"step": HOSTILE, "command_id": "01c", "at": "2030-01-03T12:00:00Z"}
    ended = {"status": "COMPENSATED", "ended_at": "2030-01-01T12:00:02Z"}
    put(api, run_of(**ended, steps=[step_of("ship", "UNDONE")], stray_effects=[stray]))
    await page.goto(f"{origin}/console#/sagas/01a")
    alarm = page.locator(".note.tone-alarm")
    await expect(alarm).to_contain_text("Took effect when nothing could undo it any more.")
    await expect(alarm.locator("li")).to_contain_text(HOSTILE)
    await expect(alarm.locator("li .mono")).to_have_text("01c")
    await expect(alarm.locator("time[datetime='2030-01-03T12:00:00Z']")).to_have_count(1)
    watched.assert_clean()
