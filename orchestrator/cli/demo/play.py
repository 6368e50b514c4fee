"""The demo from its first line to its last: the scenes, the audit, the table, and the end."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import typer
from rich.console import Console

from orchestrator.cli.audit.looks import Agreement, compare
from orchestrator.cli.audit.rules import of_the_blog
from orchestrator.cli.demo.checks import Check, Outcome
from orchestrator.cli.demo.crowd import crowded
from orchestrator.cli.demo.deletions import (
    Demo,
    Scene,
    completes,
    concluded,
    refused,
    without_comments,
    without_orchestrator,
)
from orchestrator.cli.demo.narrator import Narrator
from orchestrator.cli.demo.stage import Stage, blog_in, staged
from orchestrator.cli.demo.visitors import Visitors
from orchestrator.cli.demo.waiting import LOOK, PATIENCE
from orchestrator.cli.processes.services import SERVICES
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.ways.way import HTTP, way_named

ARTICLES = 3
COMMENTS = 200

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WIDE = 140  # columns of the table without a terminal
_INTERRUPTED = 130  # what shells call the end by Ctrl-C


async def audited(demo: Demo) -> Outcome:
    """The databases of articles, comments and orchestrator, compared as `sagabox audit` does."""
    title = "the audit"
    demo.narrator.scene(title)
    began = demo.narrator.seconds
    await demo.stage.until_quiet()
    findings = await compare(demo.stage.databases, of_the_blog(), timeout=PATIENCE)
    wrong = [f"{it.id}: {it.wrong.should}" for it in findings.divergences]
    seconds = demo.narrator.seconds - began
    checks = [
        Check("no divergence between articles and comments", [], wrong),
        Check("the audit could tell", Agreement.AGREE.value, findings.agreement.value),
        Check("it saw all articles", True, findings.compared["articles"] >= len(demo.articles)),
        Check("no saga needs a person", [], await demo.visitors.stuck()),
    ]
    how = ", ".join(f"{number} {name}" for name, number in findings.compared.items()) + " compared"
    return concluded(demo, Outcome(title, findings.agreement.value, seconds, how, checks))


SCENES: Sequence[Scene] = (
    completes,
    refused,
    without_comments,
    without_orchestrator,
    crowded,
    audited,
)


def play(folder: Path | None, *, keep: bool, transport: str = HTTP) -> None:
    """Play the scenes in that folder, or in one that is removed at the end; `transport` says how
    the services send to each other.

    Raises CommandError where a check did not hold or something did not come, typer.Exit where it
    was interrupted.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDE
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = asyncio.run(_played(folder.resolve(), console, keep, transport))
    else:
        with tempfile.TemporaryDirectory(prefix="sagabox-demo-") as made:
            outcomes = asyncio.run(_played(Path(made), console, keep, transport))
    if outcomes is None:
        console.print("interrupted; no service runs any more")
        raise typer.Exit(_INTERRUPTED)
    require_held(outcomes)


def require_held(outcomes: Sequence[Outcome]) -> None:
    """Raises CommandError, which names what was broken, unless everything was checked and held."""
    broken = [f"{it.scene}: {check}" for it in outcomes for check in it.broken]
    broken += [f"{it.scene}: nothing was checked" for it in outcomes if not it.checks]
    if broken or not outcomes:
        raise CommandError(
            "the demo found a promise broken",
            "; ".join(broken) or "nothing was played",
            LOOK,
            exit_code=ExitCode.OTHERWISE,
        )


async def _played(
    folder: Path, console: Console, keep: bool, transport: str
) -> Sequence[Outcome] | None:
    """Play the scenes; their outcomes, or None where a signal came before the last one was over."""
    outcomes: Sequence[Outcome] | None = None
    _let_a_signal_cancel()
    try:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
            way = stack.enter_context(way_named(transport, folder, "sagabox demo --transport"))
            stage = await stack.enter_async_context(staged(blog_in(folder, way)))
            with Narrator(console) as narrator:
                if way.told is not None:
                    narrator.say(way.told)
                visitors = Visitors(stage.blog, client)
                demo = await _prepared(stage, visitors, narrator)
                played = [await scene(demo) for scene in SCENES]
                narrator.table(played)
            outcomes = played
            if keep:
                await _kept(stage, console)
    except asyncio.CancelledError:
        pass  # it was the signal
    return outcomes


async def _prepared(stage: Stage, visitors: Visitors, narrator: Narrator) -> Demo:
    """Prepare the demo: all services run, and the articles and comments are written."""
    narrator.say(f"starting {', '.join(SERVICES)}, each a process with a database of its own")
    await asyncio.gather(*(stage.start(name) for name in SERVICES))
    narrator.say(f"publishing {ARTICLES} articles; comments hears of them by their events alone")
    numbers = range(1, ARTICLES + 1)
    articles = await visitors.publish_all([f"Article {it}" for it in numbers])
    narrator.say(f"writing {COMMENTS} comments")
    await visitors.write_all(articles, COMMENTS)
    return Demo(stage, visitors, narrator, articles)


async def _kept(stage: Stage, console: Console) -> None:
    """Let everything run until a signal comes, or a service ends."""
    for name in SERVICES:
        console.print(f"{name:12}  {stage.blog.url(name)}", soft_wrap=True)
    console.print(f"console       {stage.blog.url('orchestrator')}/console", soft_wrap=True)
    console.print("everything runs on, until Ctrl-C")
    name = await stage.any_ended()
    console.print(f"{name} has ended, and with it the demo")


def _let_a_signal_cancel() -> None:
    """Let the first signal cancel this task, but not its short end."""
    loop, playing = asyncio.get_running_loop(), asyncio.current_task()
    assert playing is not None

    def interrupt() -> None:
        for number in _SIGNALS:
            loop.add_signal_handler(number, lambda: None)
        playing.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt)
