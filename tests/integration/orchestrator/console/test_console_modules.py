"""The console's modules that turn values into values, run where they run: in Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from fastapi import FastAPI
from playwright.async_api import Page

from orchestrator import console
from tests.support.http.browser import page_of, started
from tests.support.http.servers import serving
from tests.support.orchestrator.stub_api import EMPTY, StubApi

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

Steps = list[dict[str, Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """The console; its modules can be imported there."""
    app = FastAPI()
    app.include_router(console.router())
    async with (
        started(tmp_path_factory.mktemp("profile")) as browser,
        serving(app) as origin,
        page_of(browser) as watched,
    ):
        await StubApi({"GET /sagas": EMPTY, "GET /definitions": EMPTY}).attach(watched.page)
        await watched.page.goto(f"{origin}/console")
        yield watched.page


async def call(page: Page, module: str, function: str, *arguments: Any) -> Any:
    """What a function of a module returns."""
    return await page.evaluate(
        """async ([module, name, given]) => {
            const answer = (await import(`/console/${module}`))[name](...given);
            return answer instanceof Map ? Object.fromEntries(answer) : answer;
        }""",
        [module, function, list(arguments)],
    )


def steps(**after: str) -> Steps:
    """Steps by name with what they wait for, such as `c="a b"`; those in capitals have no undo."""
    return [
        {"name": name, "after": needed.split(), "compensation": None if name.isupper() else "undo"}
        for name, needed in after.items()
    ]


def overlapping(boxes: list[dict[str, float]], width: float, height: float) -> int:
    """How many pairs of boxes of that size overlap."""
    return sum(
        abs(one["x"] - two["x"]) < width and abs(one["y"] - two["y"]) < height
        for number, one in enumerate(boxes)
        for two in boxes[:number]
    )


async def test_steps_that_wait_stand_to_the_right_of_what_they_wait_for(page: Page) -> None:
    laid = await call(page, "parts/layout.js", "layout", steps(a="", b="a", c="a", D="b c", E="D"))
    columns = {it["name"]: it["column"] for it in laid["nodes"]}
    assert columns == {"a": 0, "b": 1, "c": 1, "D": 2, "E": 3}
    at = {it["name"]: it for it in laid["nodes"]}
    assert at["a"]["x"] < at["b"]["x"] == at["c"]["x"] < at["D"]["x"] < at["E"]["x"]
    assert overlapping(laid["nodes"], 216, 68) == 0
    everything = [*laid["nodes"], *laid["undos"]]
    assert all(0 <= it["x"] <= laid["width"] - 216 for it in everything)
    assert all(0 <= it["y"] <= laid["height"] - 50 for it in everything)


async def test_what_undoes_a_step_stands_beneath_it_and_runs_against_the_order(page: Page) -> None:
    laid = await call(page, "parts/layout.js", "layout", steps(a="", B="a", c="B", D="c"))
    at = {it["name"]: it for it in laid["nodes"]}
    assert [it["name"] for it in laid["undos"]] == ["a", "c"]
    for undo in laid["undos"]:
        assert undo["x"] == at[undo["name"]]["x"]
        assert undo["y"] >= at[undo["name"]]["y"] + 68
    # B has nothing to undo, and is passed over.
    assert [(it["from"], it["to"]) for it in laid["undoEdges"]] == [("c", "a")]
    (back,) = laid["undoEdges"]
    assert back["points"][0]["x"] > back["points"][-1]["x"]


async def test_what_is_waited_for_through_another_step_is_not_drawn_twice(page: Page) -> None:
    needed = await call(
        page, "parts/layout.js", "reduced", steps(a="", b="a", C="a b", D="a b C gone")
    )
    assert needed == {"a": [], "b": ["a"], "C": ["b"], "D": ["C"]}


async def test_a_long_edge_gets_a_way_of_its_own_around_the_steps_between(page: Page) -> None:
    graph = steps(a="", b="", c="b", d="c", E="a d")
    laid = await call(page, "parts/layout.js", "layout", graph)
    at = {it["name"]: it for it in laid["nodes"]}
    (edge,) = [it for it in laid["edges"] if it["from"] == "a"]
    between = [it for it in edge["points"] if at["c"]["x"] <= it["x"] <= at["d"]["x"] + 216]
    assert between
    for point in between:
        for name in ("c", "d"):
            assert not at[name]["y"] <= point["y"] <= at[name]["y"] + 68


async def test_a_circle_and_an_empty_graph_are_laid_out_too(page: Page) -> None:
    """The orchestrator takes no circle; a page must not hang where it is told one."""
    laid = await call(page, "parts/layout.js", "layout", steps(a="b", b="a"))
    assert len(laid["nodes"]) == 2
    assert (await call(page, "parts/layout.js", "layout", []))["nodes"] == []


async def test_events_are_read_over_any_cut_and_comments_are_none(page: Page) -> None:
    text = ': alive\n\nevent: sent\ndata: {"a": 1}\nid: 1\n\ndata: x\ndata: y\n\nid: 3\n'
    read = await call(page, "core/stream.js", "parse", text)
    assert read["events"] == [
        {"event": "sent", "data": '{"a": 1}', "id": "1"},
        {"data": "x\ny"},
    ]
    assert read["rest"] == "id: 3\n"
    assert (await call(page, "core/stream.js", "parse", "data: x\r\n\r\n"))["events"] == [
        {"data": "x"}
    ]


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(420, "0.4 s"), (12_900, "12 s"), (185_000, "3 min 5 s"), (7_440_000, "2 h 4 min")],
)
async def test_a_span_is_told_in_its_two_largest_units(
    page: Page, milliseconds: int, words: str
) -> None:
    assert await call(page, "parts/words.js", "span", 0, milliseconds) == words


async def test_a_request_is_sent_again_after_a_sign_in_but_not_for_ever(page: Page) -> None:
    told = await page.evaluate(
        """async () => {
            const api = await import("/console/core/api.js");
            const session = await import("/console/core/session.js");
            const real = window.fetch;
            let sent = 0, asked = 0;
            window.fetch = async () => {
                sent += 1;
                return new Response(JSON.stringify({ detail: "who?" }), { status: 401 });
            };
            api.signInBy(async () => { asked += 1; });
            try {
                await api.send(api.address(["sagas"]));
            } catch (error) {
                return { sent, asked, status: error.status, detail: error.message };
            } finally {
                window.fetch = real;
                api.signInBy(session.signIn);
            }
        }"""
    )
    assert told == {"sent": 4, "asked": 3, "status": 401, "detail": "who?"}


@pytest.mark.parametrize(
    "text",
    [
        '{"account":1234567890123456789,"amount":10.10}',
        "[9007199254740993,-9223372036854775808,0.1234567890123456789,1e400]",
        '{"1234567890123456789":"1234567890123456789 \\" 10.10","n":[[18446744073709551615]]}',
        "[1,1.5,true,null]",
    ],
)
async def test_numbers_stay_as_they_are_written(page: Page, text: str) -> None:
    both = await page.evaluate(
        """async (text) => {
            const json = await import("/console/core/json.js");
            return [json.write(json.readTyped(text)), json.write(json.read(text))];
        }""",
        text,
    )
    assert both[0] == text
    assert both[1] == text.replace("10.10}", "10.1}")


async def test_what_is_no_json_is_refused_with_its_place(page: Page) -> None:
    for text in ("{", "[01]", "[1234567890123456789,]", "nonsense", ""):
        error = await page.evaluate(
            """async (text) => {
                const json = await import("/console/core/json.js");
                try { json.readTyped(text); } catch (error) { return error.name; }
            }""",
            text,
        )
        assert error == "SyntaxError", text
